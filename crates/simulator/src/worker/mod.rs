//! A worker owns the devices of its lanes and the messages that wait in them. It
//! shares nothing with other workers, so creating messages takes no lock.

pub(crate) mod crew;
mod finish;
mod send_order;
mod throttle;

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
use crate::fleet::{self, Device, DeviceProfile, Truth};
use crate::lane::{Batch, Lane, Limits};
use crate::metrics::{Dropped, Metrics};
use crate::sink::{Done, Ends, Outcome};
use crate::truth::Truths;
use crew::Assignment;
use send_order::{After, SendOrder};
use throttle::Throttle;

/// A device of a worker.
#[derive(Debug)]
pub(crate) struct Member {
    /// The device.
    pub device: Device,
    /// Index of its lane among those of the worker.
    pub lane: usize,
    /// Position in the fleet.
    pub position: u32,
    /// Turns to skip, because they already took place on another worker.
    pub skip: u32,
    /// Sequence number at which it stops; dropped messages count.
    pub quota: u64,
    /// Number of its messages that are held back, or dropped after one that is.
    pub held: u64,
    /// Number of its messages dropped after the last one that is held back.
    pub gap: u64,
}

impl Member {
    /// Whether no more of its messages will fall due.
    pub(crate) fn is_done(&self) -> bool {
        self.left() == 0
    }

    /// Number of its messages that will fall due.
    pub(crate) fn left(&self) -> u64 {
        self.quota
            .saturating_sub(self.device.seq.saturating_add(self.held))
    }

    /// Uses up the sequence numbers of dropped messages, so that consumers see the gap. It comes
    /// after the messages that are held back.
    pub(crate) fn use_up(&mut self, messages: u64) {
        if self.held > 0 {
            self.held += messages;
            self.gap += messages;
        } else {
            self.device.seq += messages;
        }
    }
}

/// A lane and the worker's ends of the channels to its task.
#[derive(Debug)]
pub(crate) struct LaneHandle {
    /// The messages that wait to be sent.
    pub lane: Lane,
    /// Batches to send.
    pub batches: mpsc::Sender<Batch>,
    /// Returned batches.
    pub done: mpsc::UnboundedReceiver<Done>,
    /// Flow control, and messages that are due but not created.
    throttle: Throttle,
}

impl LaneHandle {
    /// An empty lane, and its task's ends of the channels.
    pub(crate) fn new(limits: Limits) -> (Self, Ends) {
        let (sender, batches) = mpsc::channel(1);
        let (done, returns) = mpsc::unbounded_channel();
        let handle = Self {
            lane: Lane::new(limits),
            batches: sender,
            done: returns,
            throttle: Throttle::default(),
        };
        (handle, Ends { batches, done })
    }
}

/// The signals that stop a worker.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// Create no more messages, but send those that wait.
    pub generate: CancellationToken,
    /// Drop the messages that wait; the senders, those of their batches that are not confirmed.
    pub abandon: CancellationToken,
    /// Return with the current state, to continue with other lanes.
    pub regroup: CancellationToken,
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Which lanes, and so which devices, this worker has.
    pub assignment: Assignment,
    /// Its devices, ordered by position; some no longer send after the fleet shrank.
    pub members: Vec<Member>,
    /// Number of its devices in the metric of devices.
    pub counted: i64,
    /// Its lanes.
    pub handles: Vec<LaneHandle>,
    /// Channel of anomalies to start now.
    pub injections: broadcast::Sender<Inject>,
    /// The subscription to that channel while the worker is not running, so that a
    /// regrouping misses no anomaly.
    pub injected: Option<broadcast::Receiver<Inject>>,
    /// Settings.
    pub config: Live<SimulatorConfig>,
    /// Metrics.
    pub metrics: Metrics,
    /// Channel of ended anomalies, if there is a truth file.
    pub truths: Option<Truths>,
    /// Start of the whole fleet.
    pub start: Instant,
}

/// Why a worker has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It has sent all messages, or was stopped.
    Complete,
    /// The sink is permanently gone.
    Closed,
    /// It will continue with other lanes.
    Regroup,
}

impl Worker {
    /// Creates and sends messages until all are created or it is stopped, and then until
    /// all are confirmed or dropped. To regroup, it returns early with the state to
    /// continue with.
    pub(crate) async fn run(mut self, state: Option<State>, stop: Stop) -> (Self, State, Exit) {
        let mut state = state.unwrap_or_else(|| self.initial_state());
        let exit = match self.generate(&mut state, &stop).await {
            Exit::Complete => self.drain(&mut state, &stop).await,
            exit => exit,
        };
        if exit == Exit::Closed {
            self.drop_behind(&mut state, Dropped::OutputClosed, Instant::now());
        }
        if exit != Exit::Regroup {
            // Removes this worker's share from the gauge.
            self.report_depth(&mut state, 0);
        }
        (self, state, exit)
    }

    /// Sends the anomalies that have not ended to the truth file.
    pub(crate) fn send_unfinished(&mut self, state: &mut State) {
        let devices = self.members.iter().map(|member| &member.device);
        let unfinished = devices.flat_map(|device| device.unfinished(&state.profiles));
        state.truths.extend(unfinished);
        self.send_truths(state);
    }

    /// Creates the devices and their schedules from the current settings.
    fn initial_state(&mut self) -> State {
        let config = self.config.current();
        let fleet = &config.fleet;
        let clock = Clock::new(
            config.load.clone(),
            fleet::speed(&config),
            fleet.paused,
            self.start,
        );
        let profiles = DeviceProfile::all(&config);
        self.grow(&config, &profiles);
        State {
            send_order: self.send_order(&config, &profiles, Duration::ZERO),
            unfinished_devices: self.unfinished_devices(),
            profiles,
            clock,
            timestamp: 0,
            lateness: self.metrics.lateness.local(),
            depth: 0,
            truths: Vec::new(),
            ended: false,
            config,
        }
    }

    /// Number of devices that have not reached their quota.
    fn unfinished_devices(&self) -> usize {
        let members = self.members.iter();
        members.filter(|member| !member.is_done()).count()
    }

    /// Creates the missing devices of the worker.
    fn grow(&mut self, config: &SimulatorConfig, profiles: &[DeviceProfile]) {
        let quotas = match config.run.messages {
            0 => None,
            total => Some(crate::schedule::quotas(total, &fleet::intervals(config))),
        };
        let known = self.members.last().map_or(0, |member| member.position + 1);
        let shard = config.fleet.shard;
        for position in (known..config.fleet.devices).filter(|position| shard.has(*position)) {
            let number = config.fleet.first_device + position;
            let Some(lane) = self
                .assignment
                .lane(&fleet::device_id(&config.fleet, number))
            else {
                continue;
            };
            let quota = quotas
                .as_ref()
                .map_or(u64::MAX, |quotas| quotas[position as usize]);
            self.members.push(Member {
                device: Device::new(config, profiles, number),
                lane,
                position,
                skip: 0,
                quota,
                held: 0,
                gap: 0,
            });
        }
        self.count(config);
    }

    /// Updates the metric of devices that send.
    fn count(&mut self, config: &SimulatorConfig) {
        let sends = |member: &&Member| member.position < config.fleet.devices;
        let count = self.members.iter().filter(sends).count() as i64;
        // The gauge is the sum over all workers, so only the change is added.
        self.metrics.devices.add(count - self.counted);
        self.counted = count;
    }

    /// Creates and sends messages until all are created or the worker is stopped.
    async fn generate(&mut self, state: &mut State, stop: &Stop) -> Exit {
        let mut config = self.config.clone();
        let injected = self.injected.take();
        // Dropped on return: unread injections would keep their requests waiting.
        let mut injected = injected.unwrap_or_else(|| self.injections.subscribe());
        while !stop.generate.is_cancelled() {
            let now = Instant::now();
            let below = self.released_below(state);
            self.release(state, below, now);
            let after = if state.config.fleet.paused {
                After::WaitForRoom
            } else {
                match state.send_order {
                    SendOrder::Scheduled(_) => self.make_due(state, now),
                    SendOrder::Unbounded { .. } => self.make_for_room(state, now),
                }
            };
            state.lateness.flush();
            self.dispatch(now);
            self.send_truths(state);
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
                    return Exit::Regroup;
                }
                () = config.changed() => self.apply_config(state, config.current()),
                Ok(inject) = injected.recv() => self.inject(state, &inject),
                done = returned(&mut self.handles) => if self.take_back(done).is_break() {
                    return Exit::Closed;
                },
                () = wait(until) => {}
            }
        }
        self.catch_up(state, stop).await
    }

    /// Applies changed settings.
    fn apply_config(&mut self, state: &mut State, config: Arc<SimulatorConfig>) {
        let now = Instant::now();
        let profiles = DeviceProfile::all(&config);
        let is_max = |rate| rate == Rate::Max;
        let (before, after) = (&state.config.fleet, &config.fleet);
        let is_replaced =
            before.devices != after.devices || is_max(before.rate) != is_max(after.rate);
        let mut intervals = state.profiles.iter().zip(&profiles);
        if is_replaced || intervals.any(|(before, after)| before.interval != after.interval) {
            self.finish_schedule(state, now);
        }
        let clock = &mut state.clock;
        clock.change(
            &config.load,
            fleet::speed(&config),
            config.fleet.paused,
            now,
        );
        let time = clock.at(now);
        if is_replaced {
            self.grow(&config, &profiles);
            // The new schedule starts without past turns.
            self.members.iter_mut().for_each(|member| member.skip = 0);
            state.send_order = self.send_order(&config, &profiles, time);
            state.unfinished_devices = self.unfinished_devices();
        } else if let SendOrder::Scheduled(rounds) = &mut state.send_order {
            let profiles = state.profiles.iter().zip(&profiles);
            for (round, (before, after)) in rounds.iter_mut().zip(profiles) {
                if before.interval != after.interval {
                    round.schedule.retime(after.interval, time);
                }
            }
        }
        state.profiles = profiles;
        state.config = config;
    }

    /// Starts an anomaly in the matching devices and replies with their number.
    fn inject(&mut self, state: &mut State, inject: &Inject) {
        let injection = &inject.injection;
        let usual = injection.kind.readings(&state.config.anomaly);
        let readings = injection.readings.unwrap_or(usual);
        let mut count = 0;
        for member in &mut self.members {
            let (profiles, truths) = (&state.profiles, &mut state.truths);
            let sends = member.position < state.config.fleet.devices;
            count +=
                usize::from(sends && member.device.inject(profiles, injection, readings, truths));
        }
        // Fails if the request has timed out.
        let _ = inject.answer.send(count);
    }

    /// Sends ended anomalies to the truth file.
    fn send_truths(&self, state: &mut State) {
        for truth in state.truths.drain(..) {
            if let Some(truths) = &self.truths {
                // Fails if writing the file failed; the writer reports that at the end.
                let _ = truths.send(truth);
            }
        }
    }

    /// Hands the next batch of each lane to its task.
    fn dispatch(&mut self, now: Instant) {
        for (index, handle) in self.handles.iter_mut().enumerate() {
            let Some(batch) = handle.lane.take(now) else {
                continue;
            };
            // A lane has one batch in flight, so the channel has room. It is closed only
            // if the task panicked, which ends the process.
            if let Err(error) = handle.batches.try_send(batch) {
                let messages = error.into_inner().len();
                tracing::error!(lane = index, messages, "the task of a lane has ended");
            }
        }
    }

    /// Takes back this batch and all others that have returned. `Break` means that the
    /// sink is permanently gone.
    fn take_back(&mut self, (index, done): (usize, Done)) -> ControlFlow<()> {
        self.take_back_one(index, done)?;
        for index in 0..self.handles.len() {
            if let Ok(done) = self.handles[index].done.try_recv() {
                self.take_back_one(index, done)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn take_back_one(&mut self, index: usize, done: Done) -> ControlFlow<()> {
        match done.outcome {
            Outcome::Sent => {
                self.handles[index].lane.done(done.batch);
                ControlFlow::Continue(())
            }
            Outcome::Closed => {
                let left = self.not_handed_over() as u64;
                self.metrics.dropped(Dropped::OutputClosed, left);
                ControlFlow::Break(())
            }
        }
    }

    /// Messages created or held back and not confirmed; excludes those a late worker has not
    /// reached.
    fn waiting(&self) -> usize {
        let handles = self.handles.iter();
        let created: usize = handles.map(|handle| handle.lane.waiting()).sum();
        created + self.held()
    }

    /// The messages that wait and are in no batch that a sender has, which counts its own.
    fn not_handed_over(&self) -> usize {
        let in_flight = self.handles.iter().map(|handle| handle.lane.in_flight());
        self.waiting() - in_flight.sum::<usize>()
    }

    fn wakes_at(&self) -> Option<Instant> {
        let lanes = self.handles.iter();
        lanes.filter_map(|handle| handle.lane.wakes_at()).min()
    }

    /// The gauge is the sum over all workers, so only the change is added.
    fn report_depth(&self, state: &mut State, depth: usize) {
        let depth = depth as i64;
        self.metrics.queue_depth.add(depth - state.depth);
        state.depth = depth;
    }
}

/// The state that changes while a worker runs.
#[derive(Debug)]
pub(crate) struct State {
    /// The current settings.
    config: Arc<SimulatorConfig>,
    profiles: Vec<DeviceProfile>,
    clock: Clock,
    /// Event time of the messages that are created now, milliseconds since the Unix epoch.
    timestamp: i64,
    send_order: SendOrder,
    /// Number of devices that have not reached their quota.
    unfinished_devices: usize,
    lateness: LocalHistogram,
    /// This worker's share of the queue depth in the metric.
    depth: i64,
    /// Ended anomalies that are not sent to the truth file yet.
    truths: Vec<Truth>,
    /// The run is stopped, and the messages that were due by then are created or counted.
    ended: bool,
}

/// Waits for the next returned batch; also gives the index of its lane.
async fn returned(handles: &mut [LaneHandle]) -> (usize, Done) {
    std::future::poll_fn(|context| {
        for (index, handle) in handles.iter_mut().enumerate() {
            if !handle.lane.is_in_flight() {
                continue;
            }
            if let Poll::Ready(Some(done)) = handle.done.poll_recv(context) {
                return Poll::Ready((index, done));
            }
        }
        Poll::Pending
    })
    .await
}

async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        // Nothing to wait for: yields once so that other events are seen.
        None => tokio::task::yield_now().await,
    }
}

#[cfg(test)]
mod tests;
