//! What the consumer tells its clients: the JSON of the REST API and of the
//! WebSocket. Times are milliseconds since the epoch.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use iot_core::message::Quality;
use serde::{Deserialize, Serialize, Serializer};

/// Who a device is: the same device id under another tenant is another device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct DeviceKey {
    pub tenant: Arc<str>,
    pub project: Arc<str>,
    pub device: Arc<str>,
}

/// Place of a device; a part that isn't known is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Place {
    pub building: Arc<str>,
    pub floor: Arc<str>,
    pub room: Arc<str>,
}

/// Newest value of one sensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    pub value: f64,
    pub unit: Option<Arc<str>>,
    pub quality: Quality,
    pub timestamp: i64,
}

/// Newest values of a device: all of them, or only those that changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Device {
    #[serde(flatten)]
    pub key: DeviceKey,
    pub location: Option<Arc<Place>>,
    pub seq: Option<u64>,
    pub timestamp: i64,
    pub readings: Readings,
}

/// Newest values of sensors, in the order of their names. A device has few: a sorted
/// list takes a tenth of the memory of a tree.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Readings(Vec<(Arc<str>, Value)>);

impl Readings {
    /// Takes over what is not older than what is known.
    fn merge(&mut self, newer: Self) {
        for (sensor, value) in newer.0 {
            match self.0.binary_search_by_key(&&*sensor, |(name, _)| name) {
                Ok(at) if self.0[at].1.timestamp > value.timestamp => {}
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

/// About the bytes that names and numbers take around texts in JSON.
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
    /// About its size in JSON, in bytes.
    pub fn json_size(&self) -> usize {
        let place = self.location.as_ref().map_or(0, |place| place.json_size());
        let texts = self.id.len() + self.sensor.len() + self.message.len();
        ALERT_JSON + self.key.len() + place + texts
    }
}

impl Device {
    /// About its size in JSON, in bytes.
    pub fn json_size(&self) -> usize {
        let place = self.location.as_ref().map_or(0, |place| place.json_size());
        let reading = |(sensor, value): &(Arc<str>, Value)| {
            VALUE_JSON + sensor.len() + value.unit.as_ref().map_or(0, |unit| unit.len())
        };
        let readings: usize = self.readings.iter().map(reading).sum();
        DEVICE_JSON + self.key.len() + place + readings
    }

    /// Takes over what is newer in `change`.
    pub fn merge(&mut self, change: Device) {
        if (change.timestamp, change.seq) >= (self.timestamp, self.seq) {
            self.timestamp = change.timestamp;
            self.seq = change.seq;
            self.location = change.location;
        }
        self.readings.merge(change.readings);
    }
}

/// Summary of the values of one sensor in `start <= time < end`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowSummary {
    pub start: i64,
    pub end: i64,
    pub count: u64,
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    /// Standard deviation of all values (not of a sample).
    pub deviation: f64,
    pub first: f64,
    pub last: f64,
    /// Slope of the line of least squares over event time, in units per hour;
    /// `None` if all values have the same time.
    pub slope: Option<f64>,
    /// Whether the window can't change any more.
    pub sealed: bool,
}

/// Windows of a device, by sensor, oldest first.
pub type Windows = BTreeMap<Arc<str>, Vec<WindowSummary>>;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Warning,
    Critical,
}

/// Whether an alert still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertStatus {
    Raised,
    Cleared,
}

/// What kind of detector raised an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum AlertKind {
    /// Beyond the limit of its sensor.
    Threshold,
    /// Far from what the readings before let expect.
    Spike,
    /// The same value again and again.
    Stuck,
    /// Away from its usual level, little by little.
    Drift,
    /// A switch that changes too often.
    Toggling,
    /// Of a device, not of a sensor: nothing is heard of it any more.
    Silence,
}

impl AlertKind {
    /// By number.
    pub const ALL: [Self; 6] = [
        Self::Threshold,
        Self::Spike,
        Self::Stuck,
        Self::Drift,
        Self::Toggling,
        Self::Silence,
    ];
    /// Those that are found in the readings of one sensor: the first ones.
    pub const OF_SENSORS: usize = 5;

    /// Its name in ids and labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::Threshold => "threshold",
            Self::Spike => "spike",
            Self::Stuck => "stuck",
            Self::Drift => "drift",
            Self::Toggling => "toggling",
            Self::Silence => "silence",
        }
    }
}

/// An alert with everything a client needs to show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alert {
    pub id: Arc<str>,
    #[serde(flatten)]
    pub key: DeviceKey,
    pub location: Option<Arc<Place>>,
    /// Empty if it is the device's.
    pub sensor: Arc<str>,
    pub kind: AlertKind,
    pub level: Level,
    pub state: AlertStatus,
    pub value: f64,
    /// Threshold: the limit. Spike: the most (or least) that was expected. Drift:
    /// the usual level. Stuck, toggling: how many equal readings or changes it takes.
    /// Silence: how many seconds it takes, of which `value` has passed.
    pub limit: f64,
    pub message: String,
    /// Time of the last change.
    pub timestamp: i64,
    pub raised_at: i64,
    /// Readings folded into this alert.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(timestamp: i64, value: f64) -> Device {
        let reading = Value {
            value,
            unit: None,
            quality: Quality::Good,
            timestamp,
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
    }
}
