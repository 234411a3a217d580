//! Which devices have fallen silent, by the log alone: the time of a partition is the
//! highest that Kafka has recorded in it, and whoever was last heard too long before
//! that is silent. docs/detection.md explains it.
//!
//! Devices stand in line by their last message, the one that was heard longest ago at
//! the front. So a record costs the same however many devices there are: one goes to the
//! end of the line, and only the front is looked at.

use crate::alert::{AlertState, Moment};
use crate::state::DeviceState;

/// Not a place in the line.
const NONE: usize = usize::MAX;

/// Where a partition was at the last message of a device. It is stored with the device,
/// so that the line and the time of a partition follow from its devices alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Heard {
    /// Offset of the message.
    pub(crate) offset: i64,
    /// The highest time of a record so far, milliseconds since the epoch.
    pub(crate) recorded: i64,
    /// The same without most of the time in which nobody was heard, which tells nothing
    /// of a single device.
    pub(crate) clock: i64,
}

/// A device in the line, and who stands before and behind it.
#[derive(Debug, Clone, Copy)]
struct Link {
    before: usize,
    behind: usize,
    clock: i64,
}

/// The devices that were heard and are not silent, in line.
#[derive(Debug)]
pub(crate) struct Watch {
    /// How long a device may be silent, in milliseconds; `None` if that doesn't matter.
    patience: Option<i64>,
    /// At the newest record that has a time, or after it.
    now: Option<Heard>,
    front: usize,
    end: usize,
    /// By number of the device.
    links: Vec<Option<Link>>,
}

impl Heard {
    /// After the next record. Nobody was heard in between: a step of the clock is no
    /// longer than `most`.
    fn next(self, offset: i64, recorded: Option<i64>, most: i64) -> Self {
        let newest = recorded.map_or(self.recorded, |at| at.max(self.recorded));
        let step = newest.saturating_sub(self.recorded).min(most);
        Self {
            offset,
            recorded: newest,
            clock: self.clock.saturating_add(step),
        }
    }

    /// Now, and how many seconds ago a device was heard.
    pub(crate) fn moment(self, last: Self) -> Moment {
        Moment {
            offset: self.offset,
            timestamp: self.recorded,
            value: last.seconds_until(self),
        }
    }

    /// Seconds of the log from then to `now`.
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

    /// Lets devices that were stored stand in line as they did.
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

    /// Moves the time on, and a device to the end of the line. `None` if nobody is
    /// watched, or no record had a time yet.
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

    /// Takes the front out of the line if it has been silent for too long.
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

    /// Does nothing if it is not in the line.
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
