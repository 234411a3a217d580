use proptest::prelude::*;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

use super::super::strategies::{plain_message, value};
use super::super::template::tests::written;
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
    fn protobuf_and_json_agree(message in plain_message(value())) {
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
        messages in proptest::collection::vec(plain_message(value()), 0..3),
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
        (
            |m| m.readings[0].sensor.clear(),
            "readings[0]: sensor is empty",
        ),
        (
            |m| m.readings[0].value = None,
            "readings[0]: value is missing",
        ),
        (
            |m| m.readings.push(WireReading::default()),
            "readings[1]: value is missing",
        ),
        (
            |m| m.readings[0].value = Some(f64::NAN),
            "readings[0]: value must be finite",
        ),
        (
            |m| m.readings[0].quality = 9,
            "readings[0]: quality must be good, uncertain or bad, not 9",
        ),
    ] {
        assert_eq!(error(change), expected);
    }
    assert_eq!(parse_protobuf(b""), Err(ParseError::Empty));
    let error = parse_protobuf(b"{}").unwrap_err();
    assert!(matches!(error, ParseError::NotProtobuf { .. }), "{error}");
}

#[test]
fn defective_readings_are_refused_alone() {
    let mut wire = WireMessage {
        device_id: "d1".into(),
        timestamp: Some(1),
        ..WireMessage::default()
    };
    let reading = |sensor: &str, value, quality| WireReading {
        sensor: sensor.into(),
        value,
        quality,
        ..WireReading::default()
    };
    wire.readings = vec![
        reading("a", Some(f64::NAN), 0),
        reading("b", Some(2.0), 0),
        reading("c", None, 0),
        reading("", Some(1.0), 0),
        reading("e", Some(f64::NEG_INFINITY), 0),
        reading("f", Some(1.0), 9),
        reading("g", Some(7.0), 0),
    ];
    let bytes = wire.encode_to_vec();
    let mut refused = Vec::new();
    let message = parse_protobuf_partial(&bytes, &mut refused).unwrap();
    let taken: Vec<_> = message.readings.iter().map(|r| &*r.sensor).collect();
    assert_eq!(taken, ["b", "g"]);
    let refused = refused.iter();
    let refused: Vec<_> = refused
        .map(|r| (r.index, r.sensor.as_deref(), r.defect.reason()))
        .collect();
    let expected = [
        (0, Some("a"), "not_a_number"),
        (2, Some("c"), "missing_value"),
        (3, None, "empty_sensor"),
        (4, Some("e"), "not_a_number"),
        (5, Some("f"), "unknown_quality"),
    ];
    assert_eq!(refused, expected);
    let error = parse_protobuf(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "readings[0]: value must be finite");
    wire.readings.retain(|r| !matches!(&*r.sensor, "b" | "g"));
    let bytes = wire.encode_to_vec();
    let none_good = parse_protobuf_partial(&bytes, &mut Vec::new());
    assert_eq!(none_good.unwrap_err(), error);
    wire.readings = vec![reading("", None, 0); MAX_REFUSED + 1];
    wire.readings.push(reading("g", Some(7.0), 0));
    let bytes = wire.encode_to_vec();
    let too_many = parse_protobuf_partial(&bytes, &mut Vec::new());
    assert_eq!(too_many.unwrap_err().reason(), "missing_value");
}
