//! The device message: the readings of one device at one time.
//!
//! The JSON format:
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
//! `{"deviceId": "d1", "timestamp": 1767225600.5, "temperature": 21.5, "humidity": 60}`,
//! whose time is in seconds. [`parse_protobuf`] reads the Protobuf format.

mod error;
mod parse;
mod partial;
mod protobuf;
mod quick;
mod template;

use std::borrow::Cow;

use serde::Serialize;

pub use error::{JsonKind, ParseError, quoted};
pub use partial::{
    MAX_REFUSED, NOT_FINITE, RefusedReading, mark_not_finite, remaining, short_name,
};
pub use protobuf::{parse_protobuf, parse_protobuf_partial};
pub use template::{ReadingTemplate, Template};

/// Parses a device message from JSON, in the current or the older format.
///
/// Text without escapes is borrowed from `payload`. Numbers of up to 15
/// significant digits are read exactly; longer ones may differ in the last bit.
///
/// # Errors
/// The first defect found; [`ParseError::reason`] gives its short form.
pub fn parse(payload: &[u8]) -> Result<DeviceMessage<'_>, ParseError> {
    let text = text(payload)?;
    if let Some(message) = quick::read(text) {
        return Ok(message);
    }
    let mut refused = Vec::new();
    let message = parse::lenient(text, &mut refused)?;
    whole(message, refused)
}

/// Parses a device message as [`parse`] does, but leaves out defective readings as long as one
/// good reading remains. `refused` is cleared first and then has the defective readings, by
/// position. Values may also be numbers that are not finite, which is not JSON: see
/// [`mark_not_finite`].
///
/// # Errors
/// A defect of the message, the first of its readings if none is good or more than
/// [`MAX_REFUSED`] are defective; `refused` is meaningless then.
pub fn parse_partial<'p>(
    payload: &'p [u8],
    refused: &mut Vec<RefusedReading>,
) -> Result<DeviceMessage<'p>, ParseError> {
    refused.clear();
    let text = text(payload)?;
    if let Some(message) = quick::read(text) {
        return Ok(message);
    }
    match parse::lenient(text, refused) {
        Err(error @ (ParseError::NotJson { .. } | ParseError::NumberOutOfRange { .. })) => {
            partial::with_not_finite(text, refused).ok_or(error)
        }
        parsed => parsed,
    }
}

fn text(payload: &[u8]) -> Result<&str, ParseError> {
    if payload.iter().all(u8::is_ascii_whitespace) {
        return Err(ParseError::Empty);
    }
    std::str::from_utf8(payload).map_err(|error| ParseError::NotUtf8 {
        at: error.valid_up_to(),
    })
}

/// The message if none of its readings is refused.
fn whole<'p>(
    message: DeviceMessage<'p>,
    refused: Vec<RefusedReading>,
) -> Result<DeviceMessage<'p>, ParseError> {
    match refused.into_iter().next() {
        Some(first) => Err(first.defect),
        None => Ok(message),
    }
}

/// Readings of one device at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceMessage<'a> {
    /// Id of the device, unique within its tenant and project; never empty when parsed.
    pub device_id: Cow<'a, str>,
    /// Tenant, as the device reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Cow<'a, str>>,
    /// Project, as the device reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<Cow<'a, str>>,
    /// Sequence number: the device's own count of its messages, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Event time: when the readings were taken, in milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Where the device is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location<'a>>,
    /// The readings; never empty when parsed.
    pub readings: Vec<Reading<'a>>,
}

/// Place of a device. Unknown parts are empty.
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
    /// Unit of the value; `None` means the unit of the [standard sensor](crate::sensor).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Cow<'a, str>>,
    /// Quality of the value, as the device reports it.
    pub quality: Quality,
}

/// Quality of a reading, as the device reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// Trusted.
    #[default]
    Good,
    /// Out of calibration, interpolated, or doubtful for another reason.
    Uncertain,
    /// Unusable.
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

    /// Parses the name on the wire; `None` if there is no such quality.
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
    /// Appends the message as one line of JSON, without a newline.
    ///
    /// JSON cannot express a value that is not finite: it is written as `null`,
    /// which [`parse`] refuses.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(out, self)
            .expect("writing to a Vec does not fail, and all keys are strings");
    }

    /// Copies borrowed text, so that the message no longer depends on the payload.
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
    /// Copies borrowed text.
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
    /// Copies borrowed text.
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
mod strategies;
#[cfg(test)]
mod tests;
