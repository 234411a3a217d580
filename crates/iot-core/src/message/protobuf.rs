//! The same message as Protobuf: `proto/iot/v1/device_message.proto`, which a
//! test holds against this.

use std::borrow::Cow;

use prost::Message;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_reflect::{DescriptorPool, DynamicMessage, Value};

    use super::super::template::tests::written;
    use super::super::tests::any_message;
    use super::*;

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
            let (protobuf, mut json) = (written(&message), Vec::new());
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
