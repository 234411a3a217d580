//! What the fold hands out: to the store what changed, to clients what is new.

use std::mem::take;

use super::{DeviceWindows, Fold, Tracked, write_key};
use crate::model::{Alert, Device, DeviceKey};
use crate::state::DeviceState;

/// One value that changed. Keys are unique in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Live state: kept until it is replaced.
    Live {
        /// [`Fold::restore`] takes it with its value.
        key: String,
        /// The bytes of one device.
        value: Vec<u8>,
    },
    /// Windows that won't change any more: kept until `expires`, in milliseconds
    /// since the epoch, but not longer than the retention from now, and read one
    /// by one.
    Window {
        /// One of [`DeviceWindows::stored`].
        key: String,
        /// [`add_stored`](crate::add_stored) reads it.
        value: Vec<u8>,
        /// Milliseconds since the epoch.
        expires: i64,
    },
}

impl Change {
    /// Bytes of its key and its value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let (Self::Live { key, value } | Self::Window { key, value, .. }) = self;
        key.len() + value.len()
    }
}

/// What changed since it was last asked for.
#[derive(Debug, Default)]
pub struct Updates {
    /// Devices with the readings that changed, each with its place in this state.
    pub devices: Vec<(usize, Device)>,
    /// Every change of an alert that clients are told of, in order.
    pub alerts: Vec<Alert>,
}

impl Fold {
    /// How many values a store would have to write.
    pub fn changed(&self) -> usize {
        self.unsaved.len() + self.sealed.len()
    }

    /// About how many bytes they have together.
    pub fn changed_bytes(&self) -> usize {
        self.changed_bytes
    }

    /// The values that changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.changed());
        for at in self.unsaved.drain(..) {
            let device = &mut self.devices[at];
            device.unsaved = false;
            changes.push(Change::Live {
                key: device.state.store_key(),
                value: device.state.pack(),
            });
        }
        for sealed in self.sealed.drain(..) {
            changes.push(sealed.change(&self.devices[sealed.device].state));
        }
        self.changed_bytes = 0;
        changes
    }

    /// Whether clients have not been told of some readings yet.
    pub fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// The changes of alerts that clients haven't been told yet.
    pub fn take_alerts(&mut self) -> Vec<Alert> {
        take(&mut self.alerts)
    }

    /// What clients haven't been told yet.
    pub fn take_updates(&mut self) -> Updates {
        let mut devices = Vec::with_capacity(self.untold.len());
        for at in self.untold.drain(..) {
            let Tracked {
                state,
                marks,
                untold,
                ..
            } = &mut self.devices[at];
            *untold = false;
            let sensors = state.sensors.iter().zip(marks);
            let readings = sensors.filter_map(|(sensor, mark)| {
                take(&mut mark.untold).then(|| (sensor.name.clone(), sensor.newest()))
            });
            devices.push((at, state.describe(readings.collect())));
        }
        Updates {
            devices,
            alerts: self.take_alerts(),
        }
    }

    /// Everything clients could be told, for a partition just loaded.
    pub fn all(&self) -> Updates {
        let full = |state: &DeviceState| {
            let readings = state.sensors.iter().map(|s| (s.name.clone(), s.newest()));
            state.describe(readings.collect())
        };
        let mut updates = Updates::default();
        for (at, Tracked { state, .. }) in self.devices.iter().enumerate() {
            updates.devices.push((at, full(state)));
            for sensor in &state.sensors {
                let alerts = sensor.alerts.iter();
                let alerts = alerts.map(|a| state.describe_alert(sensor, a, &self.origin));
                updates.alerts.extend(alerts);
            }
            updates.alerts.extend(state.describe_silence(&self.origin));
        }
        updates
    }

    /// The windows of a device that are `size` ms long; `None` if there is no such
    /// device.
    pub fn windows(&self, key: &DeviceKey, size: i64) -> Option<DeviceWindows> {
        let mut name = String::new();
        write_key(&mut name, &key.tenant, &key.project, &key.device);
        let at = *self.index.get(&name)?;
        let unstored = self.sealed.iter().filter(|sealed| sealed.device == at);
        let (device, rules) = (&self.devices[at].state, &self.rules.windows);
        Some(DeviceWindows::new(device, rules, size, unstored))
    }
}
