//! The channels that are about the same devices: they share the list of these, and a snapshot.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use iot_fold::{Device, DeviceKey, Place};

use super::channels::ChannelId;
use super::index::{GroupId, Index};
use super::view::{EntryId, View};
use crate::channel::{Channel, Filter, Kind};

#[derive(Debug, Default)]
pub(super) struct Groups {
    index: Index,
    by_filter: HashMap<Filter, GroupId>,
    groups: HashMap<GroupId, Group>,
    next: GroupId,
    found: Vec<GroupId>,
}

/// Channels with the same filter of devices.
#[derive(Debug)]
pub(super) struct Group {
    filter: Filter,
    /// The devices that they are about.
    devices: BTreeMap<DeviceKey, EntryId>,
    /// What all of them are now; `None` after a change.
    snapshot: Option<Arc<[Arc<Device>]>>,
    /// With the sensor that they are about.
    readings: Vec<(Option<Arc<str>>, ChannelId)>,
    whole: Vec<ChannelId>,
    alerts: Vec<ChannelId>,
    /// Channels that only count the devices.
    stats: Vec<ChannelId>,
}

/// Which channels a change of a device concerns.
#[derive(Debug, Default)]
pub(super) struct Concerned {
    /// Channels of readings of all sensors, and of some of the changed ones.
    pub(super) readings: Vec<ChannelId>,
    /// Channels of whole devices.
    pub(super) whole: Vec<ChannelId>,
}

impl Concerned {
    pub(super) fn clear(&mut self) {
        self.readings.clear();
        self.whole.clear();
    }
}

impl Groups {
    /// Adds a channel.
    pub(super) fn add(&mut self, channel: &Channel, id: ChannelId, view: &View) -> GroupId {
        let filter = channel.filter.of_devices();
        let of = match self.by_filter.get(&filter) {
            Some(of) => *of,
            None => {
                self.next += 1;
                self.index.add(&filter, self.next);
                self.by_filter.insert(filter.clone(), self.next);
                self.groups.insert(self.next, Group::new(filter, view));
                self.next
            }
        };
        if let Some(group) = self.groups.get_mut(&of) {
            match channel.kind {
                Kind::Readings => group.readings.push((channel.filter.sensor.clone(), id)),
                Kind::Devices => group.whole.push(id),
                Kind::Alerts => group.alerts.push(id),
                Kind::Stats => group.stats.push(id),
            }
        }
        of
    }

    pub(super) fn remove(&mut self, of: GroupId, id: ChannelId) {
        let Some(group) = self.groups.get_mut(&of) else {
            return;
        };
        group.readings.retain(|(_, other)| *other != id);
        group.whole.retain(|other| *other != id);
        group.alerts.retain(|other| *other != id);
        group.stats.retain(|other| *other != id);
        if group.is_empty() {
            self.index.remove(&group.filter, of);
            self.by_filter.remove(&group.filter);
            self.groups.remove(&of);
        }
    }

    /// Whether no channel is about devices.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The number of devices of a group.
    pub(super) fn devices(&self, of: GroupId) -> usize {
        self.groups.get(&of).map_or(0, |group| group.devices.len())
    }

    /// All devices of a group, as they are now.
    pub(super) fn snapshot(&mut self, of: GroupId, view: &View) -> Arc<[Arc<Device>]> {
        match self.groups.get_mut(&of) {
            Some(group) => {
                let devices = group.devices.values();
                let all = || devices.filter_map(|id| view.shown(*id)).collect();
                group.snapshot.get_or_insert_with(all).clone()
            }
            None => Arc::default(),
        }
    }

    fn find(&mut self, key: &DeviceKey, place: Option<&Place>) {
        self.found.clear();
        self.index.find(key, place, &mut self.found);
    }

    /// Finds the channels that a change of a device concerns, and remembers that it changed.
    /// `changed` says whether a sensor did.
    pub(super) fn changed(
        &mut self,
        (key, place): (&DeviceKey, Option<&Place>),
        changed: impl Fn(&str) -> bool,
        concerned: &mut Concerned,
    ) {
        self.find(key, place);
        for of in &self.found {
            let Some(group) = self.groups.get_mut(of) else {
                continue;
            };
            if group.filter.takes_device(key, place) {
                group.snapshot = None;
                group.concern(&changed, concerned);
            }
        }
    }

    /// Finds the channels that a device enters, and those that it leaves, with all its sensors.
    pub(super) fn moved(
        &mut self,
        key: &DeviceKey,
        id: EntryId,
        (before, now): (Option<Option<&Place>>, Option<Option<&Place>>),
        sensor: impl Fn(&str) -> bool,
    ) -> (Concerned, Concerned) {
        let (mut enters, mut leaves) = (Concerned::default(), Concerned::default());
        for (place, is_there) in [(before, false), (now, true)] {
            let Some(place) = place else {
                continue;
            };
            self.find(key, place);
            for of in &self.found {
                let Some(group) = self.groups.get_mut(of) else {
                    continue;
                };
                let selects = |at: Option<Option<&Place>>| {
                    at.is_some_and(|place| group.filter.takes_device(key, place))
                };
                if !selects(Some(place)) {
                    continue;
                }
                group.snapshot = None;
                if is_there {
                    if !selects(before) {
                        group.devices.insert(key.clone(), id);
                        group.concern(&sensor, &mut enters);
                    }
                } else if !selects(now) {
                    group.devices.remove(key);
                    // Whatever sensors it had.
                    group.concern(|_| true, &mut leaves);
                    leaves.readings.extend(group.of_a_sensor());
                }
            }
        }
        leaves.readings.sort_unstable();
        leaves.readings.dedup();
        (enters, leaves)
    }

    /// Appends the channels of alerts of a device.
    pub(super) fn alerts(
        &mut self,
        key: &DeviceKey,
        place: Option<&Place>,
        channels: &mut Vec<ChannelId>,
    ) {
        self.find(key, place);
        let found = self.found.iter().filter_map(|of| self.groups.get(of));
        for group in found.filter(|group| group.filter.takes_device(key, place)) {
            channels.extend(&group.alerts);
        }
    }
}

impl Group {
    fn new(filter: Filter, view: &View) -> Self {
        let selected = view.within(&filter).filter(|(key, id)| {
            let device = view.shown(*id);
            device.is_some_and(|device| filter.takes_device(key, device.location.as_deref()))
        });
        Self {
            devices: selected.map(|(key, id)| (key.clone(), id)).collect(),
            filter,
            snapshot: None,
            readings: Vec::new(),
            whole: Vec::new(),
            alerts: Vec::new(),
            stats: Vec::new(),
        }
    }

    /// Whether no channel is in it.
    fn is_empty(&self) -> bool {
        self.readings.is_empty()
            && self.whole.is_empty()
            && self.alerts.is_empty()
            && self.stats.is_empty()
    }

    fn concern(&self, changed: impl Fn(&str) -> bool, concerned: &mut Concerned) {
        for (sensor, id) in &self.readings {
            if sensor.as_deref().is_none_or(&changed) {
                concerned.readings.push(*id);
            }
        }
        concerned.whole.extend(&self.whole);
    }

    fn of_a_sensor(&self) -> impl Iterator<Item = ChannelId> {
        let readings = self.readings.iter();
        readings.filter_map(|(sensor, id)| sensor.is_some().then_some(*id))
    }
}
