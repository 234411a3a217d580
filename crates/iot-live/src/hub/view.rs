//! What all partitions that are shown know together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use iot_auth::Names;
use iot_fold::{Alert, AlertKind, Device, DeviceKey, Level, Readings};

use super::history::Head;
use super::{ByLevel, Page};
use crate::channel::Filter;

/// Names a device for as long as it is known; never used again.
pub(super) type EntryId = u64;
/// Names a partition for as long as it is shown; never used again.
pub(super) type PartId = u32;

/// Newest values and alerts of all partitions.
#[derive(Debug)]
pub(super) struct View {
    /// Hashed the fast way: each message looks its device up, and clients do not choose the ids.
    entries: HashMap<EntryId, Entry, RandomState>,
    index: BTreeMap<DeviceKey, EntryId>,
    next: EntryId,
    /// By id.
    alerts: HashMap<Arc<str>, Listed>,
    /// The last one of each series.
    last: BTreeMap<Series, Arc<str>>,
    /// Those of them that are over; the first are the first to go.
    cleared: BTreeSet<Evictable>,
    most_alerts: usize,
}

/// A device in the partitions that know it: one, unless a producer's key changed or the topic got
/// more partitions.
#[derive(Debug)]
struct Entry {
    known: Vec<Known>,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) part: PartId,
    /// Shared with snapshots that are being sent.
    pub(super) device: Arc<Device>,
    pub(super) head: Arc<Head>,
}

#[derive(Debug)]
struct Listed {
    alert: Alert,
    part: PartId,
}

/// Alerts of which the last one is shown, because a partition knows no other: of the same partition,
/// device, sensor and kind.
type Series = (PartId, DeviceKey, Arc<str>, AlertKind);

/// A cleared alert: warnings go before critical ones, and of these the oldest first.
type Evictable = (Level, i64, Arc<str>);

impl View {
    pub(super) fn new(most_alerts: usize) -> Self {
        Self {
            entries: HashMap::default(),
            index: BTreeMap::new(),
            next: 0,
            alerts: HashMap::new(),
            last: BTreeMap::new(),
            cleared: BTreeSet::new(),
            most_alerts,
        }
    }

    pub(super) fn devices(&self) -> usize {
        self.index.len()
    }

    /// Adds a device that a partition knows, or replaces what it knew. Returns the device's name
    /// before, if this partition knew it.
    pub(super) fn put(
        &mut self,
        part: PartId,
        device: Arc<Device>,
    ) -> (EntryId, Option<Arc<Head>>) {
        let id = *self.index.entry(device.key.clone()).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        let head = Arc::new(Head {
            id,
            key: device.key.clone(),
            location: device.location.clone(),
        });
        let entry = self
            .entries
            .entry(id)
            .or_insert(Entry { known: Vec::new() });
        match entry.known.iter_mut().find(|known| known.part == part) {
            Some(known) => {
                known.device = device;
                (id, Some(std::mem::replace(&mut known.head, head)))
            }
            None => {
                // Nearly always the only one; by itself the list would keep room for four.
                entry.known.reserve_exact(1);
                entry.known.push(Known { part, device, head });
                (id, None)
            }
        }
    }

    /// A new device without values.
    pub(super) fn empty(key: &DeviceKey) -> Device {
        Device {
            key: key.clone(),
            location: None,
            seq: None,
            timestamp: 0,
            is_ahead: false,
            readings: Readings::default(),
        }
    }

    /// The name of no device.
    pub(super) fn nobody() -> DeviceKey {
        let nobody = || Arc::from("");
        DeviceKey {
            tenant: nobody(),
            project: nobody(),
            device: nobody(),
        }
    }

    /// How a device is named here, if it is known.
    pub(super) fn id(&self, key: &DeviceKey) -> Option<EntryId> {
        self.index.get(key).copied()
    }

    /// What a partition knows of a device.
    pub(super) fn known(&mut self, id: EntryId, part: PartId) -> Option<&mut Known> {
        let known = &mut self.entries.get_mut(&id)?.known;
        known.iter_mut().find(|known| known.part == part)
    }

    /// Forgets what a partition knows of a device. Returns its name, and whether another
    /// partition still knows it.
    pub(super) fn forget(&mut self, id: EntryId, part: PartId) -> Option<(Arc<Head>, bool)> {
        let entry = self.entries.get_mut(&id)?;
        let at = entry.known.iter().position(|known| known.part == part)?;
        let known = entry.known.swap_remove(at);
        let stays = !entry.known.is_empty();
        if !stays {
            self.entries.remove(&id);
            self.index.remove(&known.head.key);
        }
        Some((known.head, stays))
    }

    /// Whether several partitions know it.
    pub(super) fn is_shared(&self, id: EntryId) -> bool {
        self.entries
            .get(&id)
            .is_some_and(|entry| entry.known.len() > 1)
    }

    /// A device as clients see it: the newest of what all partitions know.
    pub(super) fn shown(&self, id: EntryId) -> Option<Arc<Device>> {
        let mut known = self.entries.get(&id)?.known.iter();
        let mut device = known.next()?.device.clone();
        for other in known {
            Arc::make_mut(&mut device).merge((*other.device).clone());
        }
        Some(device)
    }

    /// A device, and the partition that knows its newest message.
    pub(super) fn find(&self, key: &DeviceKey) -> Option<(Arc<Device>, PartId)> {
        let id = *self.index.get(key)?;
        let known = self.entries.get(&id)?.known.iter();
        let newest = known.max_by_key(|known| (known.device.timestamp, known.device.seq))?;
        Some((self.shown(id)?, newest.part))
    }

    /// The devices of the filter's tenant, project and id, of all that are in its scope where it
    /// has none, in this order. The filter may select fewer.
    pub(super) fn within(&self, filter: &Filter) -> impl Iterator<Item = (&DeviceKey, EntryId)> {
        // Tenants are in the order of their names.
        let tenants = match filter.scope.as_deref().map(|scope| &scope.tenants) {
            Some(Names::Only(tenants)) if filter.tenant.is_none() => {
                tenants.iter().cloned().map(Some).collect()
            }
            _ => vec![filter.tenant.clone()],
        };
        let rest = [filter.project.clone(), filter.device.clone()];
        tenants.into_iter().flat_map(move |tenant| {
            let of = [tenant].into_iter().chain(rest.clone());
            // Devices with the same beginning follow each other.
            self.beginning(of.map_while(|name| name).collect())
        })
    }

    /// The devices with this beginning of tenant, project and id.
    fn beginning(&self, fixed: Vec<Arc<str>>) -> impl Iterator<Item = (&DeviceKey, EntryId)> {
        let at = |number: usize| fixed.get(number).cloned().unwrap_or_default();
        let first = DeviceKey {
            tenant: at(0),
            project: at(1),
            device: at(2),
        };
        let is_within = move |key: &DeviceKey| {
            let of = [&key.tenant, &key.project, &key.device];
            fixed.iter().zip(of).all(|(fixed, of)| fixed == of)
        };
        let range = self.index.range(first..);
        let range = range.take_while(move |(key, _)| is_within(key));
        range.map(|(key, id)| (key, *id))
    }

    /// How many devices a filter takes.
    pub(super) fn count(&self, filter: &Filter) -> usize {
        let all = self.within(filter).filter_map(|(_, id)| self.shown(id));
        all.filter(|device| filter.takes_device(&device.key, device.location.as_deref()))
            .count()
    }

    /// A part of the list of devices, and how many match in all.
    pub(super) fn page(&self, page: &Page) -> (Vec<Arc<Device>>, usize) {
        let (mut devices, mut total) = (Vec::new(), 0);
        for (_, id) in self.within(&page.filter) {
            let Some(device) = self.shown(id) else {
                continue;
            };
            if !page
                .filter
                .takes_device(&device.key, device.location.as_deref())
            {
                continue;
            }
            if total >= page.offset && devices.len() < page.limit {
                devices.push(device);
            }
            total += 1;
        }
        (devices, total)
    }

    /// Lists an alert as it is now. Returns how it was before, and those that have to go for it:
    /// the one before it in its series, and one if there are too many.
    pub(super) fn list(&mut self, part: PartId, alert: Alert) -> (Option<Alert>, Vec<Alert>) {
        let last = self.last.insert(series(part, &alert), alert.id.clone());
        let replaced = last.filter(|last| *last != alert.id);
        let replaced = replaced.and_then(|last| self.alerts.remove(&last));
        let mut gone: Vec<_> = replaced.map(|listed| listed.alert).into_iter().collect();
        for alert in &gone {
            self.cleared.remove(&self::evictable(alert));
        }
        let evictable = evictable(&alert);
        let (id, is_active) = (alert.id.clone(), alert.is_active());
        let before = self.alerts.insert(id, Listed { alert, part });
        let before = before.map(|listed| listed.alert);
        if let Some(before) = &before {
            self.cleared.remove(&self::evictable(before));
        }
        if !is_active {
            self.cleared.insert(evictable);
        }
        if self.alerts.len() > self.most_alerts.max(self.active_alerts())
            && let Some((.., id)) = self.cleared.pop_first()
            && let Some(Listed { alert, part }) = self.alerts.remove(&id)
        {
            self.end_series(part, &alert);
            gone.push(alert);
        }
        (before, gone)
    }

    /// Whether an alert would stay if it was listed: a new one that is over may be the first to go.
    pub(super) fn has_room_for(&self, alert: &Alert) -> bool {
        let is_full = self.alerts.len() >= self.most_alerts.max(self.active_alerts());
        if !is_full || alert.is_active() || self.alerts.contains_key(&alert.id) {
            return true;
        }
        let first = self.cleared.first();
        first.is_some_and(|first| *first < evictable(alert))
    }

    /// Forgets alerts of a partition; `goes` selects them.
    pub(super) fn forget_alerts(
        &mut self,
        part: PartId,
        goes: impl Fn(&Alert) -> bool,
    ) -> Vec<Alert> {
        let gone = |_: &Arc<str>, listed: &mut Listed| listed.part == part && goes(&listed.alert);
        let gone: Vec<_> = self.alerts.extract_if(gone).collect();
        let gone = gone.into_iter().map(|(_, listed)| listed.alert);
        let gone: Vec<_> = gone.collect();
        for alert in &gone {
            self.end_series(part, alert);
            self.cleared.remove(&evictable(alert));
        }
        gone
    }

    fn end_series(&mut self, part: PartId, alert: &Alert) {
        let series = series(part, alert);
        if self.last.get(&series) == Some(&alert.id) {
            self.last.remove(&series);
        }
    }

    /// The alerts of a device that a partition knows.
    pub(super) fn alerts_of(&self, part: PartId, key: &DeviceKey) -> Vec<Alert> {
        let first = (part, key.clone(), Arc::from(""), AlertKind::ALL[0]);
        let of_device = self.last.range(first..);
        let of_device = of_device.take_while(|((of, device, ..), _)| (*of, device) == (part, key));
        let alerts = of_device.filter_map(|(_, id)| self.alert(id).cloned());
        alerts.collect()
    }

    /// Forgets the alerts of a device that a partition has removed, and returns them.
    pub(super) fn forget_alerts_of(&mut self, part: PartId, key: &DeviceKey) -> Vec<Alert> {
        let gone = self.alerts_of(part, key);
        for alert in &gone {
            self.alerts.remove(&alert.id);
            self.end_series(part, alert);
            self.cleared.remove(&evictable(alert));
        }
        gone
    }

    pub(super) fn alert(&self, id: &str) -> Option<&Alert> {
        self.alerts.get(id).map(|listed| &listed.alert)
    }

    /// The number of active alerts.
    pub(super) fn active_alerts(&self) -> usize {
        self.alerts.len() - self.cleared.len()
    }

    /// The number of active alerts that a filter takes.
    pub(super) fn active_alerts_of(&self, filter: &Filter) -> usize {
        let alerts = self.alerts.values().map(|listed| &listed.alert);
        alerts
            .filter(|alert| alert.is_active() && filter.takes_alert(alert))
            .count()
    }

    /// The alerts that `takes` selects, in the order in which they are listed.
    pub(super) fn alerts(&self, takes: impl Fn(&Alert) -> bool) -> Vec<&Alert> {
        let alerts = self.alerts.values().map(|listed| &listed.alert);
        let mut alerts: Vec<_> = alerts.filter(|alert| takes(alert)).collect();
        alerts.sort_unstable_by(|a, b| a.listed_before(b));
        alerts
    }

    /// Active alerts by their levels.
    pub(super) fn by_level(alerts: &[&Alert]) -> ByLevel {
        let mut raised = ByLevel::default();
        for alert in alerts.iter().filter(|alert| alert.is_active()) {
            match alert.level {
                Level::Critical => raised.critical += 1,
                Level::Warning => raised.warning += 1,
            }
        }
        raised
    }
}

fn series(part: PartId, alert: &Alert) -> Series {
    (part, alert.key.clone(), alert.sensor.clone(), alert.kind)
}

fn evictable(alert: &Alert) -> Evictable {
    (alert.level, alert.timestamp, alert.id.clone())
}
