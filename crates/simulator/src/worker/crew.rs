//! Assigns lanes and devices to workers. They are reassigned when lanes are added or
//! the number of workers changes; in between, workers share nothing.

use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::partition_for;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::throttle::hold_again;
use super::{Exit, LaneHandle, State, Stop, Worker};
use crate::config::SimulatorConfig;
use crate::lane::Limits;

/// A worker is added when workers are busy for more than this share of their time.
const BUSY: f64 = 0.8;
/// A worker is removed when the others would be busy for less than this share.
const IDLE: f64 = 0.5;

/// Which lanes, and so which devices, a worker has: lane n belongs to worker n modulo the
/// number of workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Assignment {
    /// Number of lanes of all workers.
    pub lanes: u32,
    /// Number of workers that have lanes.
    pub workers: usize,
    /// Index of this worker; from `workers` on, it has no lanes.
    pub index: usize,
}

impl Assignment {
    /// Index of a device's lane among the lanes of this worker, if it has the lane.
    pub(super) fn lane(self, device_id: &str) -> Option<usize> {
        let (owner, index) = self.owner(device_id);
        (owner == self.index).then_some(index)
    }

    /// The worker of a device's lane, and the lane's index among those of the worker.
    fn owner(self, device_id: &str) -> (usize, usize) {
        let lane = partition_for(device_id, self.lanes) as usize;
        (lane % self.workers, lane / self.workers)
    }
}

/// All workers, which run in parallel.
#[derive(Debug)]
pub(crate) struct Crew {
    running: JoinSet<(Worker, State, Exit)>,
    /// Workers that have returned.
    pub(super) returned: Vec<(Worker, State)>,
    pub(super) stop: Stop,
    /// Number of workers that have lanes.
    active: usize,
    /// The sink is permanently gone.
    closed: bool,
}

impl Crew {
    /// Starts all workers.
    pub(crate) fn start(workers: Vec<Worker>, stop: Stop) -> Self {
        let active = workers
            .first()
            .map_or(1, |worker| worker.assignment.workers);
        let mut running = JoinSet::new();
        for worker in workers {
            running.spawn(worker.run(None, stop.clone()));
        }
        Self {
            running,
            returned: Vec::new(),
            stop,
            active,
            closed: false,
        }
    }

    /// Number of workers.
    pub(crate) fn len(&self) -> usize {
        self.running.len() + self.returned.len()
    }

    /// Number of workers that can have lanes.
    pub(crate) fn most(&self, lanes: usize) -> usize {
        self.len().min(lanes)
    }

    /// Number of workers that have lanes.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    /// Waits until all workers have returned. Cancel safe.
    ///
    /// # Errors
    /// A worker panicked.
    pub(crate) async fn ended(&mut self) -> Result<(), JoinError> {
        while let Some(ended) = self.running.join_next().await {
            let (worker, state, exit) = ended?;
            self.returned.push((worker, state));
            if exit == Exit::Closed {
                // All workers have the same sink.
                self.closed = true;
                self.stop.generate.cancel();
            }
        }
        Ok(())
    }

    /// Sends the anomalies that have not ended to the truth file.
    pub(crate) fn send_unfinished(mut self) {
        for (worker, state) in &mut self.returned {
            worker.send_unfinished(state);
        }
    }

    /// Distributes the lanes, with `added` ones after the others, and the devices over the
    /// first `active` workers. The messages of a device stay in order unless its lane
    /// changes: then earlier messages may arrive after later ones.
    ///
    /// # Errors
    /// A worker panicked.
    pub(crate) async fn regroup(
        &mut self,
        added: Vec<LaneHandle>,
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
        let mut crew = std::mem::take(&mut self.returned);
        crew.sort_unstable_by_key(|(worker, _)| worker.assignment.index);
        for (worker, state) in &mut crew {
            // So that all workers have created their devices up to the same position.
            worker.apply_config(state, config.clone());
        }
        // Their devices may get another lane.
        let held = crew.iter_mut().flat_map(|(worker, _)| worker.take_held());
        let held: Vec<_> = held.collect();
        let mut handles = take_handles(&mut crew, self.active);
        handles.extend(added);
        let limits = limits(handles.len());
        let lanes = handles.iter_mut().map(|handle| &mut handle.lane);
        lanes.for_each(|lane| lane.set_limits(limits));
        self.active = active.clamp(1, crew.len().min(handles.len()).max(1));
        let due = share_out(&mut crew, handles, self.active);
        let mut workers: Vec<_> = crew.iter_mut().map(|(worker, _)| worker).collect();
        hold_again(&mut workers, held);
        for ((mut worker, mut state), due) in crew.into_iter().zip(due) {
            worker.settle(&mut state, &due);
            self.running
                .spawn(worker.run(Some(state), self.stop.clone()));
        }
        Ok(())
    }
}

/// Takes the lanes of all workers, in order.
fn take_handles(crew: &mut [(Worker, State)], active: usize) -> Vec<LaneHandle> {
    let each = crew.iter_mut();
    let handles = each.map(|(worker, _)| std::mem::take(&mut worker.handles).into_iter());
    let mut handles: Vec<_> = handles.collect();
    let lanes = (0..).map_while(|lane: usize| handles[lane % active].next());
    lanes.collect()
}

/// Distributes all lanes and devices over the first `active` workers, and returns the next
/// due times of each worker's devices.
fn share_out(
    crew: &mut [(Worker, State)],
    handles: Vec<LaneHandle>,
    active: usize,
) -> Vec<Vec<Option<Duration>>> {
    let lanes = u32::try_from(handles.len()).unwrap_or(u32::MAX);
    let mut members = Vec::new();
    for (worker, state) in &mut *crew {
        let due = worker.turns(state);
        members.extend(worker.members.drain(..).zip(due));
        (worker.assignment.lanes, worker.assignment.workers) = (lanes, active);
    }
    for (lane, handle) in handles.into_iter().enumerate() {
        crew[lane % active].0.handles.push(handle);
    }
    // `Worker::members` is ordered by position.
    members.sort_unstable_by_key(|(member, _)| member.position);
    let assignment = crew[0].0.assignment;
    let mut all_due = vec![Vec::new(); crew.len()];
    for (mut member, due) in members {
        let (owner, index) = assignment.owner(&member.device.identity.device_id);
        member.lane = index;
        crew[owner].0.members.push(member);
        all_due[owner].push(due);
    }
    all_due
}

/// Determines the number of workers from how busy they are.
#[derive(Debug)]
pub(crate) struct Autoscale {
    since: Instant,
    busy: f64,
}

impl Autoscale {
    /// How often the number is adapted.
    pub(crate) const EVERY: Duration = Duration::from_secs(1);

    /// For workers that start at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            busy: 0.0,
        }
    }

    /// The number of workers, at most `most`, to use instead of `active`. `busy` is the
    /// time in seconds for which all workers together have been busy since the start.
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
