//! The state of a partition, and how it is cut into keyed values for a store:
//! one for each device, one for each of its sensors (newest value, open windows,
//! alert), and one for all windows of a device that begin at the same time, once
//! they are sealed: it is written once and expires by itself. docs/state.md
//! describes them.

use std::sync::Arc;

use iot_core::message::Quality;

use super::alert::AlertState;
use super::pack::{Packer, UnpackError, Unpacker};
use super::window::{SensorWindows, Window};
use crate::model::{AlertStatus, DeviceKey, Level, Place};

/// Separates the parts of a key; validation lets no control characters in.
const SEPARATOR: char = '\0';

/// A device as the log has told so far.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeviceState {
    pub(crate) key: DeviceKey,
    pub(crate) place: Option<Arc<Place>>,
    pub(crate) seq: Option<u64>,
    pub(crate) timestamp: i64,
    /// Newest event time seen; the device's own, so that a clock that is fast
    /// can't seal the windows of others.
    pub(crate) watermark: i64,
    pub(crate) sensors: Vec<SensorState>,
}

/// One sensor of a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SensorState {
    pub(crate) name: Arc<str>,
    pub(crate) value: f64,
    pub(crate) unit: Option<Arc<str>>,
    pub(crate) quality: Quality,
    pub(crate) timestamp: i64,
    pub(crate) seq: Option<u64>,
    pub(crate) alert: Option<AlertState>,
    pub(crate) windows: SensorWindows,
}

impl DeviceState {
    pub(crate) fn new(key: DeviceKey) -> Self {
        Self {
            key,
            place: None,
            seq: None,
            timestamp: i64::MIN,
            watermark: i64::MIN,
            sensors: Vec::new(),
        }
    }

    /// Key of the device's own value.
    pub(crate) fn store_key(&self) -> String {
        join('d', &self.key, &[])
    }

    pub(crate) fn pack(&self) -> Vec<u8> {
        let mut packer = Packer::new();
        packer.i64(self.watermark);
        packer.i64(self.timestamp);
        packer.option(self.seq, Packer::u64);
        packer.option(self.place.as_deref(), |packer, place| {
            for part in [&place.building, &place.floor, &place.room] {
                packer.text(part);
            }
        });
        packer.finish()
    }

    fn unpack(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let mut unpacker = Unpacker::new(bytes)?;
        self.watermark = unpacker.i64()?;
        self.timestamp = unpacker.i64()?;
        self.seq = unpacker.option(Unpacker::u64)?;
        self.place = unpacker.option(|unpacker| {
            Ok(Arc::new(Place {
                building: unpacker.text()?,
                floor: unpacker.text()?,
                room: unpacker.text()?,
            }))
        })?;
        unpacker.finish()
    }

    /// Key of the value of a sensor.
    pub(crate) fn sensor_key(&self, sensor: &SensorState) -> String {
        join('s', &self.key, &[&sensor.name])
    }

    /// Key of the sealed windows of all sensors that begin at `start` and are
    /// `size` ms long.
    pub(crate) fn window_key(&self, size: i64, start: i64) -> String {
        join('w', &self.key, &[&size.to_string(), &start.to_string()])
    }

    fn sensor_mut(&mut self, name: &str) -> &mut SensorState {
        let at = self.sensors.iter().position(|sensor| &*sensor.name == name);
        let at = at.unwrap_or_else(|| {
            self.sensors.push(SensorState::new(name));
            self.sensors.len() - 1
        });
        &mut self.sensors[at]
    }
}

impl SensorState {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            value: 0.0,
            unit: None,
            quality: Quality::Good,
            timestamp: i64::MIN,
            seq: None,
            alert: None,
            windows: SensorWindows::default(),
        }
    }

    pub(crate) fn pack(&self) -> Vec<u8> {
        let mut packer = Packer::new();
        packer.f64(self.value);
        packer.option(self.unit.as_deref(), Packer::text);
        packer.u8(match self.quality {
            Quality::Good => 0,
            Quality::Uncertain => 1,
            Quality::Bad => 2,
        });
        packer.i64(self.timestamp);
        packer.option(self.seq, Packer::u64);
        packer.option(self.alert.as_ref(), pack_alert);
        packer.u64(self.windows.open.len() as u64);
        for window in &self.windows.open {
            put_window(&mut packer, window);
        }
        packer.finish()
    }

    fn unpack(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let mut unpacker = Unpacker::new(bytes)?;
        self.value = unpacker.f64()?;
        self.unit = unpacker.option(Unpacker::text)?;
        self.quality = match unpacker.u8()? {
            0 => Quality::Good,
            1 => Quality::Uncertain,
            2 => Quality::Bad,
            _ => return Err(UnpackError::Damaged),
        };
        self.timestamp = unpacker.i64()?;
        self.seq = unpacker.option(Unpacker::u64)?;
        self.alert = unpacker.option(unpack_alert)?;
        for _ in 0..unpacker.u64()? {
            self.windows.open.push(take_window(&mut unpacker)?);
        }
        unpacker.finish()
    }
}

/// The value of sealed windows that begin at the same time, each with its sensor.
pub(crate) fn pack_windows(windows: &[(Arc<str>, Window)]) -> Vec<u8> {
    let mut packer = Packer::new();
    packer.u64(windows.len() as u64);
    for (sensor, window) in windows {
        packer.text(sensor);
        put_window(&mut packer, window);
    }
    packer.finish()
}

/// What [`pack_windows`] packed.
///
/// # Errors
/// A value that this version doesn't know.
pub(crate) fn unpack_windows(bytes: &[u8]) -> Result<Vec<(Arc<str>, Window)>, UnpackError> {
    let mut unpacker = Unpacker::new(bytes)?;
    let mut windows = Vec::new();
    for _ in 0..unpacker.u64()? {
        windows.push((unpacker.text()?, take_window(&mut unpacker)?));
    }
    unpacker.finish()?;
    Ok(windows)
}

/// Rebuilds devices from stored values, in whatever order they come.
///
/// # Errors
/// A key or a value that this version doesn't know.
pub(crate) fn restore(entries: &[(String, Vec<u8>)]) -> Result<Vec<DeviceState>, UnpackError> {
    let mut devices = std::collections::BTreeMap::<DeviceKey, DeviceState>::new();
    for (name, bytes) in entries {
        let parts: Vec<&str> = name.split(SEPARATOR).collect();
        let [kind, tenant, project, device, rest @ ..] = &parts[..] else {
            return Err(UnpackError::Damaged);
        };
        let key = DeviceKey {
            tenant: (*tenant).into(),
            project: (*project).into(),
            device: (*device).into(),
        };
        let device = devices
            .entry(key.clone())
            .or_insert_with(|| DeviceState::new(key));
        match (*kind, rest) {
            ("d", []) => device.unpack(bytes)?,
            ("s", [sensor]) => device.sensor_mut(sensor).unpack(bytes)?,
            _ => return Err(UnpackError::Damaged),
        }
    }
    Ok(devices.into_values().collect())
}

fn join(kind: char, key: &DeviceKey, rest: &[&str]) -> String {
    let mut out = String::from(kind);
    let names = [&*key.tenant, &*key.project, &*key.device];
    for part in names.iter().chain(rest) {
        out.push(SEPARATOR);
        out.push_str(part);
    }
    out
}

fn put_window(packer: &mut Packer, window: &Window) {
    packer.i64(window.start);
    packer.i64(window.end);
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
    packer.i64(window.first_at);
    packer.i64(window.last_at);
}

fn take_window(unpacker: &mut Unpacker<'_>) -> Result<Window, UnpackError> {
    Ok(Window {
        start: unpacker.i64()?,
        end: unpacker.i64()?,
        count: unpacker.u64()?,
        min: unpacker.f64()?,
        max: unpacker.f64()?,
        mean: unpacker.f64()?,
        squares: unpacker.f64()?,
        first: unpacker.f64()?,
        last: unpacker.f64()?,
        first_at: unpacker.i64()?,
        last_at: unpacker.i64()?,
    })
}

fn pack_alert(packer: &mut Packer, alert: &AlertState) {
    packer.text(&alert.id);
    packer.u8(u8::from(alert.status == AlertStatus::Raised));
    packer.u8(u8::from(alert.level == Level::Critical));
    packer.u8(u8::from(alert.above));
    packer.f64(alert.value);
    packer.f64(alert.limit);
    packer.i64(alert.timestamp);
    packer.i64(alert.raised_at);
    packer.u64(alert.count);
    packer.i64(alert.told_at);
}

fn unpack_alert(unpacker: &mut Unpacker<'_>) -> Result<AlertState, UnpackError> {
    let flag = |unpacker: &mut Unpacker<'_>| match unpacker.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(UnpackError::Damaged),
    };
    let id = unpacker.text()?;
    let (raised, critical) = (flag(unpacker)?, flag(unpacker)?);
    Ok(AlertState {
        id,
        status: if raised {
            AlertStatus::Raised
        } else {
            AlertStatus::Cleared
        },
        level: if critical {
            Level::Critical
        } else {
            Level::Warning
        },
        above: flag(unpacker)?,
        value: unpacker.f64()?,
        limit: unpacker.f64()?,
        timestamp: unpacker.i64()?,
        raised_at: unpacker.i64()?,
        count: unpacker.u64()?,
        told_at: unpacker.i64()?,
    })
}
