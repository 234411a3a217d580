//! Finds silent devices, and those that are gone, from the log alone. A device is silent when
//! `clock` has advanced by more than `detect.silence.after` since its last message, and gone
//! when `age` has by more than `retention.devices`. docs/detection.md and docs/state.md explain
//! the details.

use crate::alert::{AlertState, Moment};
use crate::log_time::{LogPosition, LogTime, MaxSteps};
use crate::queue::Queue;
use crate::state::DeviceState;

/// The time of the partition, and the devices that have sent messages.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The allowed silence, in milliseconds; `None` turns detection off.
    silent_after: Option<i64>,
    /// How long devices are kept after their last message, in milliseconds; `None` keeps them.
    retention: Option<i64>,
    /// The time at the newest message; `None` until a record has a time.
    time: Option<LogTime>,
    /// Whether the state is of a version that kept no time: earlier record times are unknown.
    is_older: bool,
    /// The devices that are not silent, by their clocks.
    talking: Queue,
    /// All devices, by their ages; empty without a retention.
    kept: Queue,
}

/// What a message has done to the time of its partition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Heard {
    /// The position at the message.
    pub(crate) now: LogPosition,
    /// Whether the time went back, as one of the first four records of a partition can make it.
    pub(crate) fell: bool,
}

impl LogPosition {
    /// The moment of an alert at this position. Its value is the seconds since `last`, the
    /// position of the device's previous message.
    pub(crate) fn moment(self, last: Self) -> Moment {
        Moment {
            offset: self.offset,
            timestamp: self.recorded,
            value: last.seconds_until(self),
        }
    }

    /// Seconds from this position to `now`, by record time.
    fn seconds_until(self, now: Self) -> f64 {
        now.recorded.saturating_sub(self.recorded) as f64 / 1_000.0
    }
}

impl Watch {
    pub(crate) fn new(silent_after: Option<i64>, retention: Option<i64>) -> Self {
        Self {
            silent_after,
            retention,
            time: None,
            is_older: false,
            talking: Queue::new(),
            kept: Queue::new(),
        }
    }

    /// Continues with the stored time and devices. State of an earlier version (`is_older`) has
    /// no time: it is that of the newest message then.
    pub(crate) fn restore<'d>(
        &mut self,
        time: Option<LogTime>,
        is_older: bool,
        devices: impl Iterator<Item = &'d DeviceState>,
    ) {
        let mut positions: Vec<_> = devices
            .enumerate()
            .filter_map(|(at, device)| Some((device.heard?, at, device.is_silent())))
            .collect();
        positions.sort_unstable_by_key(|(position, ..)| position.offset);
        let newest = positions.last().map(|(position, ..)| *position);
        self.is_older = is_older && time.is_none();
        self.time = time.or_else(|| newest.map(LogTime::taken_over));
        for (position, at, is_silent) in positions {
            if !is_silent {
                self.talking.push_back(at, position.clock);
            }
            if self.retention.is_some() {
                self.kept.push_back(at, position.age);
            }
        }
    }

    /// The time at the newest message.
    pub(crate) fn time(&self) -> Option<&LogTime> {
        self.time.as_ref()
    }

    /// Advances the time to a record, and moves its device to the end of the queue. `None` if
    /// no record had a time yet.
    pub(crate) fn hear(&mut self, at: usize, offset: i64, recorded: Option<i64>) -> Option<Heard> {
        let half = |of: Option<i64>| of.map_or(i64::MAX, |of| of / 2);
        let most = MaxSteps {
            clock: half(self.silent_after),
            age: half(self.retention),
        };
        let before = self.time.as_ref().map(|time| time.now.recorded);
        let time = match &mut self.time {
            Some(time) => {
                time.advance(offset, recorded, most);
                time
            }
            none => none.insert(LogTime {
                is_taken_over: self.is_older,
                ..LogTime::new(offset, recorded?)
            }),
        };
        let now = time.now;
        let fell = before.is_some_and(|before| now.recorded < before);
        if fell {
            self.talking.lower(now.clock);
            self.kept.lower(now.age);
        }
        self.talking.remove(at);
        self.talking.push_back(at, now.clock);
        if self.retention.is_some() {
            self.kept.remove(at);
            self.kept.push_back(at, now.age);
        }
        Some(Heard { now, fell })
    }

    /// Removes and returns the front device if it is silent, with the current position.
    pub(crate) fn pop_silent(&mut self) -> Option<(usize, LogPosition)> {
        let (silent_after, now) = (self.silent_after?, self.time.as_ref()?.now);
        let (front, clock) = self.talking.front()?;
        if now.clock.saturating_sub(clock) <= silent_after {
            return None;
        }
        self.talking.remove(front);
        Some((front, now))
    }

    /// Forgets and returns the device with the oldest message if it is gone, with the current
    /// position.
    pub(crate) fn pop_gone(&mut self) -> Option<(usize, LogPosition)> {
        let (retention, now) = (self.retention?, self.time.as_ref()?.now);
        let (front, age) = self.kept.front()?;
        if now.age.saturating_sub(age) <= retention {
            return None;
        }
        self.kept.remove(front);
        self.talking.remove(front);
        Some((front, now))
    }
}

impl DeviceState {
    pub(crate) fn is_silent(&self) -> bool {
        self.silence.as_deref().is_some_and(AlertState::is_active)
    }
}
