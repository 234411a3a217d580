//! The Protobuf format of the device message, `proto/iot/v1/device_message.proto`;
//! a test compares this parser with the `.proto`. It reads field by field with
//! prost's functions, because messages that prost derives copy every string.

use std::borrow::Cow;

use prost::DecodeError;
use prost::encoding::{self, DecodeContext, WireType, decode_key, decode_varint};

use super::{DeviceMessage, Location, ParseError, Quality, Reading};

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
    let (mut timestamp, mut wrong) = (None, None);
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
                Err(error) => {
                    wrong.get_or_insert(error);
                }
            },
            _ => field.skip()?,
        }
        Ok(())
    })?;
    if message.readings.is_empty() && wrong.is_none() {
        return Err(ParseError::NoReadings);
    }
    not_empty(&message.device_id, "device_id")?;
    message.timestamp = timestamp.ok_or(ParseError::MissingField { field: "timestamp" })?;
    wrong.map_or(Ok(message), Err)
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

/// Parses a reading. The outer error is malformed Protobuf, the inner one an
/// invalid reading.
fn reading(bytes: &[u8]) -> Result<Result<Reading<'_>, ParseError>, ParseError> {
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
        let quality = Quality::from_number(quality).ok_or(ParseError::UnknownQuality)?;
        Ok((value, quality))
    };
    Ok(check().map(|(value, quality)| Reading {
        sensor,
        value,
        unit,
        quality,
    }))
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
        bytes.ok_or_else(|| malformed(format!("field {} ends too early", self.tag)))
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
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use prost_reflect::{DescriptorPool, DynamicMessage, Value};

    use super::super::template::tests::written;
    use super::super::tests::any_message;
    use super::*;

    /// `DeviceMessage` of the `.proto`, for prost's own parser.
    #[derive(Clone, PartialEq, Message)]
    struct WireMessage {
        #[prost(string, tag = "1")]
        device_id: String,
        #[prost(string, optional, tag = "2")]
        tenant: Option<String>,
        #[prost(string, optional, tag = "3")]
        project: Option<String>,
        #[prost(uint64, optional, tag = "4")]
        seq: Option<u64>,
        #[prost(int64, optional, tag = "5")]
        timestamp: Option<i64>,
        #[prost(message, optional, tag = "6")]
        location: Option<WireLocation>,
        #[prost(message, repeated, tag = "7")]
        readings: Vec<WireReading>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct WireLocation {
        #[prost(string, tag = "1")]
        building: String,
        #[prost(string, tag = "2")]
        floor: String,
        #[prost(string, tag = "3")]
        room: String,
    }

    #[derive(Clone, PartialEq, Message)]
    struct WireReading {
        #[prost(string, tag = "1")]
        sensor: String,
        #[prost(double, optional, tag = "2")]
        value: Option<f64>,
        #[prost(string, optional, tag = "3")]
        unit: Option<String>,
        #[prost(int32, tag = "4")]
        quality: i32,
    }

    impl WireMessage {
        /// The device message; `None` if a field is missing or invalid.
        fn message(self) -> Option<DeviceMessage<'static>> {
            let reading = |wire: WireReading| {
                Some(Reading {
                    sensor: Some(wire.sensor).filter(|name| !name.is_empty())?.into(),
                    value: wire.value.filter(|value| value.is_finite())?,
                    unit: wire.unit.map(Cow::Owned),
                    quality: Quality::from_number(wire.quality)?,
                })
            };
            let readings: Option<Vec<_>> = self.readings.into_iter().map(reading).collect();
            Some(DeviceMessage {
                device_id: Some(self.device_id).filter(|id| !id.is_empty())?.into(),
                tenant: self.tenant.map(Cow::Owned),
                project: self.project.map(Cow::Owned),
                seq: self.seq,
                timestamp: self.timestamp?,
                location: self.location.map(|place| Location {
                    building: place.building.into(),
                    floor: place.floor.into(),
                    room: place.room.into(),
                }),
                readings: readings.filter(|readings| !readings.is_empty())?,
            })
        }
    }

    /// Decodes a payload with the `.proto` alone, as third parties do, to JSON.
    fn decode_with_proto(payload: &[u8]) -> serde_json::Value {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
        let files = protox::compile(["iot/v1/device_message.proto"], [directory]).unwrap();
        let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
        let descriptor = pool.get_message_by_name("iot.v1.DeviceMessage").unwrap();
        let message = DynamicMessage::decode(descriptor, payload).unwrap();
        assert_eq!(message.unknown_fields().count(), 0);
        as_json(&Value::Message(message))
    }

    fn as_json(value: &Value) -> serde_json::Value {
        match value {
            Value::Message(message) => {
                let fields = message.fields();
                let fields = fields.map(|(field, value)| {
                    let value = match field.kind() {
                        prost_reflect::Kind::Enum(names) => {
                            let number = value.as_enum_number().unwrap();
                            let name = names.get_value(number).unwrap();
                            let name = name.name().strip_prefix("QUALITY_").unwrap();
                            name.to_lowercase().into()
                        }
                        _ => as_json(value),
                    };
                    (field.name().to_owned(), value)
                });
                fields.collect()
            }
            Value::List(values) => values.iter().map(as_json).collect(),
            Value::String(text) => text.as_str().into(),
            Value::U64(number) => (*number).into(),
            Value::I64(number) => (*number).into(),
            Value::F64(number) => (*number).into(),
            other => panic!("{other:?} is not in the .proto"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Our parser and the `.proto` agree with the JSON format.
        #[test]
        fn protobuf_and_json_agree(message in any_message()) {
            let (protobuf, mut json) = (written(&message), Vec::new());
            message.write_json(&mut json);
            prop_assert_eq!(&parse_protobuf(&protobuf).unwrap(), &message);
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(decode_with_proto(&protobuf), json);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Input: messages with fields that are repeated, truncated, unknown or of the
        /// wrong type, and arbitrary bytes.
        #[test]
        fn any_bytes_are_parsed_as_prost_does(
            messages in proptest::collection::vec(any_message(), 0..3),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in 0..40_usize,
            more in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes: Vec<u8> = messages.iter().flat_map(|message| written(message)).collect();
            if !bytes.is_empty() {
                changes.iter().for_each(|(at, byte)| *at.get_mut(&mut bytes) = *byte);
            }
            // Half of the messages stay complete.
            bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(20)));
            bytes.extend(&more);
            let expected = WireMessage::decode(&bytes[..]);
            let found = parse_protobuf(&bytes);
            let malformed = matches!(found, Err(ParseError::NotProtobuf { .. }));
            prop_assert_eq!(malformed, expected.is_err(), "{:?} {:?}", found, expected);
            prop_assert_eq!(found.ok(), expected.ok().and_then(WireMessage::message));
        }
    }

    fn parsed(change: impl FnOnce(&mut WireMessage)) -> Result<DeviceMessage<'static>, ParseError> {
        let mut wire = WireMessage {
            device_id: "d1".into(),
            timestamp: Some(1),
            readings: vec![WireReading {
                sensor: "temperature".into(),
                value: Some(0.0),
                ..WireReading::default()
            }],
            ..WireMessage::default()
        };
        change(&mut wire);
        parse_protobuf(&wire.encode_to_vec()).map(DeviceMessage::into_owned)
    }

    #[test]
    fn protobuf_has_the_required_fields_of_json() {
        assert_eq!(parsed(|_| {}).unwrap().readings[0].quality, Quality::Good);
        let error = |change: fn(&mut WireMessage)| parsed(change).unwrap_err().to_string();
        for (change, expected) in [
            (
                (|m| m.device_id.clear()) as fn(&mut WireMessage),
                "device_id is empty",
            ),
            (|m| m.timestamp = None, "timestamp is missing"),
            (|m| m.readings.clear(), "there are no readings"),
            (|m| m.readings[0].sensor.clear(), "sensor is empty"),
            (|m| m.readings[0].value = None, "value is missing"),
            (
                |m| m.readings[0].value = Some(f64::NAN),
                "the value of a reading is not finite",
            ),
            (
                |m| m.readings[0].quality = 9,
                "quality must be good, uncertain or bad",
            ),
        ] {
            assert_eq!(error(change), expected);
        }
        assert_eq!(parse_protobuf(b""), Err(ParseError::Empty));
        let error = parse_protobuf(b"{}").unwrap_err();
        assert!(matches!(error, ParseError::NotProtobuf { .. }), "{error}");
    }
}
