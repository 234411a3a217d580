//! Messages in other people's formats: settings say where in their JSON the device,
//! the time and the readings are.

mod ready;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use iot_core::message::{
    DeviceMessage, JsonKind, MAX_REFUSED, NOT_FINITE, ParseError, Quality, Reading, RefusedReading,
    mark_not_finite, quoted, short_name,
};
use iot_fold::Catalogue;
use serde_json::{Map, Value};

use crate::config::mappings::ReadingConfig;
use crate::config::{MappingConfig, MappingsConfig};
use crate::transform::find;

/// Larger numbers are milliseconds, others seconds: those of 2001 and of 5138.
const SECONDS_BELOW: f64 = 1e11;

/// Unit of switches.
const STATE: &str = "state";

/// What a record says besides its payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around<'r> {
    /// Kafka topic.
    pub(crate) topic: &'r str,
    /// MQTT topic it was published to, if it came through the bridge.
    pub(crate) mqtt: Option<&'r str>,
    /// Whether it is a retained message that the broker sent on subscription (MQTT 5.0, 3.3.1.3).
    pub(crate) is_retained: bool,
    /// Kafka's time of it, milliseconds since the epoch.
    pub(crate) recorded: Option<i64>,
}

/// What a message says beside its readings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside {
    /// Whether a mapping has read it that can name sensors after a chip.
    pub(crate) has_chips: bool,
    /// Whether it was retained and has no time: its age is unknown.
    pub(crate) is_undated: bool,
    /// Sensors whose value is a word that stands for no number, or null.
    pub(crate) unmatched: Vec<String>,
}

/// Value and unit by name, or why there is none.
type Found = BTreeMap<String, Result<(f64, Option<String>), ParseError>>;

/// All mappings of the settings, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct Mappings(Vec<MappingConfig>);

impl Mappings {
    /// A reading without a unit gets that of the catalogue.
    pub(crate) fn new(config: &MappingsConfig, catalogue: &Catalogue) -> Self {
        let ready = config.ready.iter().map(|ready| ready::mapping(*ready));
        let mut all: Vec<_> = config.own.iter().cloned().chain(ready).collect();
        for mapping in &mut all {
            let has_chips = mapping.nested;
            for reading in &mut mapping.readings {
                let known = find(catalogue, &reading.sensor, has_chips);
                let unit = || known.map(|known| known.unit.to_string());
                reading.unit = reading.unit.take().or_else(unit);
            }
        }
        Self(all)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
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

    /// The message in a payload. Readings whose value is not a number are left out, and listed in
    /// `refused` if there is such a list. `beside`, which must be empty, gets the rest.
    ///
    /// # Errors
    /// It is not JSON, or the device, a time or readings are not there.
    pub(crate) fn message(
        &self,
        payload: &[u8],
        around: &Around<'_>,
        mut refused: Option<&mut Vec<RefusedReading>>,
        beside: &mut Beside,
    ) -> Result<DeviceMessage<'static>, ParseError> {
        beside.has_chips = self.nested;
        let parsed = serde_json::from_slice(payload).map_err(|error| ParseError::NotJson {
            detail: error.to_string(),
        });
        let (json, not_json) = match parsed {
            Ok(json) => (json, None),
            Err(error) if refused.is_none() => return Err(error),
            Err(error) => match with_not_finite(payload) {
                Some((json, count)) => (json, Some((error, count))),
                None => return Err(error),
            },
        };
        let (readings, others) = self.readings(&json, &mut beside.unmatched);
        if let Some((error, count)) = not_json {
            let of_readings = others.iter().filter(|r| r.defect == ParseError::NotFinite);
            let has_nothing = readings.is_empty() && beside.unmatched.is_empty();
            if has_nothing || of_readings.count() != count {
                return Err(error);
            }
        }
        let has_nothing = readings.is_empty() && beside.unmatched.is_empty();
        if has_nothing || others.len() > MAX_REFUSED {
            return Err(ParseError::NoReadings);
        }
        if let Some(refused) = &mut refused {
            **refused = others;
        }
        let time = json.pointer(&self.time);
        let time = time.filter(|time| !self.time.is_empty() && !time.is_null());
        beside.is_undated = around.is_retained && time.is_none();
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

    /// The good readings and the others, by name. `unmatched` gets the sensors whose value is a
    /// word that stands for no number.
    fn readings(
        &self,
        json: &Value,
        unmatched: &mut Vec<String>,
    ) -> (Vec<Reading<'static>>, Vec<RefusedReading>) {
        let mut found = Found::default();
        for reading in &self.readings {
            let Some(there) = json.pointer(&reading.value) else {
                continue;
            };
            let sensor = reading.sensor.clone();
            match value(there) {
                Some(value) => {
                    let good = Ok((value, reading.unit.clone()));
                    found.insert(sensor, good);
                }
                None if reading.is_state() && is_unmatched(there) => unmatched.push(sensor),
                None => {
                    let defect = Err(not_a_number(there));
                    found.entry(sensor).or_insert(defect);
                }
            }
        }
        if let Some(at) = &self.fields
            && let Some(object) = json.pointer(at).and_then(Value::as_object)
        {
            let mut take = |at: &str, chip, object| {
                let fields = self.fields_of(at, chip, object);
                self.take(fields, json, &mut found, unmatched);
            };
            if self.nested {
                for (chip, inner) in object {
                    if let Some(inner) = inner.as_object() {
                        take(&format!("{at}/{}", escaped(chip)), Some(&**chip), inner);
                    }
                }
            } else {
                take(at, None, object);
            }
        }
        // A number for the same sensor wins.
        unmatched.retain(|sensor| !found.get(sensor).is_some_and(Result::is_ok));
        let (mut good, mut refused) = (Vec::new(), Vec::new());
        for (index, (sensor, reading)) in found.into_iter().enumerate() {
            match reading {
                Ok((value, unit)) => good.push(Reading {
                    sensor: Cow::Owned(sensor),
                    value,
                    unit: unit.map(Cow::Owned),
                    quality: Quality::Good,
                }),
                Err(defect) => refused.push(RefusedReading {
                    index,
                    sensor: Some(short_name(&sensor)),
                    defect,
                }),
            }
        }
        (good, refused)
    }

    /// The members of an object, which is at the pointer `at`, that may be readings, with the names
    /// of their sensors without and with the chip. A name does not depend on which other chips
    /// the message has: one that is missing once would give its name to another.
    fn fields_of<'j>(
        &self,
        at: &str,
        chip: Option<&str>,
        object: &'j Map<String, Value>,
    ) -> Vec<Field<'j>> {
        let chip = chip.filter(|chip| !chip.eq_ignore_ascii_case(&self.bare));
        let chip = chip.map(str::to_lowercase);
        let renamed = |name: &str| self.rename.get(name).cloned();
        let rename = |name: String| renamed(&name).unwrap_or(name);
        let fields = object.iter().filter_map(|(key, value)| {
            let field = key.to_lowercase();
            if self.ignore.contains(&field) || self.is_metadata(at, key) {
                return None;
            }
            let plain = rename(field.clone());
            let sensor = match &chip {
                // The name of one chip's reading comes before that of all.
                Some(chip) => renamed(&format!("{chip}-{field}"))
                    .unwrap_or_else(|| rename(format!("{chip}-{plain}"))),
                None => plain.clone(),
            };
            Some(Field {
                plain,
                sensor,
                value,
            })
        });
        fields.collect()
    }

    /// Whether a member of the object at the pointer `at` is the time or the device.
    fn is_metadata(&self, at: &str, key: &str) -> bool {
        [&self.time, &self.device].into_iter().any(|pointer| {
            let parts = pointer.rsplit_once('/');
            parts.is_some_and(|(parent, last)| parent == at && last == escaped(key))
        })
    }

    /// Takes every reading of an object.
    fn take(
        &self,
        fields: Vec<Field<'_>>,
        json: &Value,
        found: &mut Found,
        unmatched: &mut Vec<String>,
    ) {
        for Field {
            plain,
            sensor,
            value: member,
        } in fields
        {
            let value = match value(member) {
                Some(value) => Ok(value),
                None if is_not_finite(member) => Err(ParseError::NotFinite),
                None if is_unmatched(member) => {
                    unmatched.push(sensor);
                    continue;
                }
                // Other fields than readings.
                None => continue,
            };
            let unit = self.units.get(&sensor).or_else(|| self.units.get(&plain));
            let unit = unit.and_then(|unit| {
                if !unit.starts_with('/') {
                    return Some(unit.clone());
                }
                json.pointer(unit)?.as_str().map(str::to_owned)
            });
            let reading = value.map(|value| (value, unit));
            // What a reading of its own says comes first, unless it says nothing.
            match found.entry(sensor) {
                Entry::Occupied(mut known) if known.get().is_err() && reading.is_ok() => {
                    *known.get_mut() = reading;
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(free) => {
                    free.insert(reading);
                }
            }
        }
    }
}

/// A member of an object that may be a reading.
struct Field<'j> {
    /// Name of the sensor without the chip.
    plain: String,
    sensor: String,
    value: &'j Value,
}

impl ReadingConfig {
    /// Whether its values are states, which are words in many formats.
    fn is_state(&self) -> bool {
        self.unit.as_deref() == Some(STATE)
    }
}

/// A key as a part of a pointer (RFC 6901, 3).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A payload that is JSON except for numbers that are not finite, and how many it has.
fn with_not_finite(payload: &[u8]) -> Option<(Value, usize)> {
    let (json, count) = mark_not_finite(std::str::from_utf8(payload).ok()?)?;
    Some((serde_json::from_str(&json).ok()?, count))
}

fn is_not_finite(json: &Value) -> bool {
    json.as_str()
        .is_some_and(|text| text.starts_with(NOT_FINITE))
}

/// Whether it is what a state can be that stands for no number: a word, or null.
fn is_unmatched(json: &Value) -> bool {
    (json.is_string() && !is_not_finite(json)) || json.is_null()
}

fn not_a_number(found: &Value) -> ParseError {
    if is_not_finite(found) {
        return ParseError::NotFinite;
    }
    ParseError::NotANumber {
        field: "value",
        found: kind(found),
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
