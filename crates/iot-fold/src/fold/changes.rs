//! What the fold gives to a store.

use std::mem::take;

use super::{DeviceWindows, Fold, write_key};
use crate::layout::{TIME_KEY, device_key};
use crate::model::DeviceKey;
use crate::sealed::Sealed;

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
