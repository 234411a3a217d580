//! What changed lately in a partition, for clients that were disconnected for a moment. Readings
//! and alerts are kept apart, so that readings never push out alerts.

use std::collections::VecDeque;
use std::sync::Arc;

use iot_fold::{Alert, DeviceKey, Place, Update, Updates};

use super::view::EntryId;
use crate::channel::Filter;

/// A device as its changes name it.
#[derive(Debug, PartialEq)]
pub(super) struct Head {
    pub(super) id: EntryId,
    pub(super) key: DeviceKey,
    pub(super) location: Option<Arc<Place>>,
}

/// Changes of devices that came together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) updates: Updates,
    /// The device of each change, as it is after it; of a removed one as it was.
    pub(super) heads: Vec<Arc<Head>>,
    /// How devices were named before some changes: the number of the change, and the name;
    /// `None` if it was not known before.
    pub(super) before: Vec<(usize, Option<Arc<Head>>)>,
    bytes: usize,
    last: i64,
}

/// What changed of an alert.
#[derive(Debug)]
pub(super) struct AlertChange {
    /// As it is then, or was last.
    pub(super) alert: Alert,
    /// Whether it is not listed any more.
    pub(super) is_gone: bool,
    /// Where its device was before, if it has moved.
    pub(super) moved_from: Option<Option<Arc<Place>>>,
}

impl AlertChange {
    /// Whether a client with this filter could see it before the change or after it.
    pub(super) fn was_in_scope(&self, filter: &Filter) -> bool {
        let places = [Some(&self.alert.location), self.moved_from.as_ref()];
        let mut places = places.into_iter().flatten();
        places.any(|place| filter.is_in_scope(&self.alert.key, place.as_deref()))
    }

    fn bytes(&self) -> usize {
        size_of::<(i64, Self)>() + self.alert.json_size()
    }
}

/// The changes of a partition.
#[derive(Debug, Default)]
pub(super) struct History {
    batches: VecDeque<Batch>,
    alerts: VecDeque<(i64, AlertChange)>,
    /// Everything from these offsets on is here.
    devices_from: i64,
    alerts_from: i64,
    pub(super) device_bytes: usize,
    pub(super) alert_bytes: usize,
}

impl History {
    /// Begins where a partition was loaded.
    pub(super) fn new(reached: i64) -> Self {
        Self {
            devices_from: reached,
            alerts_from: reached,
            ..Self::default()
        }
    }

    pub(super) fn add(
        &mut self,
        updates: Updates,
        heads: Vec<Arc<Head>>,
        before: Vec<(usize, Option<Arc<Head>>)>,
    ) {
        let Some(last) = updates.iter().last() else {
            return;
        };
        let last = last.offset;
        let named = size_of_val(&heads[..]) + size_of_val(&before[..]);
        let bytes = size_of::<Batch>() + updates.bytes() + named;
        self.device_bytes += bytes;
        self.batches.push_back(Batch {
            updates,
            heads,
            before,
            bytes,
            last,
        });
    }

    /// Adds a change of an alert. Offsets don't fall.
    pub(super) fn add_alert(&mut self, offset: i64, change: AlertChange) {
        self.alert_bytes += change.bytes();
        self.alerts.push_back((offset, change));
    }

    /// Drops the oldest changes of devices. Returns whether there were any.
    pub(super) fn drop_devices(&mut self) -> bool {
        let oldest = self.batches.pop_front();
        if let Some(batch) = &oldest {
            self.device_bytes -= batch.bytes;
            self.devices_from = batch.last + 1;
        }
        oldest.is_some()
    }

    /// Drops the oldest change of an alert. Returns whether there was one.
    pub(super) fn drop_alert(&mut self) -> bool {
        let oldest = self.alerts.pop_front();
        if let Some((offset, change)) = &oldest {
            self.alert_bytes -= change.bytes();
            self.alerts_from = offset + 1;
        }
        oldest.is_some()
    }

    /// The batches with changes from `offset` on, which may begin with earlier ones; `None` if
    /// some of them are gone.
    pub(super) fn devices_since(&self, offset: i64) -> Option<impl Iterator<Item = &Batch>> {
        (self.devices_from <= offset).then(|| {
            let first = self.batches.partition_point(|batch| batch.last < offset);
            self.batches.range(first..)
        })
    }

    /// The changes of alerts from `offset` on; `None` if some of them are gone.
    pub(super) fn alerts_since(&self, offset: i64) -> Option<impl Iterator<Item = &AlertChange>> {
        (self.alerts_from <= offset).then(|| {
            let first = self.alerts.partition_point(|(at, _)| *at < offset);
            self.alerts.range(first..).map(|(_, change)| change)
        })
    }
}

impl Batch {
    /// Each change with its device, and how it was named before if that changed.
    pub(super) fn iter(
        &self,
    ) -> impl Iterator<Item = (Update<'_>, &Arc<Head>, Option<Option<&Arc<Head>>>)> {
        let mut before = self.before.iter().peekable();
        let named = self.updates.iter().zip(&self.heads).enumerate();
        named.map(move |(number, (update, head))| {
            let before = before.next_if(|(at, _)| *at == number);
            (update, head, before.map(|(_, before)| before.as_ref()))
        })
    }
}
