//! The bytes of a device's live state: one value with all its sensors.

use std::sync::Arc;

use iot_core::message::Quality;

use super::detectors::{put_detectors, take_detectors};
use super::log_time::{put_position, take_position, take_position_of_format_3};
use super::{Packer, UnpackError, Unpacker, parse_device_key};
use crate::alert::AlertState;
use crate::kind::AlertKind;
use crate::model::{AlertStatus, Level, Place};
use crate::stamp::Stamp;
use crate::state::{DeviceState, SensorState};
use crate::window::{SensorWindows, Window};

/// The version of the format, and the oldest that is read. Version 2 ends before `heard`,
/// version 3 lacks the ages of positions, and which times were ahead of their records, and
/// version 4 the values beyond limits that have not raised an alert yet.
const VERSION: u8 = 5;
const OLDEST: u8 = 2;
/// The first version beside which a store keeps the time of the partition.
const WITH_TIME: u8 = 4;
/// Bytes of a device and of a sensor, rounded up, without texts, windows and alerts.
const DEVICE_BYTES: usize = 87;
const SENSOR_BYTES: usize = 197;
/// Bytes of an open window and of an alert.
pub(crate) const WINDOW_BYTES: usize = 100;
pub(crate) const ALERT_BYTES: usize = 60;

/// Whether an earlier version wrote a device's value, which stored no time of the partition.
pub(crate) fn is_without_time(value: &[u8]) -> bool {
    value.first().is_some_and(|version| *version < WITH_TIME)
}

impl DeviceState {
    pub(crate) fn pack(&self) -> Vec<u8> {
        let mut packer = Packer::new(VERSION, self.packed_size());
        packer.i64(self.watermark);
        put_stamp(&mut packer, self.newest);
        packer.option(self.place.as_deref(), |packer, place| {
            for part in [&place.building, &place.floor, &place.room] {
                packer.text(part);
            }
        });
        packer.u32(self.rules);
        packer.u32(self.sensors.len() as u32);
        for sensor in &self.sensors {
            packer.part(|packer| put_sensor(packer, sensor));
        }
        packer.option(self.heard, put_position);
        packer.option(self.silence.as_deref(), put_alert);
        packer.finish()
    }

    /// The device that [`pack`](Self::pack) wrote under that key.
    ///
    /// # Errors
    /// This version cannot read the key or the value.
    pub(crate) fn unpack(name: &str, bytes: &[u8]) -> Result<Self, UnpackError> {
        let key = parse_device_key(name).ok_or(UnpackError::Damaged)?;
        let mut device = Self::new(key);
        let (version, mut unpacker) = Unpacker::new(bytes, OLDEST..=VERSION)?;
        device.watermark = unpacker.i64()?;
        device.newest = take_stamp(&mut unpacker, version)?;
        device.place = unpacker.option(|unpacker| {
            Ok(Arc::new(Place {
                building: unpacker.text()?,
                floor: unpacker.text()?,
                room: unpacker.text()?,
            }))
        })?;
        device.rules = unpacker.u32()?;
        for _ in 0..unpacker.u32()? {
            device.sensors.reserve_exact(1);
            let sensor = unpacker.part(|part| take_sensor(part, version))?;
            device.sensors.push(sensor);
        }
        if version > OLDEST {
            device.heard = unpacker.option(match version {
                3 => take_position_of_format_3,
                _ => take_position,
            })?;
            device.silence = unpacker.option(take_alert)?.map(Box::new);
        }
        unpacker.finish()?;
        Ok(device)
    }

    /// The approximate size of its value, in bytes.
    pub(crate) fn packed_size(&self) -> usize {
        let key = &self.key;
        let names = key.tenant.len() + key.project.len() + key.device.len();
        let place = self.place.as_deref().map_or(0, |place| {
            12 + place.building.len() + place.floor.len() + place.room.len()
        });
        let silence = self.silence.as_ref().map_or(0, |_| ALERT_BYTES);
        let sensors = self.sensors.iter().map(SensorState::packed_size);
        DEVICE_BYTES + names + place + silence + sensors.sum::<usize>()
    }
}

impl SensorState {
    pub(crate) fn packed_size(&self) -> usize {
        SENSOR_BYTES
            + self.name.len()
            + self.unit.as_deref().map_or(0, str::len)
            + self.windows.open.len() * WINDOW_BYTES
            + self.alerts.len() * ALERT_BYTES
    }
}

fn put_sensor(packer: &mut Packer, sensor: &SensorState) {
    packer.text(&sensor.name);
    packer.f64(sensor.value);
    packer.option(sensor.unit.as_deref(), Packer::text);
    packer.u8(match sensor.quality {
        Quality::Good => 0,
        Quality::Uncertain => 1,
        Quality::Bad => 2,
    });
    put_stamp(packer, sensor.newest);
    packer.u32(sensor.windows.open.len() as u32);
    for window in &sensor.windows.open {
        put_window(packer, window);
    }
    packer.u8(sensor.alerts.len() as u8);
    for alert in &sensor.alerts {
        put_alert(packer, alert);
    }
    put_detectors(packer, &sensor.detectors);
}

fn take_sensor(unpacker: &mut Unpacker<'_>, version: u8) -> Result<SensorState, UnpackError> {
    Ok(SensorState {
        name: unpacker.text()?,
        value: unpacker.f64()?,
        unit: unpacker.option(Unpacker::text)?,
        quality: match unpacker.u8()? {
            0 => Quality::Good,
            1 => Quality::Uncertain,
            2 => Quality::Bad,
            _ => return Err(UnpackError::Damaged),
        },
        newest: take_stamp(unpacker, version)?,
        windows: {
            let count = unpacker.u32()?;
            let open = (0..count).map(|_| take_window(unpacker));
            SensorWindows {
                open: open.collect::<Result<_, _>>()?,
            }
        },
        alerts: {
            let count = unpacker.u8()?;
            let alerts = (0..count).map(|_| take_alert(unpacker));
            alerts.collect::<Result<_, _>>()?
        },
        detectors: take_detectors(unpacker, version)?,
    })
}

fn put_stamp(packer: &mut Packer, stamp: Stamp) {
    packer.i64(stamp.timestamp);
    packer.option(stamp.seq, Packer::u64);
    packer.u8(u8::from(stamp.is_ahead));
}

fn take_stamp(unpacker: &mut Unpacker<'_>, version: u8) -> Result<Stamp, UnpackError> {
    Ok(Stamp {
        timestamp: unpacker.i64()?,
        seq: unpacker.option(Unpacker::u64)?,
        is_ahead: version > 3 && unpacker.flag()?,
    })
}

fn put_window(packer: &mut Packer, window: &Window) {
    packer.u32(window.size);
    packer.i64(window.start);
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
    packer.u32(window.first_at);
    packer.u32(window.last_at);
    packer.f64(window.time_mean);
    packer.f64(window.time_squares);
    packer.f64(window.products);
}

fn take_window(unpacker: &mut Unpacker<'_>) -> Result<Window, UnpackError> {
    Ok(Window {
        size: unpacker.u32()?,
        start: unpacker.i64()?,
        count: unpacker.u64()?,
        min: unpacker.f64()?,
        max: unpacker.f64()?,
        mean: unpacker.f64()?,
        squares: unpacker.f64()?,
        first: unpacker.f64()?,
        last: unpacker.f64()?,
        first_at: unpacker.u32()?,
        last_at: unpacker.u32()?,
        time_mean: unpacker.f64()?,
        time_squares: unpacker.f64()?,
        products: unpacker.f64()?,
    })
}

fn put_alert(packer: &mut Packer, alert: &AlertState) {
    packer.u8(alert.kind as u8);
    packer.u8(u8::from(alert.status == AlertStatus::Raised));
    packer.u8(u8::from(alert.level == Level::Critical));
    packer.u8(u8::from(alert.above));
    packer.i64(alert.offset);
    packer.f64(alert.value);
    packer.f64(alert.limit);
    packer.i64(alert.timestamp);
    packer.i64(alert.raised_at);
    packer.u64(alert.count);
    packer.i64(alert.told_at);
}

fn take_alert(unpacker: &mut Unpacker<'_>) -> Result<AlertState, UnpackError> {
    let kind = usize::from(unpacker.u8()?);
    let kind = AlertKind::ALL.get(kind).ok_or(UnpackError::Damaged)?;
    let (raised, critical) = (unpacker.flag()?, unpacker.flag()?);
    Ok(AlertState {
        kind: *kind,
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
        above: unpacker.flag()?,
        offset: unpacker.i64()?,
        value: unpacker.f64()?,
        limit: unpacker.f64()?,
        timestamp: unpacker.i64()?,
        raised_at: unpacker.i64()?,
        count: unpacker.u64()?,
        told_at: unpacker.i64()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::Pending;
    use crate::log_time::LogPosition;

    const KEY: &str = "d\0t\0p\0device";

    /// docs/state.md promises this to readers that need no more than the newest values.
    #[test]
    fn a_sensor_begins_with_its_newest_value_and_can_be_skipped() {
        let mut device = DeviceState::unpack(KEY, &empty()).unwrap();
        for (name, value) in [("a", 1.5), ("bc", 2.5)] {
            let mut sensor = SensorState::new(name);
            sensor.value = value;
            sensor.newest = Stamp {
                timestamp: 7,
                seq: Some(9),
                is_ahead: name == "a",
            };
            sensor.unit = Some("volt".into());
            device.sensors.push(sensor);
        }
        let bytes = device.pack();
        // Version, two times, no seq, not ahead, no place, rules, number of sensors.
        let mut rest = &bytes[1 + 8 + 8 + 1 + 1 + 1 + 4 + 4..];
        for (name, value) in [("a", 1.5_f64), ("bc", 2.5)] {
            let (length, part) = rest.split_first_chunk().unwrap();
            let expected = [
                &(name.len() as u32).to_le_bytes()[..],
                name.as_bytes(),
                &value.to_le_bytes(),
                &[1, 4, 0, 0, 0],
                b"volt",
                &[0],
                &7_i64.to_le_bytes(),
                &[1],
                &9_u64.to_le_bytes(),
                &[u8::from(name == "a")],
                // No open windows, no alerts.
                &[0, 0, 0, 0, 0],
            ];
            assert!(part.starts_with(&expected.concat()));
            rest = &part[u32::from_le_bytes(*length) as usize..];
        }
        // Never heard, and never silent.
        assert_eq!(rest, [0_u8; 2]);
        assert_eq!(DeviceState::unpack(KEY, &bytes), Ok(device));
    }

    #[test]
    fn other_keys_and_versions_are_refused() {
        for key in ["s\0t\0p\0device", "d\0t\0p", "d\0t\0p\0device\0sensor", ""] {
            let unpacked = DeviceState::unpack(key, &empty());
            assert_eq!(unpacked, Err(UnpackError::Damaged), "{key:?}");
        }
        let mut older = empty();
        older[0] = 1;
        assert_eq!(
            DeviceState::unpack(KEY, &older),
            Err(UnpackError::Version(1))
        );
    }

    #[test]
    fn the_last_position_is_read_as_it_was_written() {
        let mut device = DeviceState::unpack(KEY, &empty()).unwrap();
        device.heard = Some(LogPosition {
            offset: 7,
            recorded: -1,
            clock: i64::MAX,
            age: 9,
        });
        let bytes = device.pack();
        assert_eq!(bytes[0], VERSION);
        assert_eq!(DeviceState::unpack(KEY, &bytes), Ok(device));
    }

    /// docs/state.md: after everything else of a sensor.
    #[test]
    fn a_value_that_waits_beyond_a_limit_is_read_as_it_was_written() {
        let mut device = DeviceState::unpack(KEY, &empty()).unwrap();
        device.sensors.push(SensorState::new("a"));
        let without = device.pack();
        device.sensors[0].detectors.pending = Some(Pending {
            since: -7,
            above: true,
        });
        let bytes = device.pack();
        // The device ends with two zeros: never heard, and never silent.
        let end = [&[1][..], &(-7_i64).to_le_bytes(), &[1], &[0; 2]].concat();
        assert!(bytes.ends_with(&end) && bytes.len() == without.len() + 9);
        assert!(bytes.len() <= device.packed_size());
        assert_eq!(DeviceState::unpack(KEY, &bytes), Ok(device));
    }

    fn empty() -> Vec<u8> {
        let mut bytes = vec![0; 1 + 8 + 8 + 1 + 1 + 1 + 4 + 4 + 2];
        bytes[0] = VERSION;
        bytes
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(rest in prop::collection::vec(0..4_u8, 0..400)) {
            let mut bytes = vec![VERSION];
            bytes.extend(rest);
            let _ = DeviceState::unpack(KEY, &bytes);
        }
    }
}
