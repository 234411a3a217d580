//! Sealed windows. The fold hands them over and forgets them: a store keeps them, and a
//! reader asks the store.

use std::sync::Arc;

use crate::layout::{UnpackError, decode_windows, encode_windows, window_key};
use crate::model::{DeviceKey, WindowSummary, Windows};
use crate::state::DeviceState;
use crate::window::{Window, WindowRules};

/// The windows of one device that have the same length and start. They are sealed
/// together, because the watermark is the device's.
#[derive(Debug, Clone, PartialEq)]
pub struct Sealed {
    /// The device.
    pub key: DeviceKey,
    /// Length, in milliseconds.
    pub size: u32,
    /// Start, in milliseconds since the epoch.
    pub start: i64,
    /// When a store may delete them, in milliseconds since the epoch. It counts from the
    /// Kafka time of the record that sealed them.
    pub expires: i64,
    /// The window of each sensor, by name of the sensor.
    pub sensors: Vec<(Arc<str>, Window)>,
}

impl Sealed {
    /// End, in milliseconds since the epoch: the first moment after the windows.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.start.saturating_add(i64::from(self.size))
    }

    /// What clients see of them, by name of the sensor.
    pub fn summaries(&self) -> impl Iterator<Item = (&Arc<str>, WindowSummary)> {
        let sensors = self.sensors.iter();
        sensors.map(|(sensor, window)| (sensor, window.summary(true)))
    }

    /// The key under which a store keeps them; one of [`DeviceWindows::stored`].
    #[must_use]
    pub fn store_key(&self) -> String {
        window_key(&self.key, i64::from(self.size), self.start)
    }

    /// The bytes that a store keeps; [`add_stored`] reads them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_windows(self)
    }
}

/// The windows of a device, as far as the fold of its partition knows them.
#[derive(Debug)]
pub struct DeviceWindows {
    /// The open ones, and the sealed ones that no store has yet.
    pub here: Windows,
    /// Keys under which a store may have the others, newest first.
    pub stored: Vec<String>,
}

impl DeviceWindows {
    /// Those of length `size`, in milliseconds.
    pub(crate) fn new<'s>(
        device: &DeviceState,
        rules: &WindowRules,
        size: i64,
        unstored: impl Iterator<Item = &'s Sealed>,
    ) -> Self {
        let sensors = device.sensors.iter();
        let mut here: Windows = sensors
            .map(|sensor| {
                let open = sensor.windows.open.iter();
                let open = open.filter(|window| i64::from(window.size) == size);
                let open = open.map(|window| window.summary(false));
                (sensor.name.clone(), open.collect())
            })
            .collect();
        for sealed in unstored.filter(|sealed| i64::from(sealed.size) == size) {
            for (sensor, window) in sealed.summaries() {
                add(&mut here, sensor, window);
            }
        }
        let starts = rules.sealed_starts(size, device.watermark);
        let keys = starts.map(|start| window_key(&device.key, size, start));
        Self {
            here,
            stored: keys.collect(),
        }
    }
}

/// Adds the windows in a stored value, which [`Sealed::encode`] made, to those of the
/// same device.
///
/// # Errors
/// This version can't read the value. Nothing of it is added then.
pub fn add_stored(windows: &mut Windows, value: &[u8]) -> Result<(), UnpackError> {
    for (sensor, window) in decode_windows(value)? {
        add(windows, &sensor, window);
    }
    Ok(())
}

/// Keeps them ordered by start. One that is there already stays: it may have been stored
/// since the fold was asked.
fn add(windows: &mut Windows, sensor: &Arc<str>, window: WindowSummary) {
    let list = windows.entry(sensor.clone()).or_default();
    if let Err(at) = list.binary_search_by_key(&window.start, |known| known.start) {
        list.insert(at, window);
    }
}
