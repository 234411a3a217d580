//! What the fold gives away: changes for the store, and updates for clients.

use std::mem::take;

use super::{DeviceWindows, Fold, Tracked, write_key};
use crate::layout::{TIME_KEY, device_key};
use crate::model::{Alert, Device, DeviceKey};
use crate::sealed::Sealed;
use crate::state::DeviceState;

/// What a store has to write, in one step with the offset up to which the fold has read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Key and bytes of each live value that changed: of devices, and of the partition's time.
    /// They replace what is stored under that key, and [`Fold::restore`] reads them.
    pub live: Vec<(String, Vec<u8>)>,
    /// Keys of live values that are deleted; none of them is in `live`.
    pub removed: Vec<String>,
    /// Windows that can't change any more, in the order in which they were sealed.
    pub windows: Vec<Sealed>,
}

impl Changes {
    /// How many values they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len() + self.removed.len() + self.windows.len()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What was not pushed to clients yet.
#[derive(Debug, Default)]
pub struct Updates {
    /// Devices that were removed, each with its number in this partition. A later device may
    /// have the same number: these come before the others.
    pub removed: Vec<(usize, DeviceKey)>,
    /// Devices with the readings that changed, each with its number in this partition.
    pub devices: Vec<(usize, Device)>,
    /// Changes of alerts, in order.
    pub alerts: Vec<Alert>,
}

impl Updates {
    /// Whether there is nothing to push.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.devices.is_empty() && self.alerts.is_empty()
    }
}

impl Fold {
    /// How many values [`take_changes`](Self::take_changes) would give.
    pub fn changed(&self) -> usize {
        let time = usize::from(self.time_unsaved);
        time + self.unsaved.len() + self.removed.len() + self.sealed.len()
    }

    /// Their approximate size, in bytes.
    pub fn changed_bytes(&self) -> usize {
        self.changed_bytes
    }

    /// What changed since the last call. A device is encoded here, because its state goes
    /// on changing; sealed windows move.
    pub fn take_changes(&mut self) -> Changes {
        let mut encode = |at: usize| {
            let device = &mut self.devices[at];
            device.unsaved = false;
            (device_key(&device.state.key), device.state.pack())
        };
        let mut live: Vec<_> = self.unsaved.drain(..).map(&mut encode).collect();
        if take(&mut self.time_unsaved) {
            let time = self.watch.time();
            live.extend(time.map(|time| (TIME_KEY.to_owned(), time.pack())));
        }
        let (removed, windows) = (take(&mut self.removed), take(&mut self.sealed));
        self.changed_bytes = 0;
        Changes {
            live,
            removed,
            windows,
        }
    }

    /// The windows that were sealed since the last call. What else changed for a store is forgotten
    /// without being encoded: for a reader of the log that stores nothing.
    pub fn take_sealed(&mut self) -> Vec<Sealed> {
        for at in self.unsaved.drain(..) {
            self.devices[at].unsaved = false;
        }
        self.time_unsaved = false;
        self.removed.clear();
        self.changed_bytes = 0;
        take(&mut self.sealed)
    }

    /// Whether there are readings or removed devices that were not pushed to clients yet.
    pub fn has_unpushed(&self) -> bool {
        !self.unpushed.is_empty() || !self.gone.is_empty()
    }

    /// The changes of alerts since the last call, without the readings.
    pub fn take_alerts(&mut self) -> Vec<Alert> {
        take(&mut self.alerts)
    }

    /// The changed readings, removed devices and alerts since the last call.
    pub fn take_updates(&mut self) -> Updates {
        let mut devices = Vec::with_capacity(self.unpushed.len());
        for at in self.unpushed.drain(..) {
            let Tracked {
                state,
                marks,
                unpushed,
                ..
            } = &mut self.devices[at];
            *unpushed = false;
            let sensors = state.sensors.iter().zip(marks);
            let readings = sensors.filter_map(|(sensor, mark)| {
                take(&mut mark.unpushed).then(|| (sensor.name.clone(), sensor.describe()))
            });
            devices.push((at, state.describe(readings.collect())));
        }
        Updates {
            removed: take(&mut self.gone),
            devices,
            alerts: self.take_alerts(),
        }
    }

    /// All devices and all alerts, for a partition that was just loaded.
    pub fn all(&self) -> Updates {
        let full = |state: &DeviceState| {
            let readings = state.sensors.iter().map(|s| (s.name.clone(), s.describe()));
            state.describe(readings.collect())
        };
        let mut updates = Updates::default();
        let places = self.devices.iter().enumerate();
        for (at, Tracked { state, .. }) in places.filter(|(_, device)| !device.is_vacant) {
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

    /// The windows of a device that are `size` ms long; `None` if the partition has no such
    /// device.
    pub fn windows(&self, key: &DeviceKey, size: i64) -> Option<DeviceWindows> {
        let mut name = String::new();
        write_key(&mut name, &key.tenant, &key.project, &key.device);
        let at = *self.index.get(&name)?;
        let unstored = self.sealed.iter().filter(|sealed| sealed.key == *key);
        let (device, rules) = (&self.devices[at].state, &self.rules.windows);
        Some(DeviceWindows::new(device, rules, size, unstored))
    }
}
