//! The readings of both formats: the good ones, and those that are refused alone.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess};

use super::shape::{Lenient, Shape, drain_seq};
use super::{Slot, quality, required_text, text, value};
use crate::message::partial::{MAX_REFUSED, RefusedReading, some_good};
use crate::message::{JsonKind, ParseError, Quality, Reading};
use crate::sensor;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum ReadingKey {
    Sensor,
    Value,
    Unit,
    Quality,
    #[serde(other)]
    Unknown,
}

#[derive(Default)]
struct RawReading<'a> {
    sensor: Slot<'a>,
    value: Slot<'a>,
    unit: Slot<'a>,
    quality: Slot<'a>,
    duplicate: Option<&'static str>,
}

impl<'de> Shape<'de> for RawReading<'de> {
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Lenient<Self>, A::Error> {
        let mut raw = Self::default();
        while let Some(key) = map.next_key()? {
            match key {
                ReadingKey::Sensor => fill!(map, raw.sensor, raw.duplicate, "sensor"),
                ReadingKey::Value => fill!(map, raw.value, raw.duplicate, "value"),
                ReadingKey::Unit => fill!(map, raw.unit, raw.duplicate, "unit"),
                ReadingKey::Quality => fill!(map, raw.quality, raw.duplicate, "quality"),
                ReadingKey::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Lenient(Ok(raw)))
    }
}

impl<'a> RawReading<'a> {
    /// The reading, or its defect and the name of its sensor.
    fn check(self) -> Result<Reading<'a>, (ParseError, Option<Cow<'a, str>>)> {
        let sensor = match required_text(self.sensor, "sensor") {
            Ok(sensor) => sensor,
            Err(defect) => return Err((defect, None)),
        };
        let checked = (|| {
            if let Some(field) = self.duplicate {
                return Err(ParseError::DuplicateField { field });
            }
            let missing = ParseError::MissingField { field: "value" };
            let value = value(self.value, "value")?.ok_or(missing)?;
            Ok((value, text(self.unit, "unit")?, quality(self.quality)?))
        })();
        match checked {
            Ok((value, unit, quality)) => Ok(Reading {
                sensor,
                value,
                unit,
                quality,
            }),
            Err(defect) => Err((defect, Some(sensor))),
        }
    }
}

/// The good readings, and the others.
#[derive(Default)]
pub(super) struct Readings<'a> {
    good: Vec<Reading<'a>>,
    refused: Vec<RefusedReading>,
}

impl<'de> Shape<'de> for Readings<'de> {
    fn from_seq<A: SeqAccess<'de>>(mut seq: A) -> Result<Lenient<Self>, A::Error> {
        let Self {
            mut good,
            mut refused,
        } = Self::default();
        while let Some(Lenient(element)) = seq.next_element::<Lenient<RawReading<'de>>>()? {
            let checked = element.map_err(|found| {
                let (field, expected) = ("the reading", "an object");
                let defect = ParseError::WrongType {
                    field,
                    expected,
                    found,
                };
                (defect, None)
            });
            match checked.and_then(RawReading::check) {
                Ok(reading) => good.push(reading),
                Err((defect, sensor)) => {
                    let index = good.len() + refused.len();
                    let sensor = sensor.as_deref();
                    refused.push(RefusedReading::in_list(index, sensor, defect));
                }
            }
            if refused.len() > MAX_REFUSED {
                // Malformed JSON behind them takes precedence over their defects.
                drain_seq(seq)?;
                break;
            }
        }
        Ok(Lenient(Ok(Self { good, refused })))
    }
}

pub(super) fn checked_readings<'a>(
    slot: Option<Lenient<Readings<'a>>>,
    refused: &mut Vec<RefusedReading>,
) -> Result<Vec<Reading<'a>>, ParseError> {
    let readings = match slot {
        None | Some(Lenient(Err(JsonKind::Null))) => return Err(ParseError::NoReadings),
        Some(Lenient(Err(found))) => {
            return Err(ParseError::WrongType {
                field: "readings",
                expected: "an array",
                found,
            });
        }
        Some(Lenient(Ok(readings))) => readings,
    };
    *refused = readings.refused;
    some_good(readings.good, refused)
}

/// Their positions count the fields that are there, temperature first.
pub(super) fn legacy_readings<'a>(
    temperature: Slot<'a>,
    humidity: Slot<'a>,
    refused: &mut Vec<RefusedReading>,
) -> Result<Vec<Reading<'a>>, ParseError> {
    let mut readings = Vec::with_capacity(2);
    for (name, slot) in [
        (sensor::TEMPERATURE, temperature),
        (sensor::HUMIDITY, humidity),
    ] {
        match value(slot, name) {
            Ok(None) => {}
            Ok(Some(value)) => readings.push(Reading {
                sensor: Cow::Borrowed(name),
                value,
                unit: sensor::lookup(name).map(|sensor| Cow::Borrowed(sensor.unit)),
                quality: Quality::Good,
            }),
            Err(defect) => refused.push(RefusedReading {
                index: readings.len() + refused.len(),
                sensor: Some(name.to_owned()),
                defect,
            }),
        }
    }
    some_good(readings, refused)
}
