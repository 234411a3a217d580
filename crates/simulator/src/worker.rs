//! A worker owns the devices of its lanes and what waits in them: nothing is
//! shared with other workers, so making messages takes no lock.

pub(crate) mod crew;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use iot_service::config::Live;
use prometheus::local::LocalHistogram;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Line};
use crate::config::{FlowConfig, Rate, SimulatorConfig};
use crate::control::Inject;
use crate::fleet::{self, Device, Habits, Truth};
use crate::lane::{Batch, Lane, Limits};
use crate::metrics::{Dropped, Metrics};
use crate::schedule::Schedule;
use crate::sensors::Moment;
use crate::sink::{Done, Ends, Outcome};
use crate::truth::Truths;
use crew::Part;

/// Messages made before looking at anything else.
const TURN: usize = 256;

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

/// Who sends next.
#[derive(Debug)]
enum Pace {
    /// Devices are due by schedules.
    Scheduled(Vec<Round>),
    /// Devices take turns, lane by lane, whenever their lane has room.
    Unbounded {
        /// The devices of each lane.
        turns: Vec<Vec<usize>>,
        /// Whose turn it is.
        next: Vec<usize>,
    },
}

/// The devices of one profile, which share an interval.
#[derive(Debug)]
struct Round {
    schedule: Schedule,
    members: Vec<usize>,
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

/// What to do after a turn of making messages.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// There is more to make at once.
    Again,
    /// Nothing before this time.
    Wait(Instant),
    /// Nothing before a lane has room, or something else happens.
    WaitForRoom,
    /// Every device sent all it should.
    Finished,
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

    /// When each of its devices is due next: none if it doesn't send. At full speed
    /// that is not a time, but says whose turn it is first.
    fn turns(&self, state: &State) -> Vec<Option<Duration>> {
        let mut due = vec![None; self.members.len()];
        match &state.pace {
            Pace::Scheduled(rounds) => {
                for round in rounds {
                    for (index, member) in round.members.iter().enumerate() {
                        let skip = self.members[*member].skip;
                        let skipped = round.schedule.interval().saturating_mul(skip);
                        due[*member] = Some(round.schedule.due(index) + skipped);
                    }
                }
            }
            Pace::Unbounded { turns, next } => {
                for (turns, next) in turns.iter().zip(next) {
                    let (later, first) = turns.split_at((*next).min(turns.len()));
                    for (turn, member) in (0..).zip(first.iter().chain(later)) {
                        due[*member] = Some(Duration::from_nanos(turn));
                    }
                }
            }
        }
        due
    }

    /// Goes on with the devices and lanes it has now, each when it is due.
    fn settle(&mut self, state: &mut State, due: &[Option<Duration>]) {
        let config = state.config.clone();
        self.count(&config);
        state.left = self.left();
        if config.fleet.rate == Rate::Max {
            state.pace = self.pace(&config, &state.habits, Duration::ZERO);
            if let Pace::Unbounded { turns, .. } = &mut state.pace {
                for turns in turns {
                    turns.sort_by_key(|member| due[*member]);
                }
            }
            return;
        }
        let profiles = 0..state.habits.len();
        let rounds = profiles.map(|profile| {
            let members = self.members.iter().zip(due).enumerate();
            let members = members.filter(|(_, (member, _))| member.device.profile == profile);
            let members = members.filter_map(|(index, (_, due))| Some((index, (*due)?)));
            let (members, due): (Vec<usize>, Vec<Duration>) = members.unzip();
            let interval = state.habits[profile].interval;
            let (schedule, order) = Schedule::resume(interval, &due);
            let members = order.into_iter().map(|(place, skip)| {
                let member = members[place];
                self.members[member].skip = u32::try_from(skip).unwrap_or(u32::MAX);
                member
            });
            let members = members.collect();
            Round { schedule, members }
        });
        state.pace = Pace::Scheduled(rounds.collect());
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

    /// The pace of those that send, from `now` of the fleet's time on.
    fn pace(&self, config: &SimulatorConfig, habits: &[Habits], now: Duration) -> Pace {
        let devices = config.fleet.devices;
        let members = self.members.iter().enumerate();
        let sending = members.filter(|(_, member)| member.position < devices);
        if config.fleet.rate == Rate::Max {
            let mut turns = vec![Vec::new(); self.outlets.len()];
            let sending = sending.filter(|(_, member)| member.device.seq < member.quota);
            sending.for_each(|(index, member)| turns[member.lane].push(index));
            let next = vec![0; turns.len()];
            return Pace::Unbounded { turns, next };
        }
        let mut rounds = vec![(Vec::new(), Vec::new()); habits.len()];
        for (index, member) in sending {
            let (positions, members) = &mut rounds[member.device.profile];
            positions.push(member.position);
            members.push(index);
        }
        let rounds = rounds.into_iter().zip(habits);
        let rounds = rounds.map(|((positions, members), habits)| Round {
            schedule: Schedule::new(now, habits.interval, &positions, devices),
            members,
        });
        Pace::Scheduled(rounds.collect())
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

    /// Makes the messages that are due; those for a full lane it only counts.
    fn make_due(&mut self, state: &mut State, now: Instant) -> After {
        let (begun, mut made) = (Instant::now(), 0);
        let (timestamp, time) = (now_ms(), state.clock.at(now));
        let (mut after, mut line) = (After::Again, None);
        for _ in 0..TURN {
            let Pace::Scheduled(rounds) = &mut state.pace else {
                break;
            };
            if state.config.run.messages > 0 && state.left == 0 {
                after = After::Finished;
                break;
            }
            let next = rounds.iter_mut().filter_map(|round| {
                let (index, due) = round.schedule.peek()?;
                Some((due, index, round))
            });
            let Some((due, index, round)) = next.min_by_key(|(due, ..)| *due) else {
                after = After::WaitForRoom;
                break;
            };
            if due > time {
                after = state
                    .clock
                    .when(due)
                    .map_or(After::WaitForRoom, After::Wait);
                break;
            }
            round.schedule.advance();
            let member = &mut self.members[round.members[index]];
            if member.device.seq >= member.quota {
                continue;
            }
            if member.skip > 0 {
                member.skip -= 1;
                continue;
            }
            let line = line.get_or_insert_with(|| Line::new(&state.clock, due, now));
            let due = line.when(due);
            let late = now.saturating_duration_since(due);
            state.lateness.observe(late.as_secs_f64());
            let elapsed = hours(due.saturating_duration_since(self.start));
            let lane = &mut self.outlets[member.lane].lane;
            match flow(lane, &state.config.flow, &mut state.thinned) {
                None => {
                    let at = Moment { timestamp, elapsed };
                    speak(member, lane, at, now, &state.habits, &mut state.truths);
                    made += 1;
                }
                Some(reason) => {
                    // The number is used up: the gap shows the loss downstream.
                    member.device.seq += 1;
                    self.metrics.dropped(reason, 1);
                }
            }
            state.left -= usize::from(member.device.seq >= member.quota);
        }
        self.made(made, begun);
        after
    }

    /// Makes messages for every lane that doesn't have a full batch ready.
    fn make_for_room(&mut self, state: &mut State, now: Instant) -> After {
        let timestamp = now_ms();
        let (begun, mut made) = (Instant::now(), 0);
        let Pace::Unbounded { turns, next } = &mut state.pace else {
            return After::Finished;
        };
        for (lane, (turns, next)) in turns.iter_mut().zip(next).enumerate() {
            let lane = &mut self.outlets[lane].lane;
            for _ in 0..TURN {
                let Some(index) = turns.get(*next).filter(|_| !lane.is_ahead()) else {
                    break;
                };
                let member = &mut self.members[*index];
                let interval = state.habits[member.device.profile].interval;
                let elapsed = hours(interval) * member.device.seq as f64;
                let at = Moment { timestamp, elapsed };
                speak(member, lane, at, now, &state.habits, &mut state.truths);
                made += 1;
                if member.device.seq >= member.quota {
                    turns.remove(*next);
                } else {
                    *next += 1;
                }
                if *next >= turns.len() {
                    *next = 0;
                }
            }
        }
        let ends = state.config.run.messages > 0;
        let finished = ends && turns.iter().all(Vec::is_empty);
        self.made(made, begun);
        match made {
            _ if finished => After::Finished,
            0 => After::WaitForRoom,
            _ => After::Again,
        }
    }

    /// So many messages were made since.
    fn made(&self, messages: u32, begun: Instant) {
        if messages > 0 {
            let each = begun.elapsed() / messages;
            let latency = &self.metrics.serialization_latency;
            latency.observe(each.as_secs_f64());
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

/// Why a message for the lane is left out, if it is.
fn flow(lane: &Lane, config: &FlowConfig, thinned: &mut f64) -> Option<Dropped> {
    let fill = lane.fill();
    if fill >= 1.0 {
        return Some(Dropped::BufferFull);
    }
    if fill < config.throttle_above {
        return None;
    }
    *thinned += config.drop_rate;
    (*thinned >= 1.0).then(|| {
        *thinned -= 1.0;
        Dropped::Throttled
    })
}

fn speak(
    member: &mut Member,
    lane: &mut Lane,
    at: Moment,
    now: Instant,
    habits: &[Habits],
    truths: &mut Vec<Truth>,
) {
    lane.push(now, member.device.origin, at.timestamp, |out| {
        member.device.speak(habits, at, out, truths)
    });
}

async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => tokio::task::yield_now().await,
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
