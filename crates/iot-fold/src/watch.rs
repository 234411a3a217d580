//! Finds silent devices from the log alone. A device is silent when `clock` has advanced by
//! more than `detect.silence.after` since its last message. docs/detection.md explains the
//! details.
//!
//! Devices form a queue ordered by their last message, the oldest at the front. A record
//! costs the same for any number of devices: its device moves to the end, and only the front
//! is checked.

use crate::alert::{AlertState, Moment};
use crate::state::DeviceState;

/// Index that stands for no neighbour, or for the front and the end of an empty queue.
const NONE: usize = usize::MAX;

/// Offset and times of a partition at a message. Each device's last one is stored with the
/// device, so that the queue and the current position can be rebuilt from the devices alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogPosition {
    /// Offset of the message.
    pub(crate) offset: i64,
    /// The highest record time so far, in milliseconds since the epoch.
    pub(crate) recorded: i64,
    /// Like `recorded`, but one record advances it by at most half the allowed silence, so
    /// that an outage of the whole partition does not report every device at once. Half,
    /// because a device that sends at least that often then stays within the allowed silence
    /// at the first record after the outage.
    pub(crate) clock: i64,
}

/// A device in the queue: its neighbours, and the clock at its last message.
#[derive(Debug, Clone, Copy)]
struct Link {
    previous: usize,
    next: usize,
    clock: i64,
}

/// The queue of the devices that have sent messages and are not silent.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The allowed silence, in milliseconds; `None` turns detection off.
    silent_after: Option<i64>,
    /// The current position, that of the newest record; `None` until a record has a time.
    now: Option<LogPosition>,
    front: usize,
    end: usize,
    /// Indexed by device; `None` if the device is not in the queue.
    links: Vec<Option<Link>>,
}

impl LogPosition {
    /// The position at the next record, which advances the clock by at most `max_step`.
    fn next(self, offset: i64, recorded: Option<i64>, max_step: i64) -> Self {
        let newest = recorded.map_or(self.recorded, |at| at.max(self.recorded));
        let step = newest.saturating_sub(self.recorded).min(max_step);
        Self {
            offset,
            recorded: newest,
            clock: self.clock.saturating_add(step),
        }
    }

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
    pub(crate) fn new(silent_after: Option<i64>) -> Self {
        Self {
            silent_after,
            now: None,
            front: NONE,
            end: NONE,
            links: Vec::new(),
        }
    }

    /// Rebuilds the queue from stored devices.
    pub(crate) fn restore<'d>(&mut self, devices: impl Iterator<Item = &'d DeviceState>) {
        let mut positions: Vec<_> = devices
            .enumerate()
            .filter_map(|(at, device)| Some((device.heard?, at, device.is_silent())))
            .collect();
        positions.sort_unstable_by_key(|(position, ..)| position.offset);
        self.now = positions.last().map(|(position, ..)| *position);
        for (position, at, is_silent) in positions {
            if !is_silent {
                self.push_back(at, position.clock);
            }
        }
    }

    /// Advances the position to a record, and moves its device to the end of the queue.
    /// Returns the new position; `None` if detection is off, or no record had a time yet.
    pub(crate) fn hear(
        &mut self,
        at: usize,
        offset: i64,
        recorded: Option<i64>,
    ) -> Option<LogPosition> {
        let max_step = self.silent_after? / 2;
        let now = match self.now {
            Some(now) => now.next(offset, recorded, max_step),
            None => recorded.map(|recorded| LogPosition {
                offset,
                recorded,
                clock: recorded,
            })?,
        };
        self.now = Some(now);
        self.remove(at);
        self.push_back(at, now.clock);
        Some(now)
    }

    /// Removes and returns the front device if it is silent, with the current position.
    pub(crate) fn pop_silent(&mut self) -> Option<(usize, LogPosition)> {
        let (silent_after, now, front) = (self.silent_after?, self.now?, self.front);
        let link = (*self.links.get(front)?)?;
        if now.clock.saturating_sub(link.clock) <= silent_after {
            return None;
        }
        self.remove(front);
        Some((front, now))
    }

    fn push_back(&mut self, at: usize, clock: i64) {
        if self.links.len() <= at {
            self.links.resize(at + 1, None);
        }
        let previous = std::mem::replace(&mut self.end, at);
        match self.link(previous) {
            Some(link) => link.next = at,
            None => self.front = at,
        }
        self.links[at] = Some(Link {
            previous,
            next: NONE,
            clock,
        });
    }

    /// Does nothing if the device is not in the queue.
    fn remove(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at).and_then(Option::take) else {
            return;
        };
        match self.link(link.previous) {
            Some(previous) => previous.next = link.next,
            None => self.front = link.next,
        }
        match self.link(link.next) {
            Some(next) => next.previous = link.previous,
            None => self.end = link.previous,
        }
    }

    fn link(&mut self, at: usize) -> Option<&mut Link> {
        self.links.get_mut(at)?.as_mut()
    }
}

impl DeviceState {
    pub(crate) fn is_silent(&self) -> bool {
        self.silence.as_deref().is_some_and(AlertState::is_active)
    }
}
