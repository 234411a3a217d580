//! The message a device sends: readings of one moment.
//!
//! On the wire it is JSON:
//!
//! ```json
//! {"device_id": "b1-f2-r3-0004", "tenant": "acme", "project": "plant", "seq": 7,
//!  "timestamp": 1767225600000,
//!  "location": {"building": "b1", "floor": "f2", "room": "r3"},
//!  "readings": [{"sensor": "temperature", "value": 21.5, "unit": "celsius", "quality": "good"}]}
//! ```
//!
//! `tenant`, `project`, `seq`, `location`, `unit` and `quality` may be absent or
//! null; unknown fields are ignored. [`parse`] also reads the older flat format
//! `{"deviceId": "d1", "timestamp": 1767225600.5, "temperature": 21.5, "humidity": 60}`
//! with its time in seconds. [`parse_protobuf`] reads the same as Protobuf.

mod error;
mod parse;
mod protobuf;
mod quick;
mod template;

use std::borrow::Cow;

use serde::Serialize;

pub use error::{JsonKind, ParseError};
pub use protobuf::parse_protobuf;
pub use template::{ReadingTemplate, Template};

/// Reads a device message in the newer or the older format.
///
/// Text without escapes is borrowed from `payload`. Numbers of up to 15
/// significant digits are read exactly; longer ones may differ in the last bit.
///
/// # Errors
/// What is wrong, and where; see [`ParseError::reason`] for the short form.
pub fn parse(payload: &[u8]) -> Result<DeviceMessage<'_>, ParseError> {
    if payload.iter().all(u8::is_ascii_whitespace) {
        return Err(ParseError::Empty);
    }
    let text = std::str::from_utf8(payload).map_err(|error| ParseError::NotUtf8 {
        at: error.valid_up_to(),
    })?;
    if let Some(message) = quick::read(text) {
        return Ok(message);
    }
    parse::careful(text)
}

/// Readings of one device at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceMessage<'a> {
    /// Identity of the device inside its tenant and project; never empty when parsed.
    pub device_id: Cow<'a, str>,
    /// Tenant the device says it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Cow<'a, str>>,
    /// Project the device says it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<Cow<'a, str>>,
    /// Number of the message, per device, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// When the readings were taken, milliseconds since the epoch.
    pub timestamp: i64,
    /// Where the device is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location<'a>>,
    /// What was measured; never empty when parsed.
    pub readings: Vec<Reading<'a>>,
}

/// Place of a device. A part that isn't known is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Location<'a> {
    /// Building.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub building: Cow<'a, str>,
    /// Floor of the building.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub floor: Cow<'a, str>,
    /// Room on the floor.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub room: Cow<'a, str>,
}

/// One value of one sensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reading<'a> {
    /// Name of the sensor; never empty when parsed.
    pub sensor: Cow<'a, str>,
    /// Measured value in [`unit`](Self::unit); finite when parsed.
    pub value: f64,
    /// Unit of the value; without one, the unit of the standard sensor is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Cow<'a, str>>,
    /// How far the device itself trusts the value.
    pub quality: Quality,
}

/// How far a device trusts a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// Trusted.
    #[default]
    Good,
    /// Out of calibration, interpolated, or otherwise in doubt.
    Uncertain,
    /// Not to be used.
    Bad,
}

impl Quality {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain => "uncertain",
            Self::Bad => "bad",
        }
    }

    /// The quality of that name on the wire.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "good" => Some(Self::Good),
            "uncertain" => Some(Self::Uncertain),
            "bad" => Some(Self::Bad),
            _ => None,
        }
    }
}

impl DeviceMessage<'_> {
    /// Appends the message as one line of JSON, without a line end.
    ///
    /// A value that is not finite has no JSON form: it is written as `null`,
    /// which [`parse`] refuses.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(out, self)
            .expect("a Vec takes every byte, and the model has only string keys");
    }

    /// The same message without borrows.
    #[must_use]
    pub fn into_owned(self) -> DeviceMessage<'static> {
        DeviceMessage {
            device_id: owned(self.device_id),
            tenant: self.tenant.map(owned),
            project: self.project.map(owned),
            seq: self.seq,
            timestamp: self.timestamp,
            location: self.location.map(Location::into_owned),
            readings: self.readings.into_iter().map(Reading::into_owned).collect(),
        }
    }
}

impl Location<'_> {
    /// The same place without borrows.
    #[must_use]
    pub fn into_owned(self) -> Location<'static> {
        Location {
            building: owned(self.building),
            floor: owned(self.floor),
            room: owned(self.room),
        }
    }
}

impl Reading<'_> {
    /// The same reading without borrows.
    #[must_use]
    pub fn into_owned(self) -> Reading<'static> {
        Reading {
            sensor: owned(self.sensor),
            value: self.value,
            unit: self.unit.map(owned),
            quality: self.quality,
        }
    }
}

fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
    Cow::Owned(text.into_owned())
}

#[cfg(test)]
mod tests;
