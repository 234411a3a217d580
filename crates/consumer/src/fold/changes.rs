//! What the fold hands out: to the store what changed, to clients what is new.

use std::mem::take;

use super::state::DeviceState;
use super::{DeviceWindows, Fold, Tracked, write_key};
use crate::model::{Alert, Device, DeviceKey};
use crate::store::Change;

/// What changed since it was last asked for.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    /// Devices with the readings that changed, each with its place in this state.
    pub(crate) devices: Vec<(usize, Device)>,
    /// Every change of an alert that clients are told of, in order.
    pub(crate) alerts: Vec<Alert>,
}

impl Fold {
    /// How many values a store would have to write.
    pub(crate) fn changed(&self) -> usize {
        self.unsaved.len() + self.sealed.len()
    }

    /// About how many bytes they have together.
    pub(crate) fn changed_bytes(&self) -> usize {
        self.changed_bytes
    }

    /// The values that changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
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
    pub(crate) fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// The changes of alerts that clients haven't been told yet.
    pub(crate) fn take_alerts(&mut self) -> Vec<Alert> {
        take(&mut self.alerts)
    }

    /// What clients haven't been told yet.
    pub(crate) fn take_updates(&mut self) -> Updates {
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
    pub(crate) fn all(&self) -> Updates {
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
    pub(crate) fn windows(&self, key: &DeviceKey, size: i64) -> Option<DeviceWindows> {
        let mut name = String::new();
        write_key(&mut name, &key.tenant, &key.project, &key.device);
        let at = *self.index.get(&name)?;
        let unstored = self.sealed.iter().filter(|sealed| sealed.device == at);
        let (device, rules) = (&self.devices[at].state, &self.rules.windows);
        Some(DeviceWindows::new(device, rules, size, unstored))
    }
}
