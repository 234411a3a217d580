//! Section `mappings`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Section `mappings`: messages that are not in our own format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MappingsConfig {
    /// Built-in ones to use.
    pub ready: Vec<Ready>,
    /// Others; they are tried before the built-in ones.
    pub own: Vec<MappingConfig>,
}

impl MappingsConfig {
    /// Whether readings may be named after a chip.
    pub(crate) fn has_chips(&self) -> bool {
        self.ready.contains(&Ready::Tasmota) || self.own.iter().any(|mapping| mapping.nested)
    }
}

/// A built-in mapping.
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

/// Where device, time and readings are in the JSON of some messages. Pointers are those of RFC 6901.
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
    /// Whether those are in objects in that object, one for each sensor chip. A reading is then
    /// named after its chip too, `ds18b20-temperature`, whether or not there are others.
    pub nested: bool,
    /// The chip whose readings are not named after it, because there is only one such chip.
    pub bare: String,
    /// Fields that are no readings, such as the number of a chip.
    pub ignore: Vec<String>,
    /// Other names for those readings: for those of all chips, or for that of one.
    pub rename: BTreeMap<String, String>,
    /// Their units by name, with or without the chip: as it is, or a pointer to it.
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
