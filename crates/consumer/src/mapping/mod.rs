//! Messages in other people's formats: settings say where in their JSON the device,
//! the time and the readings are.

mod ready;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use iot_core::message::{DeviceMessage, JsonKind, ParseError, Quality, Reading, quoted};
use serde_json::{Map, Value};

use crate::config::{MappingConfig, MappingsConfig};

/// Larger numbers are milliseconds, others seconds: those of 2001 and of 5138.
const SECONDS_BELOW: f64 = 1e11;

/// What a record says besides its payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around<'r> {
    /// Kafka topic.
    pub(crate) topic: &'r str,
    /// MQTT topic it was published to, if it came through the bridge.
    pub(crate) mqtt: Option<&'r str>,
    /// Kafka's time of it, milliseconds since the epoch.
    pub(crate) recorded: Option<i64>,
}

/// What was found in a message.
#[derive(Debug, Default)]
struct Found {
    /// Value and unit by name.
    readings: BTreeMap<String, (f64, Option<String>)>,
    /// Names that are taken, with or without a value.
    named: BTreeSet<String>,
}

/// All mappings of the settings, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct Mappings(Vec<MappingConfig>);

impl Mappings {
    pub(crate) fn new(config: &MappingsConfig) -> Self {
        let ready = config.ready.iter().map(|ready| ready::mapping(*ready));
        Self(config.own.iter().cloned().chain(ready).collect())
    }

    /// The first that is meant for such messages.
    pub(crate) fn find(&self, around: &Around<'_>) -> Option<&MappingConfig> {
        self.0.iter().find(|mapping| mapping.is_for(around))
    }
}

impl MappingConfig {
    fn is_for(&self, around: &Around<'_>) -> bool {
        (self.topic.is_empty() || self.topic == around.topic)
            && (self.mqtt.is_empty() || around.mqtt.is_some_and(|topic| matches(&self.mqtt, topic)))
    }

    /// The message in a payload.
    ///
    /// # Errors
    /// It is not JSON, or the device, a time or readings are not there.
    pub(crate) fn message(
        &self,
        payload: &[u8],
        around: &Around<'_>,
    ) -> Result<DeviceMessage<'static>, ParseError> {
        let json: Value = serde_json::from_slice(payload).map_err(|error| ParseError::NotJson {
            detail: error.to_string(),
        })?;
        let readings = self.readings(&json);
        if readings.is_empty() {
            return Err(ParseError::NoReadings);
        }
        let time = json.pointer(&self.time);
        let time = time.filter(|time| !self.time.is_empty() && !time.is_null());
        Ok(DeviceMessage {
            device_id: self.device(&json, around)?.into(),
            tenant: None,
            project: None,
            seq: None,
            timestamp: match time {
                // A time that can't be read is not taken for another one.
                Some(time) => millis(time).ok_or_else(|| ParseError::InvalidTimestamp {
                    field: self.time.clone(),
                    found: match time {
                        Value::String(text) => quoted(text),
                        other => kind(other).to_string(),
                    },
                })?,
                None => around
                    .recorded
                    .ok_or(ParseError::MissingField { field: "timestamp" })?,
            },
            location: None,
            readings,
        })
    }

    fn device(&self, json: &Value, around: &Around<'_>) -> Result<String, ParseError> {
        const FIELD: &str = "device_id";
        let missing = ParseError::MissingField { field: FIELD };
        if let Some(level) = level(&self.device) {
            let found = around
                .mqtt
                .and_then(|topic| topic.split('/').nth(level - 1));
            let found = found.filter(|found| !found.is_empty());
            return found.map(str::to_owned).ok_or(missing);
        }
        match json.pointer(&self.device) {
            None | Some(Value::Null) => Err(missing),
            Some(Value::String(text)) if text.is_empty() => {
                Err(ParseError::EmptyField { field: FIELD })
            }
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(other) => Err(ParseError::WrongType {
                field: FIELD,
                expected: "text or a number",
                found: kind(other),
            }),
        }
    }

    fn readings(&self, json: &Value) -> Vec<Reading<'static>> {
        let mut found = Found::default();
        for reading in &self.readings {
            if let Some(value) = json.pointer(&reading.value).and_then(value) {
                let unit = reading.unit.clone();
                found.readings.insert(reading.sensor.clone(), (value, unit));
            }
        }
        let object = self.fields.as_ref().and_then(|at| json.pointer(at));
        if let Some(object) = object.and_then(Value::as_object) {
            if self.nested {
                for (chip, inner) in object {
                    if let Some(inner) = inner.as_object() {
                        self.take(inner, Some(chip), json, &mut found);
                    }
                }
            } else {
                self.take(object, None, json, &mut found);
            }
        }
        let readings = found
            .readings
            .into_iter()
            .map(|(sensor, (value, unit))| Reading {
                sensor: Cow::Owned(sensor),
                value,
                unit: unit.map(Cow::Owned),
                quality: Quality::Good,
            });
        readings.collect()
    }

    /// Every reading in an object. Of two chips with the same one, the second's is
    /// named after the chip.
    fn take(
        &self,
        object: &Map<String, Value>,
        chip: Option<&str>,
        json: &Value,
        found: &mut Found,
    ) {
        for (name, member) in object {
            let name = name.to_lowercase();
            let sensor = self.rename.get(&name).cloned().unwrap_or(name);
            // Also one whose chip could not be read this time has its name.
            let is_first = found.named.insert(sensor.clone());
            let Some(value) = value(member) else { continue };
            let unit = self.units.get(&sensor).and_then(|unit| {
                if !unit.starts_with('/') {
                    return Some(unit.clone());
                }
                json.pointer(unit)?.as_str().map(str::to_owned)
            });
            let sensor = match chip {
                Some(chip) if !is_first => {
                    format!("{}-{sensor}", chip.to_lowercase())
                }
                _ => sensor,
            };
            // What a reading of its own says comes first.
            found.readings.entry(sensor).or_insert((value, unit));
        }
    }
}

/// A number; of what can be on or off, 1 or 0.
fn value(json: &Value) -> Option<f64> {
    match json {
        Value::Number(number) => number.as_f64(),
        Value::Bool(on) => Some(f64::from(u8::from(*on))),
        Value::String(text) if text.eq_ignore_ascii_case("on") => Some(1.0),
        Value::String(text) if text.eq_ignore_ascii_case("off") => Some(0.0),
        _ => None,
    }
}

fn kind(json: &Value) -> JsonKind {
    match json {
        Value::Null => JsonKind::Null,
        Value::Bool(_) => JsonKind::Boolean,
        Value::Number(_) => JsonKind::Number,
        Value::String(_) => JsonKind::Text,
        Value::Array(_) => JsonKind::Array,
        Value::Object(_) => JsonKind::Object,
    }
}

/// Milliseconds since the epoch.
fn millis(json: &Value) -> Option<i64> {
    match json {
        Value::String(text) => {
            let time: jiff::Timestamp = text.parse().ok()?;
            Some(time.as_millisecond())
        }
        Value::Number(number) => {
            let number = number.as_f64()?;
            let millis = if number < SECONDS_BELOW {
                number * 1e3
            } else {
                number
            };
            Some(millis.round() as i64)
        }
        _ => None,
    }
}

/// N of `mqtt:N`, from 1.
pub(crate) fn level(device: &str) -> Option<usize> {
    let number: usize = device.strip_prefix("mqtt:")?.parse().ok()?;
    (number > 0).then_some(number)
}

/// Whether it is a topic filter of MQTT (5.0, 4.7.1), or empty.
pub(crate) fn is_filter(filter: &str) -> bool {
    let last = filter.split('/').count() - 1;
    let mut levels = filter.split('/').enumerate();
    !filter.contains('\0')
        && levels.all(|(at, level)| match level {
            "+" => true,
            "#" => at == last,
            _ => !level.contains(['+', '#']),
        })
}

/// Whether an MQTT topic matches a filter (MQTT 5.0, 4.7).
fn matches(filter: &str, topic: &str) -> bool {
    // A leading $ is matched by no wildcard (4.7.2).
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}
