//! A worker owns the devices of its lanes and what waits in them: nothing is
//! shared with other workers, so making messages takes no lock.

use std::ops::ControlFlow;
use std::time::Duration;

use iot_service::config::Live;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Rate, SimulatorConfig};
use crate::fleet::{Device, Habits, Truth};
use crate::lane::{Batch, Lane};
use crate::metrics::{Dropped, Metrics};
use crate::schedule::Schedule;
use crate::sensors::Moment;
use crate::sink::{Done, Outcome};
use crate::truth::Truths;

/// Messages made before looking at anything else.
const TURN: usize = 256;

/// A device of a worker.
#[derive(Debug)]
pub(crate) struct Member {
    /// The device itself.
    pub device: Device,
    /// Lane, as the worker counts.
    pub lane: usize,
    /// Place in the fleet's round.
    pub position: u32,
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
}

/// How a worker is told to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// Make no more messages, but send those there are.
    pub generate: CancellationToken,
    /// Give up those there are.
    pub abandon: CancellationToken,
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Its devices, in the order of their places.
    pub members: Vec<Member>,
    /// Its lanes.
    pub outlets: Vec<Outlet>,
    /// Batches that come back.
    pub done: mpsc::UnboundedReceiver<Done>,
    /// Settings.
    pub config: Live<SimulatorConfig>,
    /// Metrics.
    pub metrics: Metrics,
    /// Where anomalies that are over are told, if anybody wants to know.
    pub truths: Option<Truths>,
    /// When the whole fleet starts.
    pub start: Instant,
}

/// Who sends next.
#[derive(Debug)]
enum Pace {
    /// Devices are due by a schedule.
    Scheduled(Schedule),
    /// Devices take turns, lane by lane, whenever their lane has room.
    Unbounded {
        /// The devices of each lane.
        turns: Vec<Vec<usize>>,
        /// Whose turn it is.
        next: Vec<usize>,
    },
}

/// What to do after a turn of making messages.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// There is more to make at once.
    Again,
    /// Nothing before this time.
    Wait(Instant),
    /// Nothing before a lane has room.
    WaitForRoom,
    /// Every device sent all it should.
    Finished,
}

impl Worker {
    /// Makes and sends messages until told to stop or all are made, then until
    /// all are confirmed or given up.
    pub(crate) async fn run(mut self, stop: Stop) {
        let config = self.config.current();
        let mut state = State {
            habits: Habits::new(&config),
            interval: config.fleet.effective_interval(),
            pace: self.pace(&config),
            depth: 0,
            truths: Vec::new(),
        };
        let made = self.make(&mut state, &stop.generate).await;
        let devices = self.members.iter().map(|member| &member.device);
        let unfinished = devices.flat_map(|device| device.unfinished(&state.habits));
        state.truths.extend(unfinished);
        self.tell(&mut state);
        if made.is_continue() {
            self.flush(&mut state, &stop.abandon).await;
        }
        self.report_depth(&mut state, 0);
    }

    fn pace(&self, config: &SimulatorConfig) -> Pace {
        if config.fleet.rate != Rate::Max {
            let positions = self.members.iter().map(|member| member.position).collect();
            let interval = config.fleet.effective_interval();
            let fleet = config.fleet.devices;
            return Pace::Scheduled(Schedule::new(self.start, interval, positions, fleet));
        }
        let mut turns = vec![Vec::new(); self.outlets.len()];
        for (index, member) in self.members.iter().enumerate() {
            turns[member.lane].push(index);
        }
        Pace::Unbounded {
            next: vec![0; turns.len()],
            turns,
        }
    }

    /// `Break` when there is nobody to send to.
    async fn make(&mut self, state: &mut State, stop: &CancellationToken) -> ControlFlow<()> {
        let mut config = self.config.clone();
        while !stop.is_cancelled() {
            let now = Instant::now();
            let after = match state.pace {
                Pace::Scheduled(_) => self.make_due(state, now),
                Pace::Unbounded { .. } => self.make_for_room(state, now),
            };
            self.dispatch(now);
            self.tell(state);
            self.report_depth(state, self.waiting());
            let until = match after {
                After::Finished => break,
                After::Again => {
                    while let Ok(done) = self.done.try_recv() {
                        self.take_back(done)?;
                    }
                    tokio::task::yield_now().await;
                    continue;
                }
                After::Wait(due) => self.wakes_at().map_or(due, |wake| wake.min(due)),
                After::WaitForRoom => self.wakes_at().unwrap_or(now + Duration::from_secs(1)),
            };
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = self.done.recv() => self.take_back(done)?,
                () = config.changed() => self.adopt(state, &config.current()),
                () = tokio::time::sleep_until(until) => {}
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes over the settings that may change while running.
    fn adopt(&mut self, state: &mut State, config: &SimulatorConfig) {
        state.habits = Habits::new(config);
        let interval = config.fleet.effective_interval();
        if interval != state.interval {
            state.interval = interval;
            if let Pace::Scheduled(schedule) = &mut state.pace {
                schedule.retime(interval, Instant::now());
            }
        }
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

    /// Makes the messages that are due, in a full lane only counts them.
    fn make_due(&mut self, state: &mut State, now: Instant) -> After {
        let timestamp = now_ms();
        let Pace::Scheduled(schedule) = &mut state.pace else {
            return After::Finished;
        };
        for _ in 0..TURN {
            let Some((index, due)) = schedule.peek() else {
                return After::Finished;
            };
            if due > now {
                return After::Wait(due);
            }
            let member = &mut self.members[index];
            // Quotas differ by one at most, so the first device of a round
            // that has nothing left ends it for all.
            if member.device.seq >= member.quota {
                return After::Finished;
            }
            schedule.advance();
            self.metrics.lateness.observe((now - due).as_secs_f64());
            let elapsed = hours(due.saturating_duration_since(self.start));
            let at = Moment { timestamp, elapsed };
            let lane = &mut self.outlets[member.lane].lane;
            if lane.has_room() {
                let mut speaking = Speaking {
                    habits: &state.habits,
                    truths: &mut state.truths,
                    metrics: &self.metrics,
                };
                speaking.speak(member, lane, at, now);
            } else {
                // The number is used up: the gap shows the loss downstream.
                member.device.seq += 1;
                self.metrics.dropped(Dropped::BufferFull, 1);
            }
        }
        After::Again
    }

    /// Makes messages for every lane that doesn't have a full batch ready.
    fn make_for_room(&mut self, state: &mut State, now: Instant) -> After {
        let timestamp = now_ms();
        let Pace::Unbounded { turns, next } = &mut state.pace else {
            return After::Finished;
        };
        let (mut made, mut left) = (0, false);
        for (lane, (turns, next)) in turns.iter().zip(next).enumerate() {
            let lane = &mut self.outlets[lane].lane;
            for _ in 0..TURN {
                let Some(index) = turns.get(*next) else { break };
                let member = &mut self.members[*index];
                if member.device.seq >= member.quota {
                    break;
                }
                left = true;
                if lane.is_ahead() {
                    break;
                }
                let elapsed = state.interval.as_secs_f64() * member.device.seq as f64 / 3600.0;
                let mut speaking = Speaking {
                    habits: &state.habits,
                    truths: &mut state.truths,
                    metrics: &self.metrics,
                };
                speaking.speak(member, lane, Moment { timestamp, elapsed }, now);
                *next = (*next + 1) % turns.len();
                made += 1;
            }
        }
        match (left, made) {
            (false, _) => After::Finished,
            (true, 0) => After::WaitForRoom,
            (true, _) => After::Again,
        }
    }

    /// Sends what waits, with no more to come.
    async fn flush(&mut self, state: &mut State, abandon: &CancellationToken) {
        for outlet in &mut self.outlets {
            outlet.lane.flush();
        }
        while self.waiting() > 0 {
            self.dispatch(Instant::now());
            self.report_depth(state, self.waiting());
            tokio::select! {
                () = abandon.cancelled() => {
                    self.metrics.dropped(Dropped::Shutdown, self.waiting());
                    return;
                }
                Some(done) = self.done.recv() => {
                    if self.take_back(done).is_break() {
                        return;
                    }
                }
            }
        }
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

    /// `Break` when there is nobody to send to any more.
    fn take_back(&mut self, done: Done) -> ControlFlow<()> {
        match done.outcome {
            Outcome::Sent => {
                self.outlets[done.lane].lane.done(done.batch);
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
struct State {
    habits: Habits,
    interval: Duration,
    pace: Pace,
    /// What this worker last added to the queue depth.
    depth: i64,
    /// Anomalies that are over and not told yet.
    truths: Vec<Truth>,
}

/// What it takes for a device to speak.
struct Speaking<'w> {
    habits: &'w Habits,
    truths: &'w mut Vec<Truth>,
    metrics: &'w Metrics,
}

impl Speaking<'_> {
    fn speak(&mut self, member: &mut Member, lane: &mut Lane, at: Moment, now: Instant) {
        let begun = Instant::now();
        let identity = std::sync::Arc::clone(&member.device.identity);
        lane.push(now, identity, at.timestamp, |out| {
            member.device.speak(self.habits, at, out, self.truths)
        });
        let took = begun.elapsed().as_secs_f64();
        self.metrics.serialization_latency.observe(took);
    }
}

fn hours(duration: Duration) -> f64 {
    duration.as_secs_f64() / 3600.0
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests;
