//! Readings that wait to be sent, merged by device. The device whose change has waited longest
//! is sent first: if more changes than frames can carry, all devices are sent late, and none
//! is left out.

use std::collections::{BTreeMap, HashMap};

use iot_fold::{Device, DeviceKey};

/// Readings not sent yet, newest per device and sensor.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// With the number that each has in `order`.
    devices: HashMap<DeviceKey, (u64, Device)>,
    /// Keys in the order in which their oldest unsent change arrived.
    order: BTreeMap<u64, DeviceKey>,
    next: u64,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Merges a change into what waits. A device that waits already keeps its place.
    pub(crate) fn merge(&mut self, change: Device) {
        if let Some((_, device)) = self.devices.get_mut(&change.key) {
            device.update(change);
            return;
        }
        let number = self.next;
        self.next += 1;
        self.order.insert(number, change.key.clone());
        self.devices.insert(change.key.clone(), (number, change));
    }

    /// Forgets what waits of a device.
    pub(crate) fn remove(&mut self, key: &DeviceKey) {
        if let Some((number, _)) = self.devices.remove(key) {
            self.order.remove(&number);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.devices.clear();
        self.order.clear();
    }

    /// Takes devices until they are `bytes` long as JSON, the longest waiting first.
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<Device> {
        let mut taken = Vec::new();
        let mut size = 0;
        while size < bytes
            && let Some((_, key)) = self.order.pop_first()
        {
            if let Some((_, device)) = self.devices.remove(&key) {
                size += device.json_size();
                taken.push(device);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::view::tests::device;

    fn ids(devices: &[Device]) -> Vec<&str> {
        devices.iter().map(|device| &*device.key.device).collect()
    }

    #[test]
    fn the_longest_waiting_device_comes_first_with_its_newest_values() {
        let mut pending = Pending::default();
        for (id, value) in [("c", 1.0), ("a", 2.0), ("b", 3.0), ("c", 4.0)] {
            pending.merge(device("t", id, 0, value));
        }
        pending.remove(&device("t", "a", 0, 0.0).key);
        let first = pending.take(1);
        assert_eq!(
            (ids(&first), first[0].readings[0].1.value),
            (vec!["c"], 4.0)
        );
        // Sent, and changed again: behind those that wait.
        pending.merge(device("t", "c", 1, 5.0));
        pending.merge(device("t", "a", 1, 6.0));
        assert_eq!(ids(&pending.take(usize::MAX)), ["b", "c", "a"]);
        assert!(pending.is_empty() && pending.take(usize::MAX).is_empty());
    }
}
