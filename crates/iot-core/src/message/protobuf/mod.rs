//! The Protobuf format of the device message, `proto/iot/v1/device_message.proto`;
//! a test compares this parser with the `.proto`. It reads field by field with
//! prost's functions, because messages that prost derives copy every string.

use std::borrow::Cow;

use prost::DecodeError;
use prost::encoding::{self, DecodeContext, WireType, decode_key, decode_varint};

use super::partial::{MAX_REFUSED, RefusedReading, some_good};
use super::{DeviceMessage, Location, ParseError, Quality, Reading, whole};

impl Quality {
    fn from_number(number: i32) -> Option<Self> {
        match number {
            0 | 1 => Some(Self::Good),
            2 => Some(Self::Uncertain),
            3 => Some(Self::Bad),
            _ => None,
        }
    }
}

/// Parses a device message from Protobuf; the same rules hold as for JSON. Text
/// is borrowed from `payload`.
///
/// # Errors
/// The first defect found; [`ParseError::reason`] gives its short form.
pub fn parse_protobuf(payload: &[u8]) -> Result<DeviceMessage<'_>, ParseError> {
    let mut refused = Vec::new();
    let message = parse_protobuf_partial(payload, &mut refused)?;
    whole(message, refused)
}

/// Parses a device message as [`parse_protobuf`] does, but leaves out defective readings as long
/// as one good reading remains. `refused` is cleared first and then has the defective readings,
/// by position.
///
/// # Errors
/// A defect of the message, the first of its readings if none is good or more than
/// [`MAX_REFUSED`] are defective; `refused` is meaningless then.
pub fn parse_protobuf_partial<'p>(
    payload: &'p [u8],
    refused: &mut Vec<RefusedReading>,
) -> Result<DeviceMessage<'p>, ParseError> {
    refused.clear();
    if payload.is_empty() {
        return Err(ParseError::Empty);
    }
    let mut message = DeviceMessage {
        device_id: Cow::Borrowed(""),
        tenant: None,
        project: None,
        seq: None,
        timestamp: 0,
        location: None,
        readings: Vec::new(),
    };
    let mut timestamp = None;
    fields(payload, |field| {
        match field.tag {
            1 => message.device_id = field.text()?,
            2 => message.tenant = Some(field.text()?),
            3 => message.project = Some(field.text()?),
            4 => message.seq = Some(field.number(encoding::uint64::merge)?),
            5 => timestamp = Some(field.number(encoding::int64::merge)?),
            6 => place(message.location.get_or_insert_default(), field.bytes()?)?,
            7 => match reading(field.bytes()?)? {
                Ok(reading) => message.readings.push(reading),
                // Malformed Protobuf may follow and takes precedence.
                Err((defect, sensor)) if refused.len() <= MAX_REFUSED => {
                    let index = message.readings.len() + refused.len();
                    let sensor = Some(&*sensor).filter(|name| !name.is_empty());
                    refused.push(RefusedReading::in_list(index, sensor, defect));
                }
                Err(_) => {}
            },
            _ => field.skip()?,
        }
        Ok(())
    })?;
    if message.readings.is_empty() && refused.is_empty() {
        return Err(ParseError::NoReadings);
    }
    not_empty(&message.device_id, "device_id")?;
    message.timestamp = timestamp.ok_or(ParseError::MissingField { field: "timestamp" })?;
    message.readings = some_good(message.readings, refused)?;
    Ok(message)
}

fn place<'b>(place: &mut Location<'b>, bytes: &'b [u8]) -> Result<(), ParseError> {
    fields(bytes, |field| {
        match field.tag {
            1 => place.building = field.text()?,
            2 => place.floor = field.text()?,
            3 => place.room = field.text()?,
            _ => field.skip()?,
        }
        Ok(())
    })
}

/// A reading, or its defect and the name of its sensor, which may be empty.
type Checked<'b> = Result<Reading<'b>, (ParseError, Cow<'b, str>)>;

/// Parses a reading. The outer error is malformed Protobuf.
fn reading(bytes: &[u8]) -> Result<Checked<'_>, ParseError> {
    let (mut sensor, mut value, mut unit, mut quality) = (Cow::Borrowed(""), None, None, 0);
    fields(bytes, |field| {
        match field.tag {
            1 => sensor = field.text()?,
            2 => value = Some(field.number(encoding::double::merge)?),
            3 => unit = Some(field.text()?),
            4 => quality = field.number(encoding::int32::merge)?,
            _ => field.skip()?,
        }
        Ok(())
    })?;
    let check = || {
        let value = value.ok_or(ParseError::MissingField { field: "value" })?;
        if !value.is_finite() {
            return Err(ParseError::NotFinite);
        }
        not_empty(&sensor, "sensor")?;
        let quality = Quality::from_number(quality).ok_or_else(|| ParseError::UnknownQuality {
            found: quality.to_string(),
        })?;
        Ok((value, quality))
    };
    Ok(match check() {
        Ok((value, quality)) => Ok(Reading {
            sensor,
            value,
            unit,
            quality,
        }),
        Err(defect) => Err((defect, sensor)),
    })
}

fn not_empty(text: &str, field: &'static str) -> Result<(), ParseError> {
    if text.is_empty() {
        return Err(ParseError::EmptyField { field });
    }
    Ok(())
}

/// A field whose key is read and whose value is not.
struct Field<'f, 'b> {
    tag: u32,
    kind: WireType,
    /// Starts with the value.
    rest: &'f mut &'b [u8],
}

/// Calls `take` for each field of a message; `take` must consume the value.
fn fields<'b>(
    mut rest: &'b [u8],
    mut take: impl FnMut(Field<'_, 'b>) -> Result<(), ParseError>,
) -> Result<(), ParseError> {
    while !rest.is_empty() {
        let (tag, kind) = decode_key(&mut rest).map_err(malformed)?;
        let rest = &mut rest;
        take(Field { tag, kind, rest })?;
    }
    Ok(())
}

impl<'b> Field<'_, 'b> {
    fn text(self) -> Result<Cow<'b, str>, ParseError> {
        let tag = self.tag;
        let text = std::str::from_utf8(self.bytes()?);
        let text = text.map_err(|error| malformed(format!("field {tag}: {error}")))?;
        Ok(Cow::Borrowed(text))
    }

    fn bytes(self) -> Result<&'b [u8], ParseError> {
        encoding::check_wire_type(WireType::LengthDelimited, self.kind).map_err(malformed)?;
        let length = decode_varint(self.rest).map_err(malformed)?;
        let bytes = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_off(..length));
        bytes.ok_or_else(|| malformed(format!("field {} is truncated", self.tag)))
    }

    /// Reads a number with one of prost's `merge` functions.
    fn number<T: Default>(
        self,
        read: impl FnOnce(WireType, &mut T, &mut &'b [u8], DecodeContext) -> Result<(), DecodeError>,
    ) -> Result<T, ParseError> {
        let mut value = T::default();
        read(self.kind, &mut value, self.rest, DecodeContext::default()).map_err(malformed)?;
        Ok(value)
    }

    fn skip(self) -> Result<(), ParseError> {
        let context = DecodeContext::default();
        encoding::skip_field(self.kind, self.tag, self.rest, context).map_err(malformed)
    }
}

fn malformed(error: impl ToString) -> ParseError {
    ParseError::NotProtobuf {
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
