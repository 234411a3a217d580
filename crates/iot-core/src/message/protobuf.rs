//! The same message as Protobuf: `proto/iot/v1/device_message.proto`, which a
//! test holds against this.

use std::borrow::Cow;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::{DeviceMessage, Location, ParseError, Quality, Reading};

/// `DeviceMessage` of the `.proto`, to be read.
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

impl Quality {
    fn number(self) -> u64 {
        match self {
            Self::Good => 1,
            Self::Uncertain => 2,
            Self::Bad => 3,
        }
    }

    fn from_number(number: i32) -> Option<Self> {
        match number {
            0 | 1 => Some(Self::Good),
            2 => Some(Self::Uncertain),
            3 => Some(Self::Bad),
            _ => None,
        }
    }
}

/// Reads a device message from Protobuf; the same must hold of it as of one in
/// JSON.
///
/// # Errors
/// What is wrong; see [`ParseError::reason`] for the short form.
pub fn parse_protobuf(payload: &[u8]) -> Result<DeviceMessage<'static>, ParseError> {
    if payload.is_empty() {
        return Err(ParseError::Empty);
    }
    let wire = WireMessage::decode(payload).map_err(|error| ParseError::NotProtobuf {
        detail: error.to_string(),
    })?;
    if wire.readings.is_empty() {
        return Err(ParseError::NoReadings);
    }
    let missing = |field| ParseError::MissingField { field };
    let readings = wire.readings.into_iter().map(reading);
    Ok(DeviceMessage {
        device_id: not_empty(wire.device_id, "device_id")?,
        tenant: wire.tenant.map(Cow::Owned),
        project: wire.project.map(Cow::Owned),
        seq: wire.seq,
        timestamp: wire.timestamp.ok_or_else(|| missing("timestamp"))?,
        location: wire.location.map(|place| Location {
            building: Cow::Owned(place.building),
            floor: Cow::Owned(place.floor),
            room: Cow::Owned(place.room),
        }),
        readings: readings.collect::<Result<_, _>>()?,
    })
}

fn reading(wire: WireReading) -> Result<Reading<'static>, ParseError> {
    let value = wire
        .value
        .ok_or(ParseError::MissingField { field: "value" })?;
    if !value.is_finite() {
        return Err(ParseError::NotFinite);
    }
    Ok(Reading {
        sensor: not_empty(wire.sensor, "sensor")?,
        value,
        unit: wire.unit.map(Cow::Owned),
        quality: Quality::from_number(wire.quality).ok_or(ParseError::UnknownQuality)?,
    })
}

fn not_empty(text: String, field: &'static str) -> Result<Cow<'static, str>, ParseError> {
    match text.is_empty() {
        true => Err(ParseError::EmptyField { field }),
        false => Ok(Cow::Owned(text)),
    }
}

/// Writes borrowed text as it is: prost's own types would copy all of it first.
impl DeviceMessage<'_> {
    /// Appends the message as Protobuf.
    pub fn write_protobuf(&self, out: &mut Vec<u8>) {
        text(1, &self.device_id, out);
        for (tag, part) in [(2, &self.tenant), (3, &self.project)] {
            if let Some(part) = part {
                text(tag, part, out);
            }
        }
        if let Some(seq) = self.seq {
            number(4, seq, out);
        }
        // Two's complement, as int64 is on the wire.
        number(5, self.timestamp as u64, out);
        if let Some(Location {
            building,
            floor,
            room,
        }) = &self.location
        {
            let parts = [(1, building), (2, floor), (3, room)];
            let parts = parts.into_iter().filter(|(_, part)| !part.is_empty());
            let length: usize = parts.clone().map(|(_, part)| text_length(part)).sum();
            prefix(6, length, out);
            parts.for_each(|(tag, part)| text(tag, part, out));
        }
        for reading in &self.readings {
            let unit = reading.unit.as_deref();
            // The value is a key and eight bytes, the quality a key and one.
            let length = text_length(&reading.sensor) + 9 + unit.map_or(0, text_length) + 2;
            prefix(7, length, out);
            text(1, &reading.sensor, out);
            encode_key(2, WireType::SixtyFourBit, out);
            out.extend_from_slice(&reading.value.to_le_bytes());
            if let Some(unit) = unit {
                text(3, unit, out);
            }
            number(4, reading.quality.number(), out);
        }
    }
}

/// The key of a field with a length, and that.
fn prefix(tag: u32, length: usize, out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn text(tag: u32, text: &str, out: &mut Vec<u8>) {
    prefix(tag, text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// Of a text with its key, which is one byte up to tag 15, and its length.
fn text_length(text: &str) -> usize {
    1 + encoded_len_varint(text.len() as u64) + text.len()
}

fn number(tag: u32, number: u64, out: &mut Vec<u8>) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(number, out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_reflect::{DescriptorPool, DynamicMessage, Value};

    use super::*;

    fn any_text() -> impl Strategy<Value = String> {
        // Longer than 127 bytes now and then: the length takes a byte more.
        prop_oneof![9 => "[a-zäß0-9_-]{1,20}", 1 => "[a-z]{120,300}"]
    }

    fn any_message() -> impl Strategy<Value = DeviceMessage<'static>> {
        let quality = prop_oneof![
            Just(Quality::Good),
            Just(Quality::Uncertain),
            Just(Quality::Bad)
        ];
        // No more digits than a reader of JSON keeps.
        let value = (-100_000_000_000_i64..100_000_000_000).prop_map(|n| n as f64 / 100.0);
        let reading = (any_text(), value, proptest::option::of(any_text()), quality);
        let reading = reading.prop_map(|(sensor, value, unit, quality)| Reading {
            sensor: sensor.into(),
            value,
            unit: unit.map(Cow::Owned),
            quality,
        });
        let part = prop_oneof![Just(String::new()), any_text()];
        let location = (part.clone(), part.clone(), part);
        let location = location.prop_map(|(building, floor, room)| Location {
            building: building.into(),
            floor: floor.into(),
            room: room.into(),
        });
        let head = (
            any_text(),
            proptest::option::of(any_text()),
            proptest::option::of(any_text()),
        );
        let body = (
            proptest::option::of(any::<u64>()),
            any::<i64>(),
            proptest::option::of(location),
            proptest::collection::vec(reading, 1..6),
        );
        (head, body).prop_map(
            |((device_id, tenant, project), (seq, timestamp, location, readings))| DeviceMessage {
                device_id: device_id.into(),
                tenant: tenant.map(Cow::Owned),
                project: project.map(Cow::Owned),
                seq,
                timestamp,
                location,
                readings,
            },
        )
    }

    /// What others make of it, who have only the `.proto`: in its field names.
    fn by_the_proto(payload: &[u8]) -> serde_json::Value {
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

        /// Both formats say the same, to this reader and to everybody else's.
        #[test]
        fn protobuf_and_json_agree(message in any_message()) {
            let (mut protobuf, mut json) = (Vec::new(), Vec::new());
            message.write_protobuf(&mut protobuf);
            message.write_json(&mut json);
            prop_assert_eq!(&parse_protobuf(&protobuf).unwrap(), &message);
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(by_the_proto(&protobuf), json);
        }

        /// Whatever the bytes are, they are a message or an error.
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_protobuf(&bytes);
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
        parse_protobuf(&wire.encode_to_vec())
    }

    #[test]
    fn what_json_must_have_protobuf_must_have() {
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
