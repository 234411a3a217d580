//! Flow control: what happens to a message that is due while the buffer of its lane is
//! nearly full. The schedule goes on in any case.
//!
//! A message that the sink has no room for waits to be created: it is held back. Above
//! `flow.throttle_above` a token bucket decides how many are created; once no more may be held
//! back, some are dropped, and all of them while the buffer is full.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::send_order::{emit, now_ms, observe_lateness};
use super::{LaneHandle, State, Worker};
use crate::config::{FlowConfig, Rate};
use crate::lane::Lane;
use crate::metrics::Dropped;

/// The messages of a lane that are held back.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// In the order in which they were due.
    held: VecDeque<Held>,
    /// Tokens in the bucket, at most one.
    tokens: f64,
    /// Accumulated `drop_rate`; a message is dropped at 1.
    thinned: f64,
}

/// A message that is due and not created yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Index of its device.
    pub(super) member: usize,
    pub(super) due: Instant,
    /// Number of messages of the device dropped between the previous one held back and this one.
    pub(super) gap: u64,
}

/// What happens to a message that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is created.
    Create,
    /// It is held back.
    Hold,
    /// It is held back, and the oldest one is created.
    HoldAndCreate,
    /// It is dropped.
    Drop(Dropped),
}

impl Throttle {
    /// Number of messages that are held back.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// What happens to another message while the lane's buffer is full to the share `fill`
    /// and at most `most` messages may be held back.
    pub(super) fn admit(&mut self, fill: f64, most: usize, config: &FlowConfig) -> Admission {
        let create = if self.held.is_empty() {
            Admission::Create
        } else {
            Admission::HoldAndCreate
        };
        if fill < config.throttle_above {
            return create;
        }
        let is_full = fill >= 1.0;
        self.tokens += config.throttled_rate;
        if !is_full && self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return create;
        }
        self.tokens = self.tokens.min(1.0);
        if self.held.len() < most {
            return Admission::Hold;
        }
        if is_full {
            return Admission::Drop(Dropped::BufferFull);
        }
        self.thinned += config.drop_rate;
        if self.thinned >= 1.0 {
            self.thinned -= 1.0;
            return Admission::Drop(Dropped::Throttled);
        }
        create
    }
}

impl Worker {
    /// Creates a message that is due, holds it back or drops it, as its lane's buffer allows.
    /// Returns the number of messages created.
    pub(super) fn place(&mut self, state: &mut State, message: Held, now: Instant) -> u32 {
        let lanes = self.assignment.lanes.max(1);
        let most = state.config.flow.held_back.div_ceil(lanes) as usize;
        let index = self.members[message.member].lane;
        let LaneHandle { lane, throttle, .. } = &mut self.handles[index];
        let admission = throttle.admit(lane.fill(), most, &state.config.flow);
        match admission {
            Admission::Create => {
                self.create(state, message, now);
                1
            }
            Admission::Hold => {
                self.hold(message);
                0
            }
            Admission::HoldAndCreate => {
                let created = u32::from(self.create_held(state, index, now));
                self.hold(message);
                created
            }
            Admission::Drop(reason) => {
                self.members[message.member].use_up(1);
                observe_lateness(state, message.due, now);
                self.metrics.dropped(reason, 1);
                0
            }
        }
    }

    /// The fill up to which messages that were held back are created.
    pub(super) fn released_below(&self, state: &State) -> f64 {
        let config = &state.config;
        let is_last = config.run.messages > 0 && state.unfinished_devices == 0;
        if is_last || config.fleet.rate == Rate::Max {
            // No other message needs the room, or all others are created after them.
            1.0
        } else {
            config.flow.throttle_above
        }
    }

    /// Creates messages that were held back, as long as the buffers of their lanes are filled
    /// to less than the share `below`, or are empty.
    pub(super) fn release(&mut self, state: &mut State, below: f64, now: Instant) {
        if self.held() == 0 {
            return;
        }
        state.timestamp = now_ms();
        for index in 0..self.handles.len() {
            let has_room = |lane: &Lane| lane.fill() < below || lane.waiting() == 0;
            while has_room(&self.handles[index].lane) && self.create_held(state, index, now) {}
        }
    }

    /// Number of messages that are held back.
    pub(super) fn held(&self) -> usize {
        let handles = self.handles.iter();
        handles.map(|handle| handle.throttle.len()).sum()
    }

    /// Takes the messages that are held back, each with the position of its device, so that
    /// [`hold_again`] gives them to the workers that have the devices next.
    pub(super) fn take_held(&mut self) -> Vec<(u32, Held)> {
        let held = self
            .handles
            .iter_mut()
            .map(|handle| &mut handle.throttle.held);
        let held = held.flat_map(std::mem::take);
        held.map(|message| (self.members[message.member].position, message))
            .collect()
    }

    fn hold(&mut self, mut message: Held) {
        let member = &mut self.members[message.member];
        message.gap = std::mem::take(&mut member.gap);
        member.held += 1;
        self.handles[member.lane].throttle.held.push_back(message);
        self.metrics.throttled.inc();
    }

    /// Creates the message of a lane that has been held back for the longest time, if there is
    /// one.
    fn create_held(&mut self, state: &mut State, lane: usize, now: Instant) -> bool {
        let Some(message) = self.handles[lane].throttle.held.pop_front() else {
            return false;
        };
        let member = &mut self.members[message.member];
        let was_done = member.is_done();
        member.held -= 1 + message.gap;
        member.device.seq += message.gap;
        self.create(state, message, now);
        let member = &mut self.members[message.member];
        if member.held == member.gap {
            member.device.seq += std::mem::take(&mut member.gap);
            member.held = 0;
        }
        // A device whose sensors all have a dropout has created nothing.
        let is_done = self.members[message.member].is_done();
        state.unfinished_devices += usize::from(was_done && !is_done);
        true
    }

    fn create(&mut self, state: &mut State, message: Held, now: Instant) {
        observe_lateness(state, message.due, now);
        let member = &mut self.members[message.member];
        let lane = &mut self.handles[member.lane].lane;
        emit(member, lane, message.due, self.start, now, state);
    }
}

/// Gives messages that were held back to the workers that have their devices now.
pub(super) fn hold_again(workers: &mut [&mut Worker], mut held: Vec<(u32, Held)>) {
    // The order of each lane is that in which its messages were due.
    held.sort_by_key(|(_, message)| message.due);
    for (position, message) in held {
        for worker in &mut *workers {
            let member = worker
                .members
                .binary_search_by_key(&position, |member| member.position);
            if let Ok(member) = member {
                let lane = worker.members[member].lane;
                let message = Held { member, ..message };
                worker.handles[lane].throttle.held.push_back(message);
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(throttle: &mut Throttle, fill: f64, config: &FlowConfig) -> Vec<Admission> {
        (0..4).map(|_| throttle.admit(fill, 1, config)).collect()
    }

    #[test]
    fn devices_slow_down_before_messages_are_dropped() {
        let config = FlowConfig {
            throttled_rate: 0.25,
            ..FlowConfig::default()
        };
        let mut throttle = Throttle::default();
        let all = |admission: fn() -> Admission| [0; 4].map(|_| admission());
        assert_eq!(
            admitted(&mut throttle, 0.79, &config),
            all(|| Admission::Create)
        );
        // The fourth message has filled the bucket.
        let slow = [
            Admission::Hold,
            Admission::Hold,
            Admission::Hold,
            Admission::Create,
        ];
        assert_eq!(admitted(&mut throttle, 0.8, &config), slow);
        throttle.held.push_back(Held {
            member: 0,
            due: Instant::now(),
            gap: 0,
        });
        // No more may be held back, so half of the others are dropped.
        let thinned = [
            Admission::HoldAndCreate,
            Admission::Drop(Dropped::Throttled),
            Admission::HoldAndCreate,
            Admission::HoldAndCreate,
        ];
        assert_eq!(admitted(&mut throttle, 0.9, &config), thinned);
        let full = all(|| Admission::Drop(Dropped::BufferFull));
        assert_eq!(admitted(&mut throttle, 1.0, &config), full);
    }
}
