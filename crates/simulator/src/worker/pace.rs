//! Who sends next, and what is made when it is their turn.

use std::time::Duration;

use tokio::time::Instant;

use super::{Member, State, Worker};
use crate::clock::Line;
use crate::config::{FlowConfig, Rate, SimulatorConfig};
use crate::fleet::{Habits, Truth};
use crate::lane::Lane;
use crate::metrics::Dropped;
use crate::schedule::Schedule;
use crate::sensors::Moment;

/// Messages made before looking at anything else.
const TURN: usize = 256;

/// Who sends next.
#[derive(Debug)]
pub(super) enum Pace {
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
pub(super) struct Round {
    pub(super) schedule: Schedule,
    members: Vec<usize>,
}

/// What to do after a turn of making messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
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
    /// The pace of those that send, from `now` of the fleet's time on.
    pub(super) fn pace(&self, config: &SimulatorConfig, habits: &[Habits], now: Duration) -> Pace {
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

    /// When each of its devices is due next: none if it doesn't send. At full speed
    /// that is not a time, but says whose turn it is first.
    pub(super) fn turns(&self, state: &State) -> Vec<Option<Duration>> {
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
    pub(super) fn settle(&mut self, state: &mut State, due: &[Option<Duration>]) {
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

    /// Makes the messages that are due; those for a full lane it only counts.
    pub(super) fn make_due(&mut self, state: &mut State, now: Instant) -> After {
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
    pub(super) fn make_for_room(&mut self, state: &mut State, now: Instant) -> After {
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

fn hours(duration: Duration) -> f64 {
    duration.as_secs_f64() / 3600.0
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
