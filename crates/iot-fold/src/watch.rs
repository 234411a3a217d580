//! Finds devices that have fallen silent, from the log alone. The time of a partition is
//! the highest time of its records; a device whose last message is too long before that is
//! silent. docs/detection.md explains the details.
//!
//! Devices form a queue ordered by their last message, the oldest at the front. A record
//! therefore costs the same for any number of devices: its device moves to the end, and
//! only the front is checked.

use crate::alert::{AlertState, Moment};
use crate::state::DeviceState;

/// Not a number of a device.
const NONE: usize = usize::MAX;

/// Where a partition was at the last message of a device. It is stored with the device, so
/// that the queue and the time of a partition follow from its devices alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Heard {
    /// Offset of the message.
    pub(crate) offset: i64,
    /// The highest time of a record so far, in milliseconds since the epoch.
    pub(crate) recorded: i64,
    /// The same without most of the time in which no device sent anything: such a gap says
    /// nothing about a single device.
    pub(crate) clock: i64,
}

/// A device in the queue, with its neighbours.
#[derive(Debug, Clone, Copy)]
struct Link {
    before: usize,
    behind: usize,
    clock: i64,
}

/// The queue of the devices that have sent messages and are not silent.
#[derive(Debug)]
pub(crate) struct Watch {
    /// How long a device may be silent, in milliseconds; `None` turns this off.
    patience: Option<i64>,
    /// At the newest record; `None` until a record has a time.
    now: Option<Heard>,
    front: usize,
    end: usize,
    /// By number of the device.
    links: Vec<Option<Link>>,
}

impl Heard {
    /// After the next record. No device sent anything in between, so the clock advances by
    /// at most `most`.
    fn next(self, offset: i64, recorded: Option<i64>, most: i64) -> Self {
        let newest = recorded.map_or(self.recorded, |at| at.max(self.recorded));
        let step = newest.saturating_sub(self.recorded).min(most);
        Self {
            offset,
            recorded: newest,
            clock: self.clock.saturating_add(step),
        }
    }

    /// The present moment, with the seconds since the last message of a device as its value.
    pub(crate) fn moment(self, last: Self) -> Moment {
        Moment {
            offset: self.offset,
            timestamp: self.recorded,
            value: last.seconds_until(self),
        }
    }

    /// Seconds from then to `now`, in the time of the log.
    fn seconds_until(self, now: Self) -> f64 {
        now.recorded.saturating_sub(self.recorded) as f64 / 1_000.0
    }
}

impl Watch {
    pub(crate) fn new(patience: Option<i64>) -> Self {
        Self {
            patience,
            now: None,
            front: NONE,
            end: NONE,
            links: Vec::new(),
        }
    }

    /// Rebuilds the queue from stored devices.
    pub(crate) fn restore<'d>(&mut self, devices: impl Iterator<Item = &'d DeviceState>) {
        let mut heard: Vec<_> = devices
            .enumerate()
            .filter_map(|(at, device)| Some((device.heard?, at, device.is_silent())))
            .collect();
        heard.sort_unstable_by_key(|(heard, ..)| heard.offset);
        self.now = heard.last().map(|(heard, ..)| *heard);
        for (heard, at, is_silent) in heard {
            if !is_silent {
                self.join(at, heard.clock);
            }
        }
    }

    /// Advances the time and moves a device to the end of the queue. `None` if this is
    /// turned off, or no record had a time yet.
    pub(crate) fn hear(&mut self, at: usize, offset: i64, recorded: Option<i64>) -> Option<Heard> {
        let most = self.patience? / 2;
        let now = match self.now {
            Some(now) => now.next(offset, recorded, most),
            None => recorded.map(|recorded| Heard {
                offset,
                recorded,
                clock: recorded,
            })?,
        };
        self.now = Some(now);
        self.leave(at);
        self.join(at, now.clock);
        Some(now)
    }

    /// Removes the device at the front if it is silent.
    pub(crate) fn next_silent(&mut self) -> Option<(usize, Heard)> {
        let (patience, now, front) = (self.patience?, self.now?, self.front);
        let link = (*self.links.get(front)?)?;
        if now.clock.saturating_sub(link.clock) <= patience {
            return None;
        }
        self.leave(front);
        Some((front, now))
    }

    fn join(&mut self, at: usize, clock: i64) {
        if self.links.len() <= at {
            self.links.resize(at + 1, None);
        }
        let before = std::mem::replace(&mut self.end, at);
        match self.link(before) {
            Some(link) => link.behind = at,
            None => self.front = at,
        }
        self.links[at] = Some(Link {
            before,
            behind: NONE,
            clock,
        });
    }

    /// Does nothing if the device is not in the queue.
    fn leave(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at).and_then(Option::take) else {
            return;
        };
        match self.link(link.before) {
            Some(before) => before.behind = link.behind,
            None => self.front = link.behind,
        }
        match self.link(link.behind) {
            Some(behind) => behind.before = link.before,
            None => self.end = link.before,
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
