//! Windows that won't change any more: the fold hands them to the store and
//! forgets them, and who wants to read them asks the store.

use std::sync::Arc;

use super::pack::UnpackError;
use super::state::{DeviceState, pack_windows, unpack_windows};
use super::window::{Window, WindowRules};
use crate::model::Windows;
use crate::store::Change;

/// Most sealed windows that are read of a sensor: a day of minutes.
const MOST: usize = 1_440;

/// The windows of one device that begin at the same time, sealed at once because
/// the watermark is the device's.
#[derive(Debug)]
pub(super) struct Sealed {
    /// Place in the fold's list.
    pub(super) device: usize,
    start: i64,
    /// In milliseconds since the epoch.
    expires: i64,
    windows: Vec<(Arc<str>, Window)>,
}

impl Sealed {
    pub(super) fn new(
        device: usize,
        start: i64,
        expires: i64,
        mut windows: Vec<(Arc<str>, Window)>,
    ) -> Self {
        // A fold that was loaded may have the sensors in another order.
        windows.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            device,
            start,
            expires,
            windows,
        }
    }

    pub(super) fn change(&self, device: &DeviceState, size: i64) -> Change {
        Change::Window {
            key: device.window_key(size, self.start),
            value: pack_windows(&self.windows),
            expires: self.expires,
        }
    }
}

/// The windows of a device, as far as its owner knows them.
#[derive(Debug)]
pub(crate) struct DeviceWindows {
    /// Open ones, and sealed ones that are not stored yet.
    pub(crate) here: Windows,
    /// Keys under which a store may have the others.
    pub(crate) stored: Vec<String>,
}

impl DeviceWindows {
    pub(super) fn new<'s>(
        device: &DeviceState,
        rules: &WindowRules,
        unstored: impl Iterator<Item = &'s Sealed>,
    ) -> Self {
        let sensors = device.sensors.iter();
        let mut here: Windows = sensors
            .map(|sensor| {
                let open = sensor.windows.open.iter();
                let open = open.map(|window| window.summary(false));
                (sensor.name.clone(), open.collect())
            })
            .collect();
        for sealed in unstored {
            add(&mut here, &sealed.windows);
        }
        let starts = rules.sealed_starts(device.watermark, MOST);
        Self {
            here,
            stored: starts
                .map(|start| device.window_key(rules.size, start))
                .collect(),
        }
    }
}

/// Adds what a store has of a device's sealed windows.
///
/// # Errors
/// A value that this version can't read.
pub(crate) fn add_stored(windows: &mut Windows, values: &[Vec<u8>]) -> Result<(), UnpackError> {
    for value in values {
        add(windows, &unpack_windows(value)?);
    }
    Ok(())
}

/// Keeps them by begin. One that is there already is kept: it may have been
/// stored since the owner was asked.
fn add(windows: &mut Windows, sealed: &[(Arc<str>, Window)]) {
    for (sensor, window) in sealed {
        let list = windows.entry(sensor.clone()).or_default();
        if let Err(at) = list.binary_search_by_key(&window.start, |known| known.start) {
            list.insert(at, window.summary(true));
        }
    }
}
