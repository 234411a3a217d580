//! What the fold shows to clients. Serialised, these are the JSON of the REST API, of the
//! WebSocket and of events. Times are milliseconds since the epoch.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use iot_core::message::Quality;
use serde::{Serialize, Serializer};

use crate::kind::AlertKind;
use crate::new_values::{NewValue, NewValues};

/// The identity of a device. The same device id of another tenant or project is another
/// device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct DeviceKey {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The tenant's project.
    pub project: Arc<str>,
    /// The device id in the project.
    pub device: Arc<str>,
}

/// Place of a device. An unknown part is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Place {
    /// The building.
    pub building: Arc<str>,
    /// The floor in the building.
    pub floor: Arc<str>,
    /// The room on the floor.
    pub room: Arc<str>,
}

/// Newest value of one sensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// The number, in `unit`.
    pub value: f64,
    /// The unit, if it is known.
    pub unit: Option<Arc<str>>,
    /// What the device says about it.
    pub quality: Quality,
    /// Event time.
    pub timestamp: i64,
    /// Whether that is ahead of the record's time: `ahead`, left out if it is not.
    #[serde(rename = "ahead", skip_serializing_if = "std::ops::Not::not")]
    pub is_ahead: bool,
}

impl Value {
    /// Takes over a newer value.
    fn replace(&mut self, newer: &NewValue<'_>) {
        let unit = match (&self.unit, newer.unit) {
            // Texts are shared. Counting the owners of one that stays would take the longest here.
            (Some(unit), Some(newer)) if Arc::ptr_eq(unit, newer) => self.unit.take(),
            (_, newer) => newer.cloned(),
        };
        *self = newer.with_unit(unit);
    }
}

/// Newest values of a device: all of them, or only those that changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Device {
    /// The device.
    #[serde(flatten)]
    pub key: DeviceKey,
    /// Where it is, if it has said so.
    pub location: Option<Arc<Place>>,
    /// Sequence number of its newest message.
    pub seq: Option<u64>,
    /// Event time of its newest message.
    pub timestamp: i64,
    /// Whether that is ahead of the record's time: `ahead`, left out if it is not.
    #[serde(rename = "ahead", skip_serializing_if = "std::ops::Not::not")]
    pub is_ahead: bool,
    /// The values, by name of the sensor.
    pub readings: Readings,
}

/// Newest values of sensors, ordered by name. A device has few: a sorted list takes a
/// tenth of the memory of a tree.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Readings(Vec<(Arc<str>, Value)>);

impl Readings {
    /// Takes over changed values, in their order.
    fn update(&mut self, changed: NewValues<'_>) {
        for new in changed.iter() {
            // Names are shared: nearly always the address tells.
            let mut names = self.0.iter().map(|(name, _)| name);
            let known = names.position(|name| Arc::ptr_eq(name, new.sensor));
            match known.map_or_else(|| self.find(new.sensor), Ok) {
                Ok(at) => self.0[at].1.replace(&new),
                Err(at) => {
                    // A device has few sensors: the list must not keep room for four.
                    self.0.reserve_exact(1);
                    let value = new.with_unit(new.unit.cloned());
                    self.0.insert(at, (new.sensor.clone(), value));
                }
            }
        }
    }

    /// Where a sensor is in the list, or where it belongs.
    ///
    /// # Errors
    /// It is not in the list.
    pub fn find(&self, sensor: &str) -> Result<usize, usize> {
        self.0.binary_search_by_key(&sensor, |(name, _)| name)
    }

    /// Takes over the values that replace those of the same sensor.
    fn merge(&mut self, others: Self, replaces: impl Fn(&Value, &Value) -> bool) {
        for (sensor, value) in others.0 {
            match self.0.binary_search_by_key(&&*sensor, |(name, _)| name) {
                Ok(at) if !replaces(&value, &self.0[at].1) => {}
                Ok(at) => self.0[at].1 = value,
                Err(at) => self.0.insert(at, (sensor, value)),
            }
        }
    }
}

impl Deref for Readings {
    type Target = [(Arc<str>, Value)];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromIterator<(Arc<str>, Value)> for Readings {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Value)>>(readings: I) -> Self {
        let mut readings: Vec<_> = readings.into_iter().collect();
        readings.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        readings.shrink_to_fit();
        Self(readings)
    }
}

impl Serialize for Readings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(sensor, value)| (sensor, value)))
    }
}

/// Approximate bytes of JSON around the texts: names, numbers, punctuation.
const DEVICE_JSON: usize = 160;
const PLACE_JSON: usize = 40;
const VALUE_JSON: usize = 100;
const ALERT_JSON: usize = 320;

impl DeviceKey {
    fn len(&self) -> usize {
        self.tenant.len() + self.project.len() + self.device.len()
    }
}

impl Place {
    fn json_size(&self) -> usize {
        PLACE_JSON + self.building.len() + self.floor.len() + self.room.len()
    }
}

impl Alert {
    /// Whether it is active.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == AlertStatus::Raised
    }

    /// The order in which alerts are listed, and kept where there is not room for all: active
    /// before cleared, critical before warning, then the newest first. Repetitions of an active
    /// alert do not move it.
    #[must_use]
    pub fn listed_before(&self, other: &Self) -> Ordering {
        let rank = |alert: &Self| {
            let is_active = alert.is_active();
            let at = if is_active {
                alert.raised_at
            } else {
                alert.timestamp
            };
            (Reverse(is_active), Reverse(alert.level), Reverse(at))
        };
        let by_rank = rank(self).cmp(&rank(other));
        by_rank.then_with(|| self.id.cmp(&other.id))
    }

    /// Its approximate size as JSON, in bytes.
    #[must_use]
    pub fn json_size(&self) -> usize {
        let place = self.location.as_ref().map_or(0, |place| place.json_size());
        let texts = self.id.len() + self.sensor.len() + self.message.len();
        ALERT_JSON + self.key.len() + place + texts
    }
}

impl Device {
    /// Its approximate size as JSON, in bytes.
    #[must_use]
    pub fn json_size(&self) -> usize {
        let place = self.location.as_ref().map_or(0, |place| place.json_size());
        let reading = |(sensor, value): &(Arc<str>, Value)| {
            VALUE_JSON + sensor.len() + value.unit.as_ref().map_or(0, |unit| unit.len())
        };
        let readings: usize = self.readings.iter().map(reading).sum();
        DEVICE_JSON + self.key.len() + place + readings
    }

    /// Takes over a later change of the same partition: what its newest message says, and the
    /// readings that changed. The fold has decided what is newest; event times need not increase.
    pub fn update(
        &mut self,
        (seq, timestamp, is_ahead): (Option<u64>, i64, bool),
        readings: NewValues<'_>,
    ) {
        (self.seq, self.timestamp, self.is_ahead) = (seq, timestamp, is_ahead);
        self.readings.update(readings);
    }

    /// Takes over what is newest of the same device in another partition.
    pub fn merge(&mut self, other: Device) {
        let order = |device: &Device| (device.timestamp, device.seq);
        let is_newer = order(&other) >= order(self);
        if newest(self.is_ahead, other.is_ahead, is_newer) {
            self.take_message(&other);
        }
        self.readings.merge(other.readings, |other, mine| {
            let is_newer = other.timestamp >= mine.timestamp;
            newest(mine.is_ahead, other.is_ahead, is_newer)
        });
    }

    /// Takes over what belongs to the newest message as a whole.
    fn take_message(&mut self, newest: &Device) {
        self.timestamp = newest.timestamp;
        self.seq = newest.seq;
        self.is_ahead = newest.is_ahead;
        self.location.clone_from(&newest.location);
    }
}

/// Whether another value replaces one of which `is_ahead` says whether it was ahead of its
/// record.
fn newest(is_ahead: bool, other_is_ahead: bool, other_is_newer: bool) -> bool {
    match (is_ahead, other_is_ahead) {
        (true, false) => true,
        (false, true) => false,
        _ => other_is_newer,
    }
}

/// Summary of the values of one sensor in `start <= time < end`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowSummary {
    /// The first moment of the window.
    pub start: i64,
    /// The first moment after the window.
    pub end: i64,
    /// How many values.
    pub count: u64,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// Standard deviation of all values (of the population, not of a sample).
    pub deviation: f64,
    /// The value with the least event time; of several the first in the log.
    pub first: f64,
    /// The value with the greatest event time; of several the last in the log.
    pub last: f64,
    /// Slope of the least-squares line over event time, in units per hour; `None` if all
    /// values have the same time.
    pub slope: Option<f64>,
    /// Whether the window can no longer change.
    pub sealed: bool,
}

/// Windows of a device, by sensor, oldest first.
pub type Windows = BTreeMap<Arc<str>, Vec<WindowSummary>>;

/// How severe an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Beyond what is normal.
    Warning,
    /// Far beyond.
    Critical,
}

impl Level {
    pub(crate) fn critical_if(is_critical: bool) -> Self {
        if is_critical {
            Self::Critical
        } else {
            Self::Warning
        }
    }
}

/// Whether an alert is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertStatus {
    /// It is active.
    Raised,
    /// It is over.
    Cleared,
}

/// Why an alert was cleared, if not by what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClearReason {
    /// Its device was removed, because it sent nothing for longer than the retention.
    DeviceRemoved,
}

/// An alert, with everything that a client needs to show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alert {
    /// `topic:partition:offset:sensor:kind`, with the offset of the record that raised it.
    /// An alert of a device has `tenant/project/device` in place of the sensor.
    pub id: Arc<str>,
    /// The device.
    #[serde(flatten)]
    pub key: DeviceKey,
    /// Where the device is, if it has said so.
    pub location: Option<Arc<Place>>,
    /// The sensor; empty for an alert of the device.
    pub sensor: Arc<str>,
    /// What it is about.
    pub kind: AlertKind,
    /// The most severe level since it was raised.
    pub level: Level,
    /// Whether it is active.
    pub state: AlertStatus,
    /// The value of the last change.
    pub value: f64,
    /// What the value is compared with. Threshold: the limit. Spike: the most (or least)
    /// that was expected. Drift: the usual level. Stuck, toggling: how many equal readings
    /// or changes raise it. Silence: after how many seconds it is raised.
    pub limit: f64,
    /// The text for people.
    pub message: String,
    /// Why it was cleared, if not by what it is about; left out otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<ClearReason>,
    /// Time of the last change. Of a silence and of a removed device it is Kafka's, else the
    /// event's.
    pub timestamp: i64,
    /// When it was raised: of a silence Kafka's time, else the event's.
    pub raised_at: i64,
    /// Readings counted into this alert.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::new_values::tests::packed;

    fn device(timestamp: i64, value: f64) -> Device {
        let reading = Value {
            value,
            unit: None,
            quality: Quality::Good,
            timestamp,
            is_ahead: false,
        };
        Device {
            key: DeviceKey {
                tenant: "t".into(),
                project: "p".into(),
                device: "d".into(),
            },
            location: None,
            seq: None,
            timestamp,
            is_ahead: false,
            readings: [("temperature".into(), reading)].into_iter().collect(),
        }
    }

    #[test]
    fn an_older_change_replaces_nothing() {
        let mut newest = device(2_000, 2.0);
        newest.merge(device(1_000, 1.0));
        assert_eq!(newest, device(2_000, 2.0));
        newest.merge(device(3_000, 3.0));
        assert_eq!(newest, device(3_000, 3.0));
    }

    fn ahead(timestamp: i64, value: f64) -> Device {
        let mut device = device(timestamp, value);
        device.is_ahead = true;
        device.readings.0[0].1.is_ahead = true;
        device
    }

    #[test]
    fn what_was_ahead_yields_to_another_partition_in_either_order() {
        let mut newest = ahead(9_000, 9.0);
        newest.merge(device(1_000, 1.0));
        assert_eq!(newest, device(1_000, 1.0));
        newest.merge(ahead(9_000, 9.0));
        assert_eq!(newest, device(1_000, 1.0));
    }

    #[test]
    fn a_later_change_of_the_same_partition_replaces_whatever_its_time() {
        let mut newest = ahead(9_000, 9.0);
        let mut update = |change: Device| {
            let message = (change.seq, change.timestamp, change.is_ahead);
            let (readings, texts) = packed(&change.readings);
            let readings = NewValues {
                readings: &readings,
                texts: &texts,
            };
            newest.update(message, readings);
        };
        update(ahead(8_000, 8.0));
        update(device(1_000, 1.0));
        assert_eq!(newest, device(1_000, 1.0));
    }

    #[test]
    fn a_device_is_flat_in_json() {
        let json = serde_json::to_value(device(5, 1.5)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "tenant": "t", "project": "p", "device": "d", "location": null, "seq": null,
                "timestamp": 5,
                "readings": {"temperature":
                    {"value": 1.5, "unit": null, "quality": "good", "timestamp": 5}},
            })
        );
        let json = serde_json::to_value(ahead(5, 1.5)).unwrap();
        assert_eq!(
            (&json["ahead"], &json["readings"]["temperature"]["ahead"]),
            (&true.into(), &true.into())
        );
    }
}
