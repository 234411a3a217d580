//! The complete parser of both JSON formats, for messages that
//! [`quick`](super::quick) does not accept.
//!
//! One pass collects the fields of both formats, whatever their type. Only then
//! does [`RawMessage::check`] decide which format it is and what is wrong with
//! it. So the order of fields does not matter, nothing is parsed twice, and an
//! error names the field and its type instead of a position in the text.

/// Stores the next value in its slot and records a duplicate field.
macro_rules! fill {
    ($map:ident, $target:expr, $duplicate:expr, $name:literal) => {
        if $target.replace($map.next_value()?).is_some() {
            $duplicate = Some($name);
        }
    };
}

mod readings;
mod shape;

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess};

use self::readings::{Readings, checked_readings, legacy_readings};
use self::shape::{Lenient, Scalar, Shape};
use super::partial::{NOT_FINITE, RefusedReading};
use super::{DeviceMessage, JsonKind, Location, ParseError, Quality, quoted};

/// 2^53: a float represents every whole number below it exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Parses a message in the current or the older format from any JSON. `refused` gets the readings
/// that are left out.
pub(super) fn lenient<'a>(
    text: &'a str,
    refused: &mut Vec<RefusedReading>,
) -> Result<DeviceMessage<'a>, ParseError> {
    serde_json::from_str::<Lenient<RawMessage<'_>>>(text)
        .map_err(json_error)?
        .0
        .map_err(|found| ParseError::WrongType {
            field: "the message",
            expected: "an object",
            found,
        })?
        .check(refused)
}

fn json_error(error: serde_json::Error) -> ParseError {
    let detail = error.to_string();
    // serde_json exposes the kind of a syntax error only in its text.
    if detail.starts_with("number out of range") {
        ParseError::NumberOutOfRange { detail }
    } else {
        ParseError::NotJson { detail }
    }
}

/// A scalar field; `None` means absent.
type Slot<'a> = Option<Lenient<Scalar<'a>>>;

#[derive(Deserialize)]
#[serde(field_identifier)]
enum MessageKey {
    #[serde(rename = "device_id")]
    DeviceId,
    #[serde(rename = "deviceId")]
    LegacyDeviceId,
    #[serde(rename = "tenant")]
    Tenant,
    #[serde(rename = "project")]
    Project,
    #[serde(rename = "seq")]
    Seq,
    #[serde(rename = "timestamp")]
    Timestamp,
    #[serde(rename = "location")]
    Location,
    #[serde(rename = "readings")]
    Readings,
    #[serde(rename = "temperature")]
    Temperature,
    #[serde(rename = "humidity")]
    Humidity,
    #[serde(other)]
    Unknown,
}

/// The fields of both formats before any check.
#[derive(Default)]
struct RawMessage<'a> {
    device_id: Slot<'a>,
    legacy_device_id: Slot<'a>,
    tenant: Slot<'a>,
    project: Slot<'a>,
    seq: Slot<'a>,
    timestamp: Slot<'a>,
    location: Option<Lenient<RawLocation<'a>>>,
    readings: Option<Lenient<Readings<'a>>>,
    temperature: Slot<'a>,
    humidity: Slot<'a>,
    duplicate: Option<&'static str>,
}

impl<'de> Shape<'de> for RawMessage<'de> {
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Lenient<Self>, A::Error> {
        let mut raw = Self::default();
        while let Some(key) = map.next_key()? {
            match key {
                MessageKey::DeviceId => fill!(map, raw.device_id, raw.duplicate, "device_id"),
                MessageKey::LegacyDeviceId => {
                    fill!(map, raw.legacy_device_id, raw.duplicate, "deviceId");
                }
                MessageKey::Tenant => fill!(map, raw.tenant, raw.duplicate, "tenant"),
                MessageKey::Project => fill!(map, raw.project, raw.duplicate, "project"),
                MessageKey::Seq => fill!(map, raw.seq, raw.duplicate, "seq"),
                MessageKey::Timestamp => fill!(map, raw.timestamp, raw.duplicate, "timestamp"),
                MessageKey::Location => fill!(map, raw.location, raw.duplicate, "location"),
                MessageKey::Readings => fill!(map, raw.readings, raw.duplicate, "readings"),
                MessageKey::Temperature => {
                    fill!(map, raw.temperature, raw.duplicate, "temperature");
                }
                MessageKey::Humidity => fill!(map, raw.humidity, raw.duplicate, "humidity"),
                MessageKey::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Lenient(Ok(raw)))
    }
}

impl<'a> RawMessage<'a> {
    fn check(self, refused: &mut Vec<RefusedReading>) -> Result<DeviceMessage<'a>, ParseError> {
        if let Some(field) = self.duplicate {
            return Err(ParseError::DuplicateField { field });
        }
        let legacy = self.is_legacy()?;
        let device_id = if legacy {
            required_text(self.legacy_device_id, "device_id")?
        } else {
            required_text(self.device_id, "device_id")?
        };
        let timestamp = if legacy {
            seconds(self.timestamp)?
        } else {
            milliseconds(self.timestamp)?
        };
        Ok(DeviceMessage {
            device_id,
            tenant: text(self.tenant, "tenant")?,
            project: text(self.project, "project")?,
            seq: whole_number(self.seq, "seq")?,
            timestamp,
            location: location(self.location)?,
            // Last: a defect of the message refuses its readings too.
            readings: if legacy {
                legacy_readings(self.temperature, self.humidity, refused)?
            } else {
                checked_readings(self.readings, refused)?
            },
        })
    }

    /// `deviceId` marks the older format. Together with fields of the current one,
    /// it is unclear whether the time is in seconds or milliseconds.
    fn is_legacy(&self) -> Result<bool, ParseError> {
        if self.legacy_device_id.is_none() {
            return Ok(false);
        }
        if self.device_id.is_some() {
            return Err(ParseError::MixedFormats { field: "device_id" });
        }
        if self.readings.is_some() {
            return Err(ParseError::MixedFormats { field: "readings" });
        }
        Ok(true)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum LocationKey {
    Building,
    Floor,
    Room,
    #[serde(other)]
    Unknown,
}

#[derive(Default)]
struct RawLocation<'a> {
    building: Slot<'a>,
    floor: Slot<'a>,
    room: Slot<'a>,
    duplicate: Option<&'static str>,
}

impl<'de> Shape<'de> for RawLocation<'de> {
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Lenient<Self>, A::Error> {
        let mut raw = Self::default();
        while let Some(key) = map.next_key()? {
            match key {
                LocationKey::Building => {
                    fill!(map, raw.building, raw.duplicate, "location.building");
                }
                LocationKey::Floor => fill!(map, raw.floor, raw.duplicate, "location.floor"),
                LocationKey::Room => fill!(map, raw.room, raw.duplicate, "location.room"),
                LocationKey::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Lenient(Ok(raw)))
    }
}

fn location(slot: Option<Lenient<RawLocation<'_>>>) -> Result<Option<Location<'_>>, ParseError> {
    let raw = match slot {
        None | Some(Lenient(Err(JsonKind::Null))) => return Ok(None),
        Some(Lenient(Err(found))) => {
            return Err(ParseError::WrongType {
                field: "location",
                expected: "an object",
                found,
            });
        }
        Some(Lenient(Ok(raw))) => raw,
    };
    if let Some(field) = raw.duplicate {
        return Err(ParseError::DuplicateField { field });
    }
    Ok(Some(Location {
        building: text(raw.building, "location.building")?.unwrap_or_default(),
        floor: text(raw.floor, "location.floor")?.unwrap_or_default(),
        room: text(raw.room, "location.room")?.unwrap_or_default(),
    }))
}

/// The scalar of a slot; `None` if it is absent or null.
fn present<'a>(
    slot: Slot<'a>,
    field: &'static str,
    expected: &'static str,
) -> Result<Option<Scalar<'a>>, ParseError> {
    match slot {
        None | Some(Lenient(Ok(Scalar::Null))) => Ok(None),
        Some(Lenient(Ok(scalar))) => Ok(Some(scalar)),
        Some(Lenient(Err(found))) => Err(ParseError::WrongType {
            field,
            expected,
            found,
        }),
    }
}

fn text<'a>(slot: Slot<'a>, field: &'static str) -> Result<Option<Cow<'a, str>>, ParseError> {
    const EXPECTED: &str = "text";
    match present(slot, field, EXPECTED)? {
        None => Ok(None),
        Some(Scalar::Text(text)) => Ok(Some(text)),
        Some(other) => Err(ParseError::WrongType {
            field,
            expected: EXPECTED,
            found: other.kind(),
        }),
    }
}

fn required_text<'a>(slot: Slot<'a>, field: &'static str) -> Result<Cow<'a, str>, ParseError> {
    let text = text(slot, field)?.ok_or(ParseError::MissingField { field })?;
    if text.is_empty() {
        return Err(ParseError::EmptyField { field });
    }
    Ok(text)
}

fn whole_number(slot: Slot<'_>, field: &'static str) -> Result<Option<u64>, ParseError> {
    const EXPECTED: &str = "a whole number from 0 to 2^64-1";
    match present(slot, field, EXPECTED)? {
        None => Ok(None),
        Some(Scalar::Unsigned(number)) => Ok(Some(number)),
        Some(other) => Err(ParseError::WrongType {
            field,
            expected: EXPECTED,
            found: other.kind(),
        }),
    }
}

/// The value of a reading; `None` if the field is absent.
fn value(slot: Slot<'_>, field: &'static str) -> Result<Option<f64>, ParseError> {
    match slot {
        None => Ok(None),
        Some(Lenient(Ok(Scalar::Float(value)))) if value.is_finite() => Ok(Some(value)),
        Some(Lenient(Ok(Scalar::Unsigned(value)))) => Ok(Some(value as f64)),
        Some(Lenient(Ok(Scalar::Negative(value)))) => Ok(Some(value as f64)),
        Some(Lenient(Ok(Scalar::Text(text)))) if text.starts_with(NOT_FINITE) => {
            Err(ParseError::NotFinite)
        }
        Some(Lenient(Ok(other))) => Err(ParseError::NotANumber {
            field,
            found: other.kind(),
        }),
        Some(Lenient(Err(found))) => Err(ParseError::NotANumber { field, found }),
    }
}

fn quality(slot: Slot<'_>) -> Result<Quality, ParseError> {
    match text(slot, "quality")? {
        None => Ok(Quality::Good),
        Some(name) => Quality::from_name(&name).ok_or_else(|| ParseError::UnknownQuality {
            found: quoted(&name),
        }),
    }
}

/// A time before its unit is known.
enum Time {
    Whole(i64),
    Fractional(f64),
}

fn time(slot: Slot<'_>) -> Result<Time, ParseError> {
    const FIELD: &str = "timestamp";
    const EXPECTED: &str = "a number";
    match present(slot, FIELD, EXPECTED)? {
        None => Err(ParseError::MissingField { field: FIELD }),
        Some(Scalar::Unsigned(time)) => i64::try_from(time)
            .map(Time::Whole)
            .map_err(|_| ParseError::TimestampOutOfRange),
        Some(Scalar::Negative(time)) => Ok(Time::Whole(time)),
        Some(Scalar::Float(time)) => Ok(Time::Fractional(time)),
        Some(other) => Err(ParseError::WrongType {
            field: FIELD,
            expected: EXPECTED,
            found: other.kind(),
        }),
    }
}

fn milliseconds(slot: Slot<'_>) -> Result<i64, ParseError> {
    match time(slot)? {
        Time::Whole(ms) => Ok(ms),
        Time::Fractional(ms) => rounded(ms),
    }
}

/// The older format has seconds, with or without a fraction.
fn seconds(slot: Slot<'_>) -> Result<i64, ParseError> {
    match time(slot)? {
        Time::Whole(s) => s.checked_mul(1000).ok_or(ParseError::TimestampOutOfRange),
        Time::Fractional(s) => rounded(s * 1000.0),
    }
}

fn rounded(ms: f64) -> Result<i64, ParseError> {
    let rounded = ms.round();
    if rounded.abs() < EXACT {
        Ok(rounded as i64)
    } else {
        Err(ParseError::TimestampOutOfRange)
    }
}
