//! Section `mappings`, and the mappings that are ready.

use std::collections::BTreeMap;

use iot_service::config::Problems;
use serde::{Deserialize, Serialize};

/// Section `mappings`: messages that are not in our own format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MappingsConfig {
    /// Those that are ready and wanted.
    pub ready: Vec<Ready>,
    /// Others; they come before those that are ready.
    pub own: Vec<MappingConfig>,
}

/// A mapping that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// Zigbee2MQTT's device states: `zigbee2mqtt/FRIENDLY_NAME`.
    Zigbee2mqtt,
    /// Uplinks of ChirpStack 4: `application/ID/device/EUI/event/up`.
    Chirpstack,
    /// Tasmota's telemetry: `tele/DEVICE/SENSOR`.
    Tasmota,
}

/// What is what in the JSON of some messages. Pointers are those of RFC 6901.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MappingConfig {
    /// Kafka topic that the messages are in; empty for any.
    pub topic: String,
    /// MQTT topic filter that the header `mqtt-topic` matches; empty for any.
    pub mqtt: String,
    /// Device: a pointer, or `mqtt:N` for the N-th level of the MQTT topic, from 1.
    pub device: String,
    /// Pointer to the time (RFC 3339 with its zone, or seconds or milliseconds since
    /// the epoch); empty, or nothing there, for the time of the Kafka record.
    pub time: String,
    /// Single readings.
    pub readings: Vec<ReadingConfig>,
    /// Pointer to an object whose numbers, booleans and ON or OFF are readings under
    /// their own names, in lower case.
    pub fields: Option<String>,
    /// Whether those are in objects in that object, one for each sensor chip.
    pub nested: bool,
    /// Other names for those readings.
    pub rename: BTreeMap<String, String>,
    /// Their units by name: as it is, or a pointer to it.
    pub units: BTreeMap<String, String>,
}

/// One reading of a mapping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadingConfig {
    /// Its name.
    pub sensor: String,
    /// Pointer to its value. A message without it has the other readings only.
    pub value: String,
    /// Its unit.
    #[serde(default)]
    pub unit: Option<String>,
}

impl MappingsConfig {
    /// All of them, in the order in which they are tried.
    pub(super) fn all(&self) -> Vec<MappingConfig> {
        let ready = self.ready.iter().map(|ready| ready.mapping());
        self.own.iter().cloned().chain(ready).collect()
    }

    /// Adds what is wrong with it.
    pub(crate) fn validate(&self, problems: &mut Problems) {
        for (number, mapping) in self.own.iter().enumerate() {
            let mut add = |key: &str, message: &str| {
                problems.add(format!("mappings.own[{number}].{key}"), message);
            };
            if mapping.topic.is_empty() && mapping.mqtt.is_empty() {
                add("mqtt", "or topic must say which messages are meant");
            }
            if !super::is_filter(&mapping.mqtt) {
                add("mqtt", "is not an MQTT topic filter");
            }
            if !is_pointer(&mapping.device) && super::level(&mapping.device).is_none() {
                add("device", "must be a JSON pointer, such as /id, or mqtt:N");
            }
            if !mapping.time.is_empty() && !is_pointer(&mapping.time) {
                add("time", "must be a JSON pointer, such as /time");
            }
            if mapping.readings.is_empty() && mapping.fields.is_none() {
                add("readings", "or fields must say where readings are");
            }
            let mut names = mapping.rename.keys().chain(mapping.units.keys());
            if names.any(|name| name.chars().any(char::is_uppercase)) {
                add(
                    "rename",
                    "and units must have names in lower case, as readings have",
                );
            }
            let only = mapping.nested || !mapping.rename.is_empty() || !mapping.units.is_empty();
            if only && mapping.fields.is_none() {
                add("fields", "is missing: nested, rename and units are for it");
            }
            if mapping.readings.iter().any(|one| one.sensor.is_empty()) {
                add("readings", "must name their sensors");
            }
            let single = mapping.readings.iter().map(|reading| &reading.value);
            let fields = mapping.fields.iter().filter(|pointer| !pointer.is_empty());
            if !single.chain(fields).all(|pointer| is_pointer(pointer)) {
                add(
                    "readings",
                    "must have values that are JSON pointers, such as /temp",
                );
            }
        }
    }
}

fn is_pointer(text: &str) -> bool {
    text.starts_with('/')
}

impl Ready {
    fn mapping(self) -> MappingConfig {
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect()
        };
        match self {
            Self::Zigbee2mqtt => MappingConfig {
                mqtt: "zigbee2mqtt/+".into(),
                device: "mqtt:2".into(),
                time: "/last_seen".into(),
                fields: Some(String::new()),
                rename: pairs(&[("state", "switch")]),
                units: pairs(&[
                    ("temperature", "celsius"),
                    ("humidity", "percent"),
                    ("pressure", "hectopascal"),
                    ("current", "ampere"),
                    ("switch", "state"),
                ]),
                ..MappingConfig::default()
            },
            Self::Chirpstack => MappingConfig {
                mqtt: "application/+/device/+/event/up".into(),
                device: "/deviceInfo/devEui".into(),
                time: "/time".into(),
                fields: Some("/object".into()),
                ..MappingConfig::default()
            },
            Self::Tasmota => MappingConfig {
                // Its Time is local and without a zone, so the record's is used.
                mqtt: "tele/+/SENSOR".into(),
                device: "mqtt:2".into(),
                fields: Some(String::new()),
                nested: true,
                units: pairs(&[
                    ("temperature", "/TempUnit"),
                    ("pressure", "/PressureUnit"),
                    ("humidity", "percent"),
                    ("current", "ampere"),
                ]),
                ..MappingConfig::default()
            },
        }
    }
}
