//! A worker owns the devices of its lanes and what waits in them: nothing is
//! shared with other workers, so making messages takes no lock.

pub(crate) mod crew;
mod pace;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use iot_service::config::Live;
use prometheus::local::LocalHistogram;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Rate, SimulatorConfig};
use crate::control::Inject;
use crate::fleet::{self, Device, Habits, Truth};
use crate::lane::{Batch, Lane, Limits};
use crate::metrics::{Dropped, Metrics};
use crate::sink::{Done, Ends, Outcome};
use crate::truth::Truths;
use crew::Part;
use pace::{After, Pace};

/// A device of a worker.
#[derive(Debug)]
pub(crate) struct Member {
    /// The device itself.
    pub device: Device,
    /// Lane, as the worker counts.
    pub lane: usize,
    /// Place in the fleet.
    pub position: u32,
    /// Turns it has to leave out: it has had them with another worker.
    pub skip: u32,
    /// Messages it is to send in all.
    pub quota: u64,
}

/// A lane and the task behind it.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// What waits.
    pub lane: Lane,
    /// Where its batches go.
    pub batches: mpsc::Sender<Batch>,
    /// Where they come back.
    pub done: mpsc::UnboundedReceiver<Done>,
}

impl Outlet {
    /// An empty lane, and the ends that its task gets.
    pub(crate) fn new(limits: Limits) -> (Self, Ends) {
        let (sender, batches) = mpsc::channel(1);
        let (done, returns) = mpsc::unbounded_channel();
        let outlet = Self {
            lane: Lane::new(limits),
            batches: sender,
            done: returns,
        };
        (outlet, Ends { batches, done })
    }
}

/// How a worker is told to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// Make no more messages, but send those there are.
    pub generate: CancellationToken,
    /// Give up those there are.
    pub abandon: CancellationToken,
    /// Come back as it is, to go on with other lanes.
    pub regroup: CancellationToken,
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Which devices it has.
    pub part: Part,
    /// Those it has had, in the order of their places.
    pub members: Vec<Member>,
    /// How many of them send.
    pub counted: i64,
    /// Its lanes.
    pub outlets: Vec<Outlet>,
    /// Where anomalies to begin now come from.
    pub injections: broadcast::Sender<Inject>,
    /// Those that have come while it was between two groups.
    pub injected: Option<broadcast::Receiver<Inject>>,
    /// Settings.
    pub config: Live<SimulatorConfig>,
    /// Metrics.
    pub metrics: Metrics,
    /// Where anomalies that are over are told, if anybody wants to know.
    pub truths: Option<Truths>,
    /// When the whole fleet starts.
    pub start: Instant,
}

/// Why no more messages are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// All are, or the end is asked for.
    All,
    /// There is nobody to send to.
    Closed,
    /// It goes on with other lanes.
    Regroup,
}

impl Worker {
    /// Makes and sends messages until told to stop or all are made, then until
    /// all are confirmed or given up. Or until it is to regroup: the state it
    /// comes back with is the one to go on with.
    pub(crate) async fn run(mut self, state: Option<State>, stop: Stop) -> (Self, State, Made) {
        let mut state = state.unwrap_or_else(|| self.begin());
        let made = match self.make(&mut state, &stop).await {
            Made::All => self.flush(&mut state, &stop).await,
            made => made,
        };
        if made != Made::Regroup {
            self.report_depth(&mut state, 0);
        }
        (self, state, made)
    }

    /// Tells of the anomalies that will never be over.
    pub(crate) fn end(&mut self, state: &mut State) {
        let devices = self.members.iter().map(|member| &member.device);
        let unfinished = devices.flat_map(|device| device.unfinished(&state.habits));
        state.truths.extend(unfinished);
        self.tell(state);
    }

    /// The devices and their pace, as the settings are now.
    fn begin(&mut self) -> State {
        let config = self.config.current();
        let fleet = &config.fleet;
        let clock = Clock::new(
            config.load.clone(),
            speed(&config),
            fleet.paused,
            self.start,
        );
        let habits = Habits::all(&config);
        self.grow(&config, &habits);
        State {
            pace: self.pace(&config, &habits, Duration::ZERO),
            left: self.left(),
            habits,
            clock,
            lateness: self.metrics.lateness.local(),
            thinned: 0.0,
            depth: 0,
            truths: Vec::new(),
            config,
        }
    }

    /// How many devices have not sent all they are to send.
    fn left(&self) -> usize {
        let members = self.members.iter();
        members
            .filter(|member| member.device.seq < member.quota)
            .count()
    }

    /// Makes the devices that there are not yet.
    fn grow(&mut self, config: &SimulatorConfig, habits: &[Habits]) {
        let quotas = match config.run.messages {
            0 => None,
            total => Some(crate::schedule::quotas(total, &fleet::intervals(config))),
        };
        let known = self.members.last().map_or(0, |member| member.position + 1);
        let shard = config.fleet.shard;
        for position in (known..config.fleet.devices).filter(|position| shard.has(*position)) {
            let number = config.fleet.first_device + position;
            let Some(lane) = self.part.lane(&fleet::device_id(&config.fleet, number)) else {
                continue;
            };
            let quota = quotas
                .as_ref()
                .map_or(u64::MAX, |quotas| quotas[position as usize]);
            self.members.push(Member {
                device: Device::new(config, habits, number),
                lane,
                position,
                skip: 0,
                quota,
            });
        }
        self.count(config);
    }

    /// Says how many of its devices send.
    fn count(&mut self, config: &SimulatorConfig) {
        let sends = |member: &&Member| member.position < config.fleet.devices;
        let count = self.members.iter().filter(sends).count() as i64;
        // The gauge is the sum over all workers, so only the change is added.
        self.metrics.devices.add(count - self.counted);
        self.counted = count;
    }

    async fn make(&mut self, state: &mut State, stop: &Stop) -> Made {
        let mut config = self.config.clone();
        let injected = self.injected.take();
        // Given up at the end: whoever asks would wait for an answer.
        let mut injected = injected.unwrap_or_else(|| self.injections.subscribe());
        while !stop.generate.is_cancelled() {
            let now = Instant::now();
            let after = match state.pace {
                _ if state.config.fleet.paused => After::WaitForRoom,
                Pace::Scheduled(_) => self.make_due(state, now),
                Pace::Unbounded { .. } => self.make_for_room(state, now),
            };
            state.lateness.flush();
            self.dispatch(now);
            self.tell(state);
            self.report_depth(state, self.waiting());
            let wakes_at = self.wakes_at();
            self.metrics.busy.inc_by(now.elapsed().as_secs_f64());
            let until = match after {
                After::Finished => break,
                After::Again => None,
                After::Wait(due) => Some(wakes_at.map_or(due, |wake| wake.min(due))),
                After::WaitForRoom => Some(wakes_at.unwrap_or(now + Duration::from_secs(1))),
            };
            tokio::select! {
                biased;
                () = stop.generate.cancelled() => break,
                () = stop.regroup.cancelled() => {
                    self.injected = Some(injected);
                    return Made::Regroup;
                }
                () = config.changed() => self.adopt(state, config.current()),
                Ok(inject) = injected.recv() => self.inject(state, &inject),
                done = returned(&mut self.outlets) => if self.take_back(done).is_break() {
                    return Made::Closed;
                },
                () = wait(until) => {}
            }
        }
        Made::All
    }

    /// Takes over the settings that may change while running.
    fn adopt(&mut self, state: &mut State, config: Arc<SimulatorConfig>) {
        let now = Instant::now();
        let habits = Habits::all(&config);
        let clock = &mut state.clock;
        clock.change(&config.load, speed(&config), config.fleet.paused, now);
        let time = clock.at(now);
        let (before, after) = (&state.config.fleet, &config.fleet);
        let is_max = |rate| rate == Rate::Max;
        if before.devices != after.devices || is_max(before.rate) != is_max(after.rate) {
            self.grow(&config, &habits);
            self.members.iter_mut().for_each(|member| member.skip = 0);
            state.pace = self.pace(&config, &habits, time);
            state.left = self.left();
        } else if let Pace::Scheduled(rounds) = &mut state.pace {
            let habits = state.habits.iter().zip(&habits);
            for (round, (before, after)) in rounds.iter_mut().zip(habits) {
                if before.interval != after.interval {
                    round.schedule.retime(after.interval, time);
                }
            }
        }
        state.habits = habits;
        state.config = config;
    }

    /// Begins an anomaly in the devices that are meant, and says how many.
    fn inject(&mut self, state: &mut State, inject: &Inject) {
        let injection = &inject.injection;
        let usual = injection.kind.readings(&state.config.anomaly);
        let readings = injection.readings.unwrap_or(usual);
        let mut count = 0;
        for member in &mut self.members {
            let (habits, truths) = (&state.habits, &mut state.truths);
            let sends = member.position < state.config.fleet.devices;
            count +=
                usize::from(sends && member.device.inject(habits, injection, readings, truths));
        }
        // Whoever asked has given up waiting.
        let _ = inject.answer.send(count);
    }

    /// Passes on which anomalies are over.
    fn tell(&self, state: &mut State) {
        for truth in state.truths.drain(..) {
            if let Some(truths) = &self.truths {
                // The writer is gone if the file failed, and has kept the error.
                let _ = truths.send(truth);
            }
        }
    }

    /// Sends what waits, with no more to come.
    async fn flush(&mut self, state: &mut State, stop: &Stop) -> Made {
        for outlet in &mut self.outlets {
            outlet.lane.flush();
        }
        while self.waiting() > 0 {
            self.dispatch(Instant::now());
            self.report_depth(state, self.waiting());
            tokio::select! {
                () = stop.abandon.cancelled() => {
                    self.metrics.dropped(Dropped::Shutdown, self.waiting());
                    return Made::All;
                }
                () = stop.regroup.cancelled() => return Made::Regroup,
                done = returned(&mut self.outlets) => {
                    if self.take_back(done).is_break() {
                        return Made::Closed;
                    }
                }
            }
        }
        Made::All
    }

    /// Hands every lane's next batch to its task.
    fn dispatch(&mut self, now: Instant) {
        for (index, outlet) in self.outlets.iter_mut().enumerate() {
            let Some(batch) = outlet.lane.take(now) else {
                continue;
            };
            // The task asks for one batch at a time and the lane gives one at
            // a time, so there is always a place; a task that is gone panicked,
            // which ends the process.
            if let Err(error) = outlet.batches.try_send(batch) {
                let messages = error.into_inner().len();
                tracing::error!(lane = index, messages, "a lane's task is gone");
            }
        }
    }

    /// Takes back that batch and all others that have come. `Break` when there is
    /// nobody to send to any more.
    fn take_back(&mut self, (place, done): (usize, Done)) -> ControlFlow<()> {
        self.take_back_one(place, done)?;
        for place in 0..self.outlets.len() {
            if let Ok(done) = self.outlets[place].done.try_recv() {
                self.take_back_one(place, done)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn take_back_one(&mut self, place: usize, done: Done) -> ControlFlow<()> {
        match done.outcome {
            Outcome::Sent => {
                self.outlets[place].lane.done(done.batch);
                ControlFlow::Continue(())
            }
            Outcome::Closed => {
                self.metrics.dropped(Dropped::OutputClosed, self.waiting());
                ControlFlow::Break(())
            }
        }
    }

    fn waiting(&self) -> usize {
        self.outlets
            .iter()
            .map(|outlet| outlet.lane.waiting())
            .sum()
    }

    fn wakes_at(&self) -> Option<Instant> {
        let lanes = self.outlets.iter();
        lanes.filter_map(|outlet| outlet.lane.wakes_at()).min()
    }

    /// The gauge is the sum over all workers, so only the change is added.
    fn report_depth(&self, state: &mut State, depth: usize) {
        let depth = depth as i64;
        self.metrics.queue_depth.add(depth - state.depth);
        state.depth = depth;
    }
}

/// What changes while a worker runs.
#[derive(Debug)]
pub(crate) struct State {
    /// The settings that hold.
    config: Arc<SimulatorConfig>,
    habits: Vec<Habits>,
    clock: Clock,
    pace: Pace,
    /// Devices that have not sent all they are to send.
    left: usize,
    lateness: LocalHistogram,
    /// The part of a message that is still to be left out.
    thinned: f64,
    /// What this worker last added to the queue depth.
    depth: i64,
    /// Anomalies that are over and not told yet.
    truths: Vec<Truth>,
}

/// How much faster the fleet's time passes for the rate that is asked for.
fn speed(config: &SimulatorConfig) -> f64 {
    match config.fleet.rate {
        Rate::PerSecond(rate) => rate / fleet::natural_rate(config),
        Rate::None | Rate::Max => 1.0,
    }
}

/// The next batch that comes back, and which lane's it is.
async fn returned(outlets: &mut [Outlet]) -> (usize, Done) {
    std::future::poll_fn(|context| {
        for (place, outlet) in outlets.iter_mut().enumerate() {
            if !outlet.lane.is_under_way() {
                continue;
            }
            if let Poll::Ready(Some(done)) = outlet.done.poll_recv(context) {
                return Poll::Ready((place, done));
            }
        }
        Poll::Pending
    })
    .await
}

async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => tokio::task::yield_now().await,
    }
}

#[cfg(test)]
mod tests;
