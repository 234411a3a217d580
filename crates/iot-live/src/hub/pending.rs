//! What waits to be sent to a subscription.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use iot_fold::DeviceKey;

use super::json::{self, Data, Field};
use super::view::{EntryId, View};
use crate::channel::{Channel, Filter, Kind};

/// Changes of devices, conflated: only which values changed is kept, oldest change first. The
/// values are those of the moment at which they are sent.
#[derive(Debug, Default, Clone)]
pub(super) struct Latest {
    order: BTreeMap<u64, EntryId>,
    changed: HashMap<EntryId, Changed>,
    removed: BTreeMap<DeviceKey, EntryId>,
    /// Numbers changes.
    next: u64,
    /// Changes that were replaced by later ones before they were sent.
    skipped: u64,
}

#[derive(Debug, Clone)]
struct Changed {
    number: u64,
    what: What,
}

/// What changed in a device.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    /// Everything.
    Whole,
    /// The values of these sensors.
    Sensors(Vec<Arc<str>>),
}

/// Changes that are sent together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) data: Vec<u8>,
    removed: Vec<(DeviceKey, EntryId)>,
    changed: Vec<(EntryId, What)>,
    pub(super) skipped: u64,
}

impl Batch {
    /// Whether nothing of it is shown any more.
    pub(super) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.changed.is_empty()
    }
}

impl Latest {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty() && self.removed.is_empty()
    }

    /// Devices that wait.
    pub(super) fn len(&self) -> usize {
        self.order.len() + self.removed.len()
    }

    /// Adds that the values of sensors changed, if the filter takes them.
    pub(super) fn change<'s>(
        &mut self,
        id: EntryId,
        filter: &Filter,
        mut sensors: impl Iterator<Item = &'s Arc<str>>,
    ) {
        match &filter.sensor {
            None => self.change_all(id, sensors),
            Some(only) if sensors.any(|sensor| sensor == only) => {
                self.change_all(id, std::iter::once(only));
            }
            Some(_) => {}
        }
    }

    fn change_all<'s>(&mut self, id: EntryId, sensors: impl Iterator<Item = &'s Arc<str>>) {
        match self.changed.get_mut(&id) {
            Some(known) => match &mut known.what {
                What::Whole => self.skipped += sensors.count() as u64,
                What::Sensors(before) => {
                    for sensor in sensors {
                        if before.contains(sensor) {
                            self.skipped += 1;
                        } else {
                            before.push(sensor.clone());
                        }
                    }
                }
            },
            None => self.insert(id, What::Sensors(sensors.cloned().collect())),
        }
    }

    /// Adds a device with all of its values.
    pub(super) fn whole(&mut self, id: EntryId) {
        match self.changed.get_mut(&id) {
            Some(known) => known.what = What::Whole,
            None => self.insert(id, What::Whole),
        }
    }

    fn insert(&mut self, id: EntryId, what: What) {
        let number = self.next;
        self.next += 1;
        self.order.insert(number, id);
        self.changed.insert(id, Changed { number, what });
    }

    /// Adds that a device is not shown any more.
    pub(super) fn remove(&mut self, id: EntryId, key: &DeviceKey) {
        if let Some(changed) = self.changed.remove(&id) {
            self.order.remove(&changed.number);
        }
        self.removed.insert(key.clone(), id);
    }

    /// Adds changes that could not be sent.
    pub(super) fn absorb(&mut self, batch: &Batch) {
        for (key, id) in &batch.removed {
            self.remove(*id, key);
        }
        for (id, what) in &batch.changed {
            match (self.changed.get_mut(id), what) {
                (None, what) => self.insert(*id, what.clone()),
                (Some(_), What::Whole) => self.whole(*id),
                (Some(known), What::Sensors(sensors)) => {
                    let What::Sensors(before) = &mut known.what else {
                        self.skipped += sensors.len() as u64;
                        continue;
                    };
                    for sensor in sensors {
                        if before.contains(sensor) {
                            self.skipped += 1;
                        } else {
                            before.push(sensor.clone());
                        }
                    }
                }
            }
        }
        self.skipped += batch.skipped;
    }

    /// Takes out the changes that have waited longest, about `limit` bytes of them.
    pub(super) fn take(&mut self, view: &View, channel: &Channel, limit: usize) -> Batch {
        let mut data = Data::default();
        let (mut removed, mut changed) = (Vec::new(), Vec::new());
        while data.len() < limit
            && let Some((key, id)) = self.removed.pop_first()
        {
            data.item(Field::Removed, |out| json::key(out, &key));
            removed.push((key, id));
        }
        while data.len() < limit
            && let Some((_, id)) = self.order.pop_first()
        {
            let Some(Changed { what, .. }) = self.changed.remove(&id) else {
                continue;
            };
            // It may have gone, or moved, meanwhile: that follows.
            let shown = view.shown(id);
            let shown = shown.filter(|device| {
                let place = device.location.as_deref();
                let sensor = channel.filter.sensor.as_deref();
                channel.filter.takes_device(&device.key, place)
                    && sensor.is_none_or(|sensor| device.readings.find(sensor).is_ok())
            });
            let Some(device) = shown else {
                continue;
            };
            let is_whole = what == What::Whole || channel.kind == Kind::Devices;
            let takes = |name: &str| match &what {
                _ if !channel.filter.takes_sensor(name) => false,
                _ if is_whole => true,
                What::Whole => true,
                What::Sensors(sensors) => sensors.iter().any(|sensor| **sensor == *name),
            };
            let all = &device.readings;
            data.item(Field::Devices, |out| {
                json::device(out, &device, all, takes, None)
            });
            changed.push((id, what));
        }
        let skipped = std::mem::take(&mut self.skipped);
        Batch {
            data: data.end(true, skipped),
            removed,
            changed,
            skipped,
        }
    }
}

/// Changes in their order, none left out: already as JSON.
#[derive(Debug, Default)]
pub(super) struct Lines {
    full: VecDeque<Data>,
    last: Data,
    bytes: usize,
}

impl Lines {
    /// Appends an item; a publication has about `limit` bytes.
    pub(super) fn add(&mut self, field: Field, item: &[u8], limit: usize) {
        let last = self.last.field();
        // What removes comes first in its publication, whatever a client handles first.
        let is_other = last.is_some_and(|last| last != field);
        if is_other || (self.last.len() > 0 && self.last.len() + item.len() > limit) {
            self.full.push_back(std::mem::take(&mut self.last));
        }
        self.last.item(field, |out| out.extend_from_slice(item));
        self.bytes += item.len() + 1;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.last.field().is_none()
    }

    /// The data of all publications, in order.
    pub(super) fn take(&mut self, of_devices: bool) -> Vec<Vec<u8>> {
        let Self { full, last, .. } = std::mem::take(self);
        let last = last.field().is_some().then_some(last);
        let all = full.into_iter().chain(last);
        all.map(|data| data.end(of_devices, 0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::channel::{Filter, Mode};
    use crate::testing::device;

    #[test]
    fn nobody_starves_when_more_devices_change_than_can_be_sent() {
        const DEVICES: usize = 2_000;
        let channel = Channel {
            name: "readings".into(),
            kind: Kind::Readings,
            filter: Filter::default(),
            mode: Mode::Latest,
            max_rate: None,
        };
        let mut view = View::new(0);
        let devices = (0..DEVICES).map(|number| {
            let device = Arc::new(device(&format!("d{number:04}")));
            (view.put(0, device.clone()).0, device)
        });
        let devices: Vec<_> = devices.collect();
        let (mut latest, mut behind) = (Latest::default(), Latest::default());
        let (mut heard, mut heard_behind) = (HashSet::new(), HashSet::new());
        for _ in 0..200 {
            for (id, device) in &devices {
                let sensors = device.readings.iter().map(|(name, _)| name);
                latest.change(*id, &channel.filter, sensors);
            }
            let batch = latest.take(&view, &channel, 16 << 10);
            assert!(batch.changed.len() < DEVICES / 10);
            heard.extend(batch.changed.iter().map(|(id, _)| *id));
            // A client that has room for half of it.
            behind.absorb(&batch);
            let batch = behind.take(&view, &channel, 8 << 10);
            heard_behind.extend(batch.changed.iter().map(|(id, _)| *id));
        }
        assert_eq!((heard.len(), heard_behind.len()), (DEVICES, DEVICES));
    }
}
