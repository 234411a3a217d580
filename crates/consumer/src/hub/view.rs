//! What all assigned partitions together know now, for reads and snapshots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use iot_core::partition::TopicPartition;
use iot_fold::{Alert, AlertStatus, Device, DeviceKey, Updates};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::owner::Question;

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

/// Newest values and alerts of all assigned partitions.
#[derive(Debug)]
pub(crate) struct View {
    parts: HashMap<TopicPartition, Part>,
    /// Where each device is found: in one partition, unless a producer's key
    /// changed or the topic got more partitions.
    index: BTreeMap<DeviceKey, Vec<Spot>>,
    /// By time of raising and id: the oldest are the first to go.
    alerts: BTreeMap<(i64, Arc<str>), Listed>,
    /// Those of them that are over.
    cleared: BTreeSet<(i64, Arc<str>)>,
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

impl View {
    pub(crate) fn new(most_alerts: usize) -> Self {
        Self {
            parts: HashMap::new(),
            index: BTreeMap::new(),
            alerts: BTreeMap::new(),
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
        self.alerts.retain(|key, listed| {
            let stays = *listed.partition != *partition;
            if !stays {
                cleared.remove(key);
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
        let key = (listed.alert.raised_at, listed.alert.id.clone());
        if listed.is_active() {
            self.cleared.remove(&key);
        } else {
            self.cleared.insert(key.clone());
        }
        self.alerts.insert(key, listed);
        if self.alerts.len() > self.most_alerts.max(self.active_alerts())
            && let Some(oldest) = self.cleared.pop_first()
        {
            self.alerts.remove(&oldest);
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

    /// Alerts, those that changed last first.
    pub(crate) fn alerts(&self, limit: Option<usize>) -> Vec<Alert> {
        let mut alerts: Vec<_> = self.alerts.values().map(|listed| &listed.alert).collect();
        alerts.sort_by_key(|alert| std::cmp::Reverse(alert.timestamp));
        alerts
            .into_iter()
            .take(limit.unwrap_or(ALERTS).min(MOST))
            .cloned()
            .collect()
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
    fn is_active(&self) -> bool {
        self.alert.state == AlertStatus::Raised
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use iot_core::message::Quality;

    use super::*;
    use iot_fold::{AlertKind, Level, Place, Value};

    /// A device with one reading of temperature.
    pub(crate) fn device(tenant: &str, id: &str, timestamp: i64, value: f64) -> Device {
        let place = Place {
            building: format!("b-{tenant}").into(),
            ..Place::default()
        };
        let reading = Value {
            value,
            unit: None,
            quality: Quality::Good,
            timestamp,
            is_ahead: false,
        };
        Device {
            key: key(tenant, id),
            location: Some(Arc::new(place)),
            seq: None,
            timestamp,
            is_ahead: false,
            readings: [("temperature".into(), reading)].into_iter().collect(),
        }
    }

    pub(crate) fn key(tenant: &str, id: &str) -> DeviceKey {
        DeviceKey {
            tenant: tenant.into(),
            project: "p".into(),
            device: id.into(),
        }
    }

    /// An alert of device `t/p/d`.
    pub(crate) fn alert(id: &str, raised_at: i64, state: AlertStatus) -> Alert {
        Alert {
            id: id.into(),
            key: key("t", "d"),
            location: None,
            sensor: "temperature".into(),
            kind: AlertKind::Threshold,
            level: Level::Warning,
            state,
            value: 51.0,
            limit: 50.0,
            message: String::new(),
            reason: None,
            timestamp: raised_at,
            raised_at,
            count: 1,
        }
    }

    pub(crate) fn devices(devices: Vec<Device>) -> Updates {
        Updates {
            devices: devices.into_iter().enumerate().collect(),
            ..Updates::default()
        }
    }

    fn alerts(alerts: Vec<Alert>) -> Updates {
        Updates {
            alerts,
            ..Updates::default()
        }
    }

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new("device-data", number)
    }

    fn add(view: &mut View, number: i32, updates: Updates) {
        view.add(&partition(number), updates, mpsc::channel(1).0);
    }

    fn ids(view: &View, filter: DeviceFilter) -> (Vec<String>, usize) {
        let (found, total) = view.find(&filter);
        (
            found
                .iter()
                .map(|device| device.key.device.to_string())
                .collect(),
            total,
        )
    }

    #[test]
    fn devices_are_filtered_sorted_and_cut() {
        let mut view = View::new(10);
        let all = [("b", "1"), ("a", "2"), ("a", "1"), ("a", "3")];
        add(
            &mut view,
            0,
            devices(all.map(|(t, d)| device(t, d, 0, 0.0)).into()),
        );
        let of_a = || DeviceFilter {
            tenant: Some("a".into()),
            ..DeviceFilter::default()
        };
        assert_eq!(
            ids(&view, of_a()),
            (vec!["1".into(), "2".into(), "3".into()], 3)
        );
        let page = DeviceFilter {
            limit: Some(1),
            offset: 1,
            ..of_a()
        };
        assert_eq!(ids(&view, page), (vec!["2".into()], 3));
        let building = DeviceFilter {
            building: Some("b-b".into()),
            ..DeviceFilter::default()
        };
        assert_eq!(ids(&view, building), (vec!["1".into()], 1));
        let nowhere = DeviceFilter {
            project: Some("x".into()),
            ..DeviceFilter::default()
        };
        assert_eq!(ids(&view, nowhere), (vec![], 0));
    }

    #[test]
    fn a_partition_that_goes_takes_its_devices_and_alerts_along() {
        let mut view = View::new(10);
        add(&mut view, 0, devices(vec![device("t", "1", 0, 0.0)]));
        add(&mut view, 1, devices(vec![device("t", "2", 0, 0.0)]));
        view.update(
            &partition(1),
            alerts(vec![alert("x", 1, AlertStatus::Raised)]),
        );
        assert_eq!((view.devices(), view.active_alerts()), (2, 1));
        view.remove(&partition(1));
        assert_eq!((view.devices(), view.active_alerts()), (1, 0));
        assert_eq!(view.alerts(None), []);
        assert!(view.get(&key("t", "2")).is_none());
    }

    #[test]
    fn a_device_in_two_partitions_shows_its_newest_values() {
        let mut view = View::new(10);
        add(&mut view, 0, devices(vec![device("t", "1", 5, 5.0)]));
        add(&mut view, 1, devices(vec![device("t", "1", 4, 4.0)]));
        let (found, _) = view.get(&key("t", "1")).unwrap();
        assert_eq!((found.timestamp, found.readings[0].1.value), (5, 5.0));
        assert_eq!(view.devices(), 1);
        let value = |view: &View| view.get(&key("t", "1")).unwrap().0.readings[0].1.value;
        view.update(&partition(1), devices(vec![device("t", "1", 6, 6.0)]));
        assert_eq!(value(&view), 6.0);
        view.remove(&partition(1));
        assert_eq!(value(&view), 5.0, "what the other one knows stays");
        view.remove(&partition(0));
        assert_eq!(view.devices(), 0);
    }

    #[test]
    fn a_removed_device_is_gone_and_its_place_is_taken_again() {
        let mut view = View::new(10);
        let two = vec![device("t", "1", 0, 0.0), device("t", "2", 0, 0.0)];
        add(&mut view, 0, devices(two));
        let update = |view: &mut View, removed: &[(usize, &str)], added: &[(usize, &str)]| {
            let removed = removed.iter().map(|(at, id)| (*at, key("t", id)));
            let added = added.iter().map(|(at, id)| (*at, device("t", id, 9, 9.0)));
            let updates = Updates {
                removed: removed.collect(),
                devices: added.collect(),
                alerts: Vec::new(),
            };
            view.update(&partition(0), updates);
            ids(view, DeviceFilter::default()).0.join(" ")
        };
        assert_eq!(update(&mut view, &[(0, "1")], &[]), "2");
        assert!(view.get(&key("t", "1")).is_none());
        // Device 4 came and went, and device 5 is new.
        let gone = [(1, "2"), (0, "4"), (7, "6")];
        assert_eq!(update(&mut view, &gone, &[(1, "3"), (0, "5")]), "3 5");
        view.remove(&partition(0));
        assert_eq!(view.devices(), 0);
    }

    #[test]
    fn clients_get_the_newest_of_all_partitions() {
        let mut view = View::new(10);
        add(&mut view, 0, devices(vec![device("t", "1", 5, 5.0)]));
        add(&mut view, 1, devices(vec![device("t", "2", 9, 9.0)]));
        let mut update = |number, change: Device| {
            view.update(&partition(number), devices(vec![change.clone()]));
            view.settled(change).readings[0].1.value
        };
        // The fold of a partition decides what is newest there, whatever the times say.
        assert_eq!(update(0, device("t", "1", 4, 4.0)), 4.0);
        add(&mut view, 1, devices(vec![device("t", "1", 3, 3.0)]));
        assert_eq!(view.settled(device("t", "1", 3, 3.0)).timestamp, 4);
    }

    #[test]
    fn a_late_release_takes_nothing_from_the_next_owner() {
        let mut view = View::new(10);
        let known = || devices(vec![device("t", "1", 0, 0.0)]);
        let (before, after) = (mpsc::channel(1).0, mpsc::channel(1).0);
        view.add(&partition(0), known(), before.clone());
        view.add(&partition(0), known(), after.clone());
        view.release(&partition(0), &before);
        assert_eq!(view.devices(), 1);
        view.release(&partition(0), &after);
        assert_eq!(view.devices(), 0);
    }

    #[test]
    fn active_alerts_outlive_cleared_ones() {
        use AlertStatus::{Cleared, Raised};
        let mut view = View::new(2);
        add(&mut view, 0, Updates::default());
        let mut after = |id: &str, at, state| {
            view.update(&partition(0), alerts(vec![alert(id, at, state)]));
            let listed = view.alerts(None);
            let names = listed
                .iter()
                .map(|alert| alert.id.to_string())
                .collect::<Vec<_>>();
            (names.join(" "), view.active_alerts())
        };
        assert_eq!(after("a", 1, Raised), ("a".into(), 1));
        assert_eq!(after("b", 2, Raised), ("b a".into(), 2));
        assert_eq!(after("c", 3, Raised), ("c b a".into(), 3));
        assert_eq!(after("b", 2, Cleared), ("c a".into(), 2));
        assert_eq!(after("a", 1, Cleared), ("c a".into(), 1));
        assert_eq!(after("d", 4, Raised), ("d c".into(), 2));
    }
}
