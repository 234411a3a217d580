//! The order in which a worker's devices send, and the creation of their messages.

use std::time::Duration;

use tokio::time::Instant;

use super::throttle::Held;
use super::{Member, State, Worker};
use crate::clock::Interpolation;
use crate::config::{Rate, SimulatorConfig};
use crate::fleet::DeviceProfile;
use crate::lane::{Lane, Times};
use crate::schedule::Schedule;
use crate::sensors::Moment;

/// Maximum number of messages created before the worker handles other events.
const TURN: usize = 256;

/// The order in which devices send.
#[derive(Debug)]
pub(super) enum SendOrder {
    /// By schedule.
    Scheduled(Vec<Round>),
    /// The devices of each lane in turn, whenever the lane has room.
    Unbounded {
        /// By lane, the indexes of its devices.
        turns: Vec<Vec<usize>>,
        /// By lane, the position in `turns` of the next device.
        next: Vec<usize>,
    },
}

/// The devices of one profile, which share an interval.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) schedule: Schedule,
    pub(super) members: Vec<usize>,
}

/// What to do after a turn of creating messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Continue at once.
    Again,
    /// Wait until this time.
    Wait(Instant),
    /// Wait until a lane has room or another event occurs.
    WaitForRoom,
    /// All devices have reached their quota.
    Finished,
}

impl Worker {
    /// The order of the devices that send, from fleet time `now` on.
    pub(super) fn send_order(
        &self,
        config: &SimulatorConfig,
        profiles: &[DeviceProfile],
        now: Duration,
    ) -> SendOrder {
        let devices = config.fleet.devices;
        let members = self.members.iter().enumerate();
        let sending = members.filter(|(_, member)| member.position < devices);
        if config.fleet.rate == Rate::Max {
            let mut turns = vec![Vec::new(); self.handles.len()];
            let sending = sending.filter(|(_, member)| !member.is_done());
            sending.for_each(|(index, member)| turns[member.lane].push(index));
            let next = vec![0; turns.len()];
            return SendOrder::Unbounded { turns, next };
        }
        let mut rounds = vec![(Vec::new(), Vec::new()); profiles.len()];
        for (index, member) in sending {
            let (positions, members) = &mut rounds[member.device.profile];
            positions.push(member.position);
            members.push(index);
        }
        let rounds = rounds.into_iter().zip(profiles);
        let rounds = rounds.map(|((positions, members), profile)| Round {
            schedule: Schedule::new(now, profile.interval, &positions, devices),
            members,
        });
        SendOrder::Scheduled(rounds.collect())
    }

    /// The next due time of each device; `None` if it does not send. With rate `max` it
    /// is not a time and only defines the order of turns.
    pub(super) fn turns(&self, state: &State) -> Vec<Option<Duration>> {
        let mut due = vec![None; self.members.len()];
        match &state.send_order {
            SendOrder::Scheduled(rounds) => {
                for round in rounds {
                    for (index, member) in round.members.iter().enumerate() {
                        let skip = self.members[*member].skip;
                        let skipped = round.schedule.interval().saturating_mul(skip);
                        due[*member] = Some(round.schedule.due(index) + skipped);
                    }
                }
            }
            SendOrder::Unbounded { turns, next } => {
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

    /// Continues with the devices and lanes that the worker has now, at these due times.
    pub(super) fn settle(&mut self, state: &mut State, due: &[Option<Duration>]) {
        let config = state.config.clone();
        self.count(&config);
        state.unfinished_devices = self.unfinished_devices();
        if config.fleet.rate == Rate::Max {
            state.send_order = self.send_order(&config, &state.profiles, Duration::ZERO);
            if let SendOrder::Unbounded { turns, .. } = &mut state.send_order {
                for turns in turns {
                    turns.sort_by_key(|member| due[*member]);
                }
            }
            return;
        }
        let profiles = 0..state.profiles.len();
        let rounds = profiles.map(|profile| {
            let members = self.members.iter().zip(due).enumerate();
            let members = members.filter(|(_, (member, _))| member.device.profile == profile);
            let members = members.filter_map(|(index, (_, due))| Some((index, (*due)?)));
            let (members, due): (Vec<usize>, Vec<Duration>) = members.unzip();
            let interval = state.profiles[profile].interval;
            let (schedule, order) = Schedule::resume(interval, &due);
            let members = order.into_iter().map(|(index, skip)| {
                let member = members[index];
                self.members[member].skip = u32::try_from(skip).unwrap_or(u32::MAX);
                member
            });
            let members = members.collect();
            Round { schedule, members }
        });
        state.send_order = SendOrder::Scheduled(rounds.collect());
    }

    /// Creates the messages that are due, or holds them back or drops them if their lane has
    /// no room.
    pub(super) fn make_due(&mut self, state: &mut State, now: Instant) -> After {
        let (started, mut made) = (Instant::now(), 0);
        let time = state.clock.at(now);
        state.timestamp = now_ms();
        let (mut after, mut due_at) = (After::Again, None);
        for _ in 0..TURN {
            let SendOrder::Scheduled(rounds) = &mut state.send_order else {
                break;
            };
            if state.config.run.messages > 0 && state.unfinished_devices == 0 {
                after = match self.held() {
                    0 => After::Finished,
                    _ => After::WaitForRoom,
                };
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
            let index = round.members[index];
            let member = &mut self.members[index];
            if member.is_done() {
                continue;
            }
            if member.skip > 0 {
                member.skip -= 1;
                continue;
            }
            let line = due_at
                .filter(|line: &Interpolation| line.covers(due))
                .unwrap_or_else(|| Interpolation::new(&state.clock, due, now));
            due_at = Some(line);
            let message = Held {
                member: index,
                due: line.when(due),
                gap: 0,
            };
            made += self.place(state, message, now);
            state.unfinished_devices -= usize::from(self.members[index].is_done());
        }
        self.observe_latency(made, started);
        after
    }

    /// Creates messages for each lane without a full batch.
    pub(super) fn make_for_room(&mut self, state: &mut State, now: Instant) -> After {
        let times = Times {
            // There is no schedule: a message is due when there is room for it.
            due: now,
            timestamp: now_ms(),
        };
        let (started, mut made) = (Instant::now(), 0);
        let SendOrder::Unbounded { turns, next } = &mut state.send_order else {
            return After::Finished;
        };
        for (lane, (turns, next)) in turns.iter_mut().zip(next).enumerate() {
            let lane = &mut self.handles[lane].lane;
            for _ in 0..TURN {
                let Some(index) = turns.get(*next).filter(|_| !lane.is_ahead()) else {
                    break;
                };
                let member = &mut self.members[*index];
                let interval = state.profiles[member.device.profile].interval;
                let elapsed = hours(interval) * member.device.seq as f64;
                let at = Moment {
                    timestamp: times.timestamp,
                    elapsed,
                };
                let (profiles, truths) = (&state.profiles, &mut state.truths);
                lane.push(now, member.device.origin, times, |out| {
                    member.device.emit(profiles, at, out, truths)
                });
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
        let is_limited = state.config.run.messages > 0;
        let finished = is_limited && turns.iter().all(Vec::is_empty);
        self.observe_latency(made, started);
        if finished {
            After::Finished
        } else if made == 0 {
            After::WaitForRoom
        } else {
            After::Again
        }
    }

    /// Observes the mean time to create one of the messages created since `started`.
    fn observe_latency(&self, messages: u32, started: Instant) {
        if messages > 0 {
            let each = started.elapsed() / messages;
            let latency = &self.metrics.serialization_latency;
            latency.observe(each.as_secs_f64());
        }
    }
}

/// Creates the message of a device that was due at `due`, in a fleet that started at `start`.
pub(super) fn emit(
    member: &mut Member,
    lane: &mut Lane,
    due: Instant,
    start: Instant,
    now: Instant,
    state: &mut State,
) {
    let times = Times {
        due,
        timestamp: state.timestamp,
    };
    let at = Moment {
        timestamp: state.timestamp,
        elapsed: hours(due.saturating_duration_since(start)),
    };
    let (profiles, truths) = (&state.profiles, &mut state.truths);
    lane.push(now, member.device.origin, times, |out| {
        member.device.emit(profiles, at, out, truths)
    });
}

/// Observes how late a message is created or dropped.
pub(super) fn observe_lateness(state: &State, due: Instant, now: Instant) {
    let late = now.saturating_duration_since(due);
    state.lateness.observe(late.as_secs_f64());
}

fn hours(duration: Duration) -> f64 {
    duration.as_secs_f64() / 3600.0
}

pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
