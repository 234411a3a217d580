//! What all assigned partitions together know now, for reads and snapshots.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use iot_core::partition::TopicPartition;
use iot_fold::{Alert, Device, DeviceKey, Level, Updates};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::hub::Question;

/// Devices returned when a request names no limit.
const DEVICES: usize = 500;
/// Most devices or alerts in one answer.
pub(crate) const MOST: usize = 10_000;
/// Alerts returned when a request names no limit.
const ALERTS: usize = 100;

/// Which devices are asked for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DeviceFilter {
    pub(crate) tenant: Option<String>,
    pub(crate) project: Option<String>,
    pub(crate) building: Option<String>,
    pub(crate) limit: Option<usize>,
    pub(crate) offset: usize,
}

impl DeviceFilter {
    fn takes(&self, device: &Device) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
        is(&self.tenant, &device.key.tenant)
            && is(&self.project, &device.key.project)
            && (self.building.is_none()
                || device
                    .location
                    .as_ref()
                    .is_some_and(|place| is(&self.building, &place.building)))
    }
}

/// Which alerts are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AlertFilter {
    pub(crate) limit: Option<usize>,
    pub(crate) offset: usize,
}

/// A part of the list of alerts, and how many there are in all.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct AlertPage {
    pub(crate) alerts: Vec<Alert>,
    /// Alerts in the list, active and cleared.
    pub(crate) total: usize,
    /// The active ones of them.
    pub(crate) raised: ByLevel,
}

/// Numbers of alerts by their levels.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct ByLevel {
    pub(crate) critical: usize,
    pub(crate) warning: usize,
}

/// Newest values and alerts of all assigned partitions.
#[derive(Debug)]
pub(crate) struct View {
    parts: HashMap<TopicPartition, Part>,
    /// Where each device is found: in one partition, unless a producer's key
    /// changed or the topic got more partitions.
    index: BTreeMap<DeviceKey, Vec<Spot>>,
    /// By id.
    alerts: HashMap<Arc<str>, Listed>,
    /// Those of them that are over; the first are the first to go.
    cleared: BTreeSet<Evictable>,
    most_alerts: usize,
}

/// What a partition knows.
#[derive(Debug)]
struct Part {
    partition: Arc<TopicPartition>,
    /// By their places in the partition's state, some of which are free. Shared with
    /// snapshots that are being sent.
    devices: Vec<Option<Arc<Device>>>,
    owner: mpsc::Sender<Question>,
}

/// Where a partition knows a device.
#[derive(Debug)]
struct Spot {
    partition: Arc<TopicPartition>,
    place: usize,
}

#[derive(Debug)]
struct Listed {
    alert: Alert,
    partition: Arc<TopicPartition>,
}

/// A cleared alert: warnings go before critical ones, and of these the oldest first.
type Evictable = (Level, i64, Arc<str>);

impl View {
    pub(crate) fn new(most_alerts: usize) -> Self {
        Self {
            parts: HashMap::new(),
            index: BTreeMap::new(),
            alerts: HashMap::new(),
            cleared: BTreeSet::new(),
            most_alerts,
        }
    }

    pub(crate) fn devices(&self) -> usize {
        self.index.len()
    }

    /// Alerts that hold now.
    pub(crate) fn active_alerts(&self) -> usize {
        self.alerts.len() - self.cleared.len()
    }

    /// Takes a partition in with all it knows.
    pub(crate) fn add(
        &mut self,
        partition: &TopicPartition,
        updates: Updates,
        owner: mpsc::Sender<Question>,
    ) {
        self.remove(partition);
        let part = Part {
            partition: Arc::new(partition.clone()),
            devices: Vec::with_capacity(updates.devices.len()),
            owner,
        };
        self.parts.insert(partition.clone(), part);
        self.update(partition, updates);
    }

    /// Forgets what only this partition knew.
    pub(crate) fn remove(&mut self, partition: &TopicPartition) {
        let Some(part) = self.parts.remove(partition) else {
            return;
        };
        for device in part.devices.into_iter().flatten() {
            forget(&mut self.index, &device.key, partition);
        }
        let cleared = &mut self.cleared;
        self.alerts.retain(|_, listed| {
            let stays = *listed.partition != *partition;
            if !stays {
                cleared.remove(&listed.evictable());
            }
            stays
        });
    }

    /// Forgets a partition that its owner has let go; not if another owner has
    /// taken it over meanwhile.
    pub(crate) fn release(&mut self, partition: &TopicPartition, owner: &mpsc::Sender<Question>) {
        let current = self.parts.get(partition);
        if current.is_some_and(|current| current.owner.same_channel(owner)) {
            self.remove(partition);
        }
    }

    /// Takes in what changed in a partition; nothing if it was let go.
    pub(crate) fn update(&mut self, partition: &TopicPartition, updates: Updates) {
        let Some(part) = self.parts.get_mut(partition) else {
            return;
        };
        for (place, key) in updates.removed {
            let known = part.devices.get_mut(place);
            // Not if it came and went between two updates.
            if known.is_some_and(|known| known.take_if(|known| known.key == key).is_some()) {
                forget(&mut self.index, &key, partition);
            }
        }
        for (place, change) in updates.devices {
            // By place, because this is done for most messages.
            if let Some(Some(known)) = part.devices.get_mut(place) {
                debug_assert_eq!(known.key, change.key, "places are those of the fold");
                Arc::make_mut(known).update(change);
                continue;
            }
            let spot = Spot {
                partition: part.partition.clone(),
                place,
            };
            let spots = self.index.entry(change.key.clone()).or_default();
            // Nearly always the only one; by itself the list would keep room for four.
            spots.reserve_exact(1);
            spots.push(spot);
            if part.devices.len() <= place {
                part.devices.resize(place + 1, None);
            }
            part.devices[place] = Some(Arc::new(change));
        }
        let partition = part.partition.clone();
        for alert in updates.alerts {
            let partition = partition.clone();
            self.list(Listed { alert, partition });
        }
    }

    fn list(&mut self, listed: Listed) {
        let (id, evictable) = (listed.alert.id.clone(), listed.evictable());
        let is_active = listed.alert.is_active();
        if let Some(before) = self.alerts.insert(id, listed) {
            self.cleared.remove(&before.evictable());
        }
        if !is_active {
            self.cleared.insert(evictable);
        }
        if self.alerts.len() > self.most_alerts.max(self.active_alerts())
            && let Some((.., id)) = self.cleared.pop_first()
        {
            self.alerts.remove(&id);
        }
    }

    /// Devices by tenant, project and id, and how many match in all.
    pub(crate) fn find(&self, filter: &DeviceFilter) -> (Vec<Arc<Device>>, usize) {
        let limit = filter.limit.unwrap_or(DEVICES).min(MOST);
        let matching = || self.all().filter(|device| filter.takes(device));
        let page = matching().skip(filter.offset).take(limit).collect();
        (page, matching().count())
    }

    /// One device, and who knows more of it.
    pub(crate) fn get(
        &self,
        key: &DeviceKey,
    ) -> Option<(Arc<Device>, Option<mpsc::Sender<Question>>)> {
        let spots = self.index.get(key)?;
        let newest = |part: &(&Part, &Arc<Device>)| (part.1.timestamp, part.1.seq);
        let (part, _) = self.known(spots).max_by_key(newest)?;
        Some((self.device(spots)?, Some(part.owner.clone())))
    }

    /// All devices.
    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<Device>> {
        self.index.values().filter_map(|spots| self.device(spots))
    }

    /// A device as each partition knows it.
    fn known<'v>(&'v self, spots: &'v [Spot]) -> impl Iterator<Item = (&'v Part, &'v Arc<Device>)> {
        spots.iter().filter_map(|spot| {
            let part = self.parts.get(&*spot.partition)?;
            Some((part, part.devices.get(spot.place)?.as_ref()?))
        })
    }

    /// The newest of what all partitions know of a device.
    fn device(&self, spots: &[Spot]) -> Option<Arc<Device>> {
        let mut known = self.known(spots).map(|(_, device)| device);
        let mut device = known.next()?.clone();
        for other in known {
            Arc::make_mut(&mut device).merge((**other).clone());
        }
        Some(device)
    }

    /// Whether a device is known.
    pub(crate) fn knows(&self, key: &DeviceKey) -> bool {
        self.index.contains_key(key)
    }

    /// What clients are sent for a change that is already taken in: the change itself, or all
    /// of the device if another partition knows it too and may know something newer.
    pub(crate) fn settled(&self, change: Device) -> Device {
        let spots = self.index.get(&change.key);
        let several = spots.filter(|spots| spots.len() > 1);
        match several.and_then(|spots| self.device(spots)) {
            Some(newest) => Arc::unwrap_or_clone(newest),
            None => change,
        }
    }

    /// All alerts, in the order in which they are listed.
    pub(crate) fn all_alerts(&self) -> Vec<Alert> {
        self.sorted_alerts().into_iter().cloned().collect()
    }

    /// A part of the list of alerts.
    pub(crate) fn alerts(&self, filter: AlertFilter) -> AlertPage {
        let all = self.sorted_alerts();
        let limit = filter.limit.unwrap_or(ALERTS).min(MOST);
        let active = all.iter().filter(|alert| alert.is_active());
        let critical = active
            .filter(|alert| alert.level == Level::Critical)
            .count();
        let page = all.iter().skip(filter.offset).take(limit);
        AlertPage {
            alerts: page.map(|alert| (*alert).clone()).collect(),
            total: all.len(),
            raised: ByLevel {
                critical,
                warning: self.active_alerts() - critical,
            },
        }
    }

    fn sorted_alerts(&self) -> Vec<&Alert> {
        let mut alerts: Vec<_> = self.alerts.values().map(|listed| &listed.alert).collect();
        alerts.sort_unstable_by(|a, b| a.listed_before(b));
        alerts
    }
}

/// Takes a device of a partition out of the index.
fn forget(index: &mut BTreeMap<DeviceKey, Vec<Spot>>, key: &DeviceKey, partition: &TopicPartition) {
    if let Some(spots) = index.get_mut(key) {
        spots.retain(|spot| *spot.partition != *partition);
        if spots.is_empty() {
            index.remove(key);
        }
    }
}

impl Listed {
    fn evictable(&self) -> Evictable {
        let Alert {
            level,
            timestamp,
            id,
            ..
        } = &self.alert;
        (*level, *timestamp, id.clone())
    }
}
