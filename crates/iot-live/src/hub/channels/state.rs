//! One channel in one framing: what it selects, what waits to be sent, and its members.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use iot_fold::{Alert, DeviceKey, Value};
use tokio::time::Instant;

use crate::channel::{Channel, Kind, Mode};
use crate::hub::backlog::{Backlog, Reader};
use crate::hub::index::GroupId;
use crate::hub::json::{Field, key};
use crate::hub::pending::{Latest, Lines};
use crate::hub::view::EntryId;
use crate::hub::{ClientId, Outbox, Settings, Times};
use crate::protocol::Framing;

/// A channel in one framing.
pub(crate) struct State {
    pub(crate) channel: Channel,
    pub(crate) group: Option<GroupId>,
    pub(super) framing: Framing,
    /// What its positions belong to.
    pub(super) epoch: Arc<str>,
    pub(super) members: HashMap<ClientId, Member>,
    pub(super) latest: Latest,
    pub(super) lines: Lines,
    pub(super) backlog: Backlog,
    /// The last position of a publication or snapshot.
    pub(super) offset: u64,
    pub(super) flushed_at: Option<Instant>,
    pub(super) due_at: Option<Instant>,
    /// Of the oldest change that waits.
    pub(super) times: Option<Times>,
    /// All alerts of the channel; `None` after a change.
    pub(crate) alerts: Option<Arc<[Alert]>>,
}

pub(super) struct Member {
    pub(super) outbox: Outbox,
    pub(super) behind: Latest,
    pub(super) reader: Reader,
    /// The position at which it began. If that is of a replica that was ahead of this one, the
    /// client gets publications without positions until this one has reached it.
    pub(super) held: u64,
}

impl State {
    /// The time between two publications. `gather` is for channels of which nothing is left out.
    pub(super) fn every(&self, settings: &Settings, gather: Duration) -> Duration {
        match (self.channel.max_rate, self.channel.kind, self.channel.mode) {
            (Some(rate), ..) => Duration::from_secs(1) / rate.get(),
            (_, Kind::Alerts, _) | (_, _, Mode::All) => gather,
            _ => settings.interval,
        }
    }

    pub(super) fn is_conflated(&self) -> bool {
        self.channel.is_conflated()
    }

    /// The position of a publication with everything that has changed.
    pub(super) fn advance(&mut self, frontier: Option<u64>) -> Option<u64> {
        self.offset = frontier?.max(self.offset + 1);
        Some(self.offset)
    }

    /// Drops what all members have received, and what is more than `most` bytes. Returns how many
    /// bytes were dropped.
    pub(super) fn trim(&mut self, most: usize) -> usize {
        let before = self.backlog.bytes();
        let members = self.members.values();
        let reading = members.filter(|member| !member.outbox.is_over());
        self.backlog
            .trim(reading.map(|member| &member.reader), most);
        before - self.backlog.bytes()
    }

    /// Makes later publications newer than a snapshot.
    pub(crate) fn starts_at(&mut self, frontier: Option<u64>) {
        self.offset = self.offset.max(frontier.unwrap_or(0));
    }

    /// Adds values of a device that changed.
    pub(crate) fn change(&mut self, id: EntryId, readings: &[(Arc<str>, Value)]) {
        let sensors = readings.iter().map(|(name, _)| name);
        self.latest.change(id, &self.channel.filter, sensors);
    }

    /// Adds a device with all of its values.
    pub(crate) fn whole(&mut self, id: EntryId) {
        self.latest.whole(id);
    }

    pub(crate) fn removed(&mut self, id: EntryId, of: &DeviceKey, limit: usize) {
        if self.is_conflated() {
            self.latest.remove(id, of);
        } else {
            let mut item = Vec::new();
            key(&mut item, of);
            self.lines.add(Field::Removed, &item, limit);
        }
    }

    pub(crate) fn line(&mut self, field: Field, item: &[u8], limit: usize) {
        self.lines.add(field, item, limit);
    }
}

impl Channel {
    pub(crate) fn is_conflated(&self) -> bool {
        self.kind == Kind::Devices || (self.kind == Kind::Readings && self.mode == Mode::Latest)
    }
}
