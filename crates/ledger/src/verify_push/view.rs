//! Devices and their values: what clients are shown, and what the fold of the log has.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use iot_core::message::Quality;

use super::wire;
use crate::verify_state::fold;
use crate::verify_state::model::Place;

/// Texts that are kept once.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let name: Arc<str> = text.into();
        self.0.insert(name.clone());
        name
    }
}

/// What belongs to the newest message of a device as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    timestamp: i64,
    seq: Option<u64>,
    ahead: bool,
    place: Option<Arc<Place>>,
}

/// The newest value of a sensor.
#[derive(Debug, Clone)]
pub(super) struct Value {
    value: f64,
    unit: Option<Arc<str>>,
    quality: Quality,
    pub(super) timestamp: i64,
    ahead: bool,
}

impl PartialEq for Value {
    /// Numbers are equal if their bits are.
    fn eq(&self, other: &Self) -> bool {
        let rest = |of: &Self| (of.value.to_bits(), of.quality, of.timestamp, of.ahead);
        rest(self) == rest(other) && self.unit == other.unit
    }
}

/// Values by sensor.
pub(super) type Values = BTreeMap<Arc<str>, Value>;

/// A device, or what has changed of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Device {
    pub(super) head: Head,
    pub(super) values: Values,
}

/// Devices by name.
pub(super) type View = BTreeMap<Arc<str>, Device>;

/// The name of a device: tenant, project and device id, as the fold has it.
pub(super) fn device_name(key: &wire::Key) -> String {
    format!("{}\0{}\0{}", key.tenant, key.project, key.device)
}

/// The name of a device, for people.
pub(super) fn shown(device: &str) -> String {
    device.replace('\0', "/")
}

impl Device {
    pub(super) fn received(device: &wire::Device, names: &mut Names) -> Self {
        let place = device.location.as_ref().map(|location| {
            let parts = [&location.building, &location.floor, &location.room];
            Arc::new(parts.map(Clone::clone))
        });
        let values = device.readings.iter().map(|(sensor, reading)| {
            let value = Value {
                value: reading.value,
                unit: reading.unit.as_deref().map(|unit| names.get(unit)),
                quality: reading.quality,
                timestamp: reading.timestamp,
                ahead: reading.ahead,
            };
            (names.get(sensor), value)
        });
        Self {
            values: values.collect(),
            head: Head {
                timestamp: device.timestamp,
                seq: device.seq,
                ahead: device.ahead,
                place,
            },
        }
    }

    /// What a record has changed, or all that the fold has if none is given.
    pub(super) fn folded(device: &fold::Device, of_record: Option<i64>) -> Option<Self> {
        let newest = device.newest?;
        let newest_values = device.sensors.iter().filter_map(|(sensor, state)| {
            let newest = state.newest.as_ref()?;
            if of_record.is_some_and(|offset| newest.offset != offset) {
                return None;
            }
            let value = Value {
                value: newest.value,
                unit: newest.unit.as_deref().map(Into::into),
                quality: newest.quality,
                timestamp: newest.timing.moment.timestamp,
                ahead: newest.timing.ahead,
            };
            Some((sensor.as_str().into(), value))
        });
        Some(Self {
            values: newest_values.collect(),
            head: Head {
                timestamp: newest.moment.timestamp,
                seq: newest.moment.seq,
                ahead: newest.ahead,
                place: device.place.clone().map(Arc::new),
            },
        })
    }

    /// Where it is.
    pub(super) fn place(&self) -> Option<Place> {
        self.head.place.as_deref().cloned()
    }

    /// Whether both have the same value of a sensor; without a sensor what belongs to the device
    /// as a whole.
    pub(super) fn agrees(&self, other: &Self, sensor: Option<&str>) -> bool {
        match sensor {
            None => self.head == other.head,
            Some(sensor) => self.values.get(sensor) == other.values.get(sensor),
        }
    }

    /// The value of a sensor or what belongs to the device as a whole, for people.
    pub(super) fn describe(&self, sensor: Option<&str>) -> String {
        let Some(sensor) = sensor else {
            return self.head.to_string();
        };
        let value = self.values.get(sensor);
        value.map_or_else(|| "none".to_owned(), ToString::to_string)
    }

    /// Takes over a change.
    pub(super) fn update(&mut self, change: &Self) {
        self.head.clone_from(&change.head);
        for (sensor, value) in &change.values {
            self.values.insert(sensor.clone(), value.clone());
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "time {}", self.timestamp)?;
        if let Some(seq) = self.seq {
            write!(f, " seq {seq}")?;
        }
        if let Some(place) = &self.place {
            write!(f, " at {}", place.join("/"))?;
        }
        f.write_str(if self.ahead { " ahead" } else { "" })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `{:?}` is the shortest text that parses back to the same bits.
        let unit = self.unit.as_deref().unwrap_or("no unit");
        let quality = self.quality.as_str();
        write!(f, "{:?} {unit} {quality} at {}", self.value, self.timestamp)?;
        f.write_str(if self.ahead { " ahead" } else { "" })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.head)?;
        self.values
            .iter()
            .try_for_each(|(sensor, value)| write!(f, ", {sensor} {value}"))
    }
}
