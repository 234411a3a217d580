//! Which worker has which lanes and devices. They are shared out anew when there
//! are more lanes, or when more or fewer workers are wanted; in between nothing
//! is shared.

use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::partition_for;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Made, Outlet, State, Stop, Worker};
use crate::config::SimulatorConfig;
use crate::lane::Limits;

/// A worker that is busier than this share of its time needs help.
const BUSY: f64 = 0.8;
/// With one fewer, the workers would be busy for less than this share.
const IDLE: f64 = 0.5;

/// Which devices of the fleet a worker has: those of every so many lanes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Lanes of all workers.
    pub lanes: u32,
    /// Workers that have lanes.
    pub workers: usize,
    /// Which of the workers this is; beyond those it has nothing to do.
    pub index: usize,
}

impl Part {
    /// The lane of a device, as the worker counts, if it has that lane.
    pub(super) fn lane(self, device_id: &str) -> Option<usize> {
        let (owner, place) = self.owner(device_id);
        (owner == self.index).then_some(place)
    }

    /// Which worker has the lane of a device, and as which of its lanes.
    fn owner(self, device_id: &str) -> (usize, usize) {
        let lane = partition_for(device_id, self.lanes) as usize;
        (lane % self.workers, lane / self.workers)
    }
}

/// All workers, which make messages side by side.
#[derive(Debug)]
pub(crate) struct Crew {
    makers: JoinSet<(Worker, State, Made)>,
    /// Those that have come back.
    back: Vec<(Worker, State)>,
    stop: Stop,
    /// How many have lanes.
    active: usize,
    /// There is nobody to send to any more.
    closed: bool,
}

impl Crew {
    /// Sets all of them to work.
    pub(crate) fn start(workers: Vec<Worker>, stop: Stop) -> Self {
        let active = workers.first().map_or(1, |worker| worker.part.workers);
        let mut makers = JoinSet::new();
        for worker in workers {
            makers.spawn(worker.run(None, stop.clone()));
        }
        let back = Vec::new();
        Self {
            makers,
            back,
            stop,
            active,
            closed: false,
        }
    }

    /// Workers.
    pub(crate) fn len(&self) -> usize {
        self.makers.len() + self.back.len()
    }

    /// How many of them could have lanes.
    pub(crate) fn most(&self, lanes: usize) -> usize {
        self.len().min(lanes)
    }

    /// How many of them have lanes.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    /// Waits until all have sent everything, or were told to stop. Nothing is lost
    /// when the wait is given up.
    ///
    /// # Errors
    /// One of them panicked.
    pub(crate) async fn ended(&mut self) -> Result<(), JoinError> {
        while let Some(ended) = self.makers.join_next().await {
            let (worker, state, made) = ended?;
            self.back.push((worker, state));
            if made == Made::Closed {
                // There is nobody to send to for the others either.
                self.closed = true;
                self.stop.generate.cancel();
            }
        }
        Ok(())
    }

    /// Tells of the anomalies that will never be over.
    pub(crate) fn end(mut self) {
        for (worker, state) in &mut self.back {
            worker.end(state);
        }
    }

    /// Shares the lanes, those that were `added` behind the others, and the devices
    /// out among the first `active` workers. The order of a device is held unless
    /// its lane is another one now: what it said before may then arrive after what
    /// it says next.
    ///
    /// # Errors
    /// A worker panicked.
    pub(crate) async fn regroup(
        &mut self,
        added: Vec<Outlet>,
        active: usize,
        limits: impl FnOnce(usize) -> Limits,
        config: &Arc<SimulatorConfig>,
    ) -> Result<(), JoinError> {
        self.stop.regroup.cancel();
        self.ended().await?;
        if self.closed {
            return Ok(());
        }
        self.stop.regroup = CancellationToken::new();
        let mut crew = std::mem::take(&mut self.back);
        crew.sort_unstable_by_key(|(worker, _)| worker.part.index);
        for (worker, state) in &mut crew {
            // Then all of them have made their devices up to the same place.
            worker.adopt(state, config.clone());
        }
        let mut outlets = take_outlets(&mut crew, self.active);
        outlets.extend(added);
        let limits = limits(outlets.len());
        let lanes = outlets.iter_mut().map(|outlet| &mut outlet.lane);
        lanes.for_each(|lane| lane.limit(limits));
        self.active = active.clamp(1, crew.len().min(outlets.len()).max(1));
        let due = share_out(&mut crew, outlets, self.active);
        for ((mut worker, mut state), due) in crew.into_iter().zip(due) {
            worker.settle(&mut state, &due);
            self.makers
                .spawn(worker.run(Some(state), self.stop.clone()));
        }
        Ok(())
    }
}

/// All lanes, in their order.
fn take_outlets(crew: &mut [(Worker, State)], active: usize) -> Vec<Outlet> {
    let each = crew.iter_mut();
    let outlets = each.map(|(worker, _)| std::mem::take(&mut worker.outlets).into_iter());
    let mut outlets: Vec<_> = outlets.collect();
    let lanes = (0..).map_while(|lane: usize| outlets[lane % active].next());
    lanes.collect()
}

/// Gives all lanes and devices to the first `active` workers; returns when the
/// devices of each are due.
fn share_out(
    crew: &mut [(Worker, State)],
    outlets: Vec<Outlet>,
    active: usize,
) -> Vec<Vec<Option<Duration>>> {
    let lanes = u32::try_from(outlets.len()).unwrap_or(u32::MAX);
    let mut members = Vec::new();
    for (worker, state) in &mut *crew {
        let due = worker.turns(state);
        members.extend(worker.members.drain(..).zip(due));
        (worker.part.lanes, worker.part.workers) = (lanes, active);
    }
    for (lane, outlet) in outlets.into_iter().enumerate() {
        crew[lane % active].0.outlets.push(outlet);
    }
    // In the order of their places, as everywhere.
    members.sort_unstable_by_key(|(member, _)| member.position);
    let part = crew[0].0.part;
    let mut all_due = vec![Vec::new(); crew.len()];
    for (mut member, due) in members {
        let (owner, place) = part.owner(&member.device.identity.device_id);
        member.lane = place;
        crew[owner].0.members.push(member);
        all_due[owner].push(due);
    }
    all_due
}

/// Finds out how many workers are needed from how busy they are.
#[derive(Debug)]
pub(crate) struct Autoscale {
    since: Instant,
    busy: f64,
}

impl Autoscale {
    /// How often to look.
    pub(crate) const EVERY: Duration = Duration::from_secs(1);

    /// For workers that have not done anything yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            busy: 0.0,
        }
    }

    /// How many are wanted instead of `active`, up to `most`, when they have been
    /// busy for so many seconds in all.
    pub(crate) fn wanted(&mut self, active: usize, most: usize, busy: f64, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        let used = (busy - self.busy) / passed.max(f64::MIN_POSITIVE);
        (self.since, self.busy) = (now, busy);
        if used > BUSY * active as f64 {
            (active + 1).min(most)
        } else if active > 1 && used < IDLE * (active - 1) as f64 {
            active - 1
        } else {
            active
        }
    }
}
