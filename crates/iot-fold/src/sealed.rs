//! Windows that won't change any more: the fold hands them to the store and
//! forgets them, and who wants to read them asks the store.

use std::sync::Arc;

use crate::fold::Change;
use crate::model::{WindowSummary, Windows};
use crate::pack::{Packer, UnpackError, Unpacker};
use crate::state::DeviceState;
use crate::window::{Window, WindowRules, deviation};

/// The version of their bytes.
const VERSION: u8 = 2;
/// Bytes before the windows of a value.
const HEAD_BYTES: usize = 21;
/// About the bytes of a sealed window without the name of its sensor.
pub(crate) const SEALED_BYTES: usize = 80;

/// The windows of one device that are as long and begin at the same time, sealed
/// at once because the watermark is the device's.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// Place in the fold's list.
    pub(crate) device: usize,
    size: u32,
    start: i64,
    /// In milliseconds since the epoch.
    expires: i64,
    windows: Vec<(Arc<str>, Window)>,
}

impl Sealed {
    /// `recorded` is when the record was, by Kafka, that sealed them.
    pub(crate) fn new(
        device: usize,
        (size, start): (u32, i64),
        rules: &WindowRules,
        recorded: i64,
        mut windows: Vec<(Arc<str>, Window)>,
    ) -> Self {
        windows.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            device,
            size,
            start,
            expires: recorded.saturating_add(rules.retention(i64::from(size))),
            windows,
        }
    }

    pub(crate) fn change(&self, device: &DeviceState) -> Change {
        Change::Window {
            key: device.window_key(i64::from(self.size), self.start),
            value: self.pack(),
            expires: self.expires,
        }
    }

    fn pack(&self) -> Vec<u8> {
        let names: usize = self.windows.iter().map(|(sensor, _)| sensor.len()).sum();
        let bytes = HEAD_BYTES + self.windows.len() * SEALED_BYTES + names;
        let mut packer = Packer::new(VERSION, bytes);
        packer.i64(self.start);
        packer.i64(self.start.saturating_add(i64::from(self.size)));
        packer.u32(self.windows.len() as u32);
        for (sensor, window) in &self.windows {
            packer.text(sensor);
            packer.u64(window.count);
            for value in [
                window.min,
                window.max,
                window.mean,
                window.squares,
                window.first,
                window.last,
            ] {
                packer.f64(value);
            }
            packer.option(window.slope(), Packer::f64);
        }
        packer.finish()
    }
}

fn unpack(bytes: &[u8]) -> Result<Vec<(Arc<str>, WindowSummary)>, UnpackError> {
    let (_, mut unpacker) = Unpacker::new(bytes, VERSION..=VERSION)?;
    let (start, end) = (unpacker.i64()?, unpacker.i64()?);
    let mut windows = Vec::new();
    for _ in 0..unpacker.u32()? {
        let sensor = unpacker.text()?;
        let count = unpacker.u64()?;
        let summary = WindowSummary {
            start,
            end,
            count,
            min: unpacker.f64()?,
            max: unpacker.f64()?,
            mean: unpacker.f64()?,
            deviation: deviation(count, unpacker.f64()?),
            first: unpacker.f64()?,
            last: unpacker.f64()?,
            slope: unpacker.option(Unpacker::f64)?,
            sealed: true,
        };
        windows.push((sensor, summary));
    }
    unpacker.finish()?;
    Ok(windows)
}

/// The windows of a device, as far as its owner knows them.
#[derive(Debug)]
pub struct DeviceWindows {
    /// Open ones, and sealed ones that are not stored yet.
    pub here: Windows,
    /// Keys under which a store may have the others.
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
            for (sensor, window) in &sealed.windows {
                add(&mut here, sensor, window.summary(true));
            }
        }
        let starts = rules.sealed_starts(size, device.watermark);
        Self {
            here,
            stored: starts.map(|start| device.window_key(size, start)).collect(),
        }
    }
}

/// Adds what a store has of a device's sealed windows, under one of its keys.
///
/// # Errors
/// A value that this version can't read; then nothing of it is added.
pub fn add_stored(windows: &mut Windows, value: &[u8]) -> Result<(), UnpackError> {
    for (sensor, window) in unpack(value)? {
        add(windows, &sensor, window);
    }
    Ok(())
}

/// Keeps them by begin. One that is there already is kept: it may have been
/// stored since the owner was asked.
fn add(windows: &mut Windows, sensor: &Arc<str>, window: WindowSummary) {
    let list = windows.entry(sensor.clone()).or_default();
    if let Err(at) = list.binary_search_by_key(&window.start, |known| known.start) {
        list.insert(at, window);
    }
}
