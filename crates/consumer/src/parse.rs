//! Parses the payload of a record, in whichever format it is.

use iot_core::headers;
use iot_core::message::{
    DeviceMessage, ParseError, RefusedReading, parse, parse_partial, parse_protobuf,
    parse_protobuf_partial,
};
use kafka_fetch::Record;

use crate::mapping::{Around, Beside, Mappings};

/// The first byte of our Protobuf messages: field 1, with a length.
const PROTOBUF_BEGIN: u8 = 0x0a;

/// Content types of Protobuf.
const PROTOBUF: [&str; 3] = [
    headers::APPLICATION_PROTOBUF,
    "application/x-protobuf",
    "application/vnd.google.protobuf",
];

/// What a record says about the format of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Protobuf,
}

/// The message in a record of `topic`. A mapping that matches the record comes first, then
/// the header `content-type`, then the look of the payload. If there is a list, defective readings
/// are put there as long as a good one remains. `beside`, which must be empty, gets what a mapping
/// finds beside readings.
///
/// # Errors
/// The payload is not a message in that format.
pub(crate) fn message<'r>(
    record: &Record<'r>,
    topic: &str,
    mappings: &Mappings,
    refused: Option<&mut Vec<RefusedReading>>,
    beside: &mut Beside,
) -> Result<DeviceMessage<'r>, ParseError> {
    let payload = record.value().unwrap_or_default();
    if !mappings.is_empty() {
        let around = Around {
            topic,
            mqtt: record
                .header(headers::MQTT_TOPIC)
                .and_then(|topic| std::str::from_utf8(topic).ok()),
            is_retained: record.header(headers::MQTT_RETAIN) == Some(b"true"),
            recorded: record.timestamp(),
        };
        if let Some(mapping) = mappings.find(&around) {
            return mapping.message(payload, &around, refused, beside);
        }
    }
    match record.header(headers::CONTENT_TYPE).and_then(named) {
        Some(Format::Json) => json(payload, refused),
        Some(Format::Protobuf) => protobuf(payload, refused),
        None => guessed(payload, refused),
    }
}

fn json<'p>(
    payload: &'p [u8],
    refused: Option<&mut Vec<RefusedReading>>,
) -> Result<DeviceMessage<'p>, ParseError> {
    match refused {
        Some(refused) => parse_partial(payload, refused),
        None => parse(payload),
    }
}

fn protobuf<'p>(
    payload: &'p [u8],
    refused: Option<&mut Vec<RefusedReading>>,
) -> Result<DeviceMessage<'p>, ParseError> {
    match refused {
        Some(refused) => parse_protobuf_partial(payload, refused),
        None => parse_protobuf(payload),
    }
}

fn named(content_type: &[u8]) -> Option<Format> {
    let mut parts = content_type.split(|byte| *byte == b';');
    let media_type = parts.next()?.trim_ascii();
    let is = |name: &&str| media_type.eq_ignore_ascii_case(name.as_bytes());
    if is(&headers::APPLICATION_JSON) {
        return Some(Format::Json);
    }
    PROTOBUF.iter().any(is).then_some(Format::Protobuf)
}

/// A payload in neither format is reported as bad JSON, which is more often written by hand.
fn guessed<'p>(
    payload: &'p [u8],
    mut refused: Option<&mut Vec<RefusedReading>>,
) -> Result<DeviceMessage<'p>, ParseError> {
    // The byte is also a newline, which JSON may start with; then a brace follows.
    let first = payload.iter().find(|byte| !byte.is_ascii_whitespace());
    if payload.first() == Some(&PROTOBUF_BEGIN)
        && first != Some(&b'{')
        && let Ok(message) = protobuf(payload, refused.as_deref_mut())
    {
        return Ok(message);
    }
    json(payload, refused)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use iot_core::message::{Quality, ReadingTemplate, Template};
    use iot_fold::Catalogue;
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

    use super::*;
    use crate::config::MappingsConfig;
    use crate::record::batch_of;

    const JSON: &[u8] =
        br#"{"device_id":"{d","timestamp":1,"readings":[{"sensor":"s","value":2.5}]}"#;

    fn protobuf() -> Vec<u8> {
        let message = DeviceMessage {
            device_id: Cow::Borrowed("{d"),
            tenant: None,
            project: None,
            seq: None,
            timestamp: 0,
            location: None,
            readings: Vec::new(),
        };
        let reading = ReadingTemplate::protobuf("s", None, Quality::Good);
        let mut out = Vec::new();
        let template = Template::protobuf(&message);
        template.write(0, 1, [(&reading, 2.5)].into_iter(), &mut out);
        out
    }

    fn read(content_type: Option<&str>, payload: &[u8]) -> Result<(String, f64), &'static str> {
        let value = content_type;
        let key = "content-type";
        let headers = value.map(|_| OwnedHeaders::new().insert(Header { key, value }));
        let payload = Some(payload.to_vec());
        let time = Timestamp::CreateTime(1);
        let message = OwnedMessage::new(payload, None, "t".into(), time, 0, 0, headers);
        let batch = batch_of(&message);
        let record = batch.records().next().unwrap();
        let mappings = Mappings::new(&MappingsConfig::default(), &Catalogue::new([]));
        let message = super::message(&record, "t", &mappings, None, &mut Beside::default())
            .map_err(|error| error.reason())?;
        Ok((message.device_id.into_owned(), message.readings[0].value))
    }

    #[test]
    fn the_header_decides() {
        let expected = Ok(("{d".to_owned(), 2.5));
        for json in ["application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(read(Some(json), JSON), expected);
            assert!(read(Some(json), &protobuf()).is_err());
        }
        for binary in ["application/protobuf", "application/x-protobuf"] {
            assert_eq!(read(Some(binary), &protobuf()), expected);
            assert_eq!(read(Some(binary), JSON), Err("not_protobuf"));
        }
    }

    #[test]
    fn without_one_the_payload_does() {
        let expected = Ok(("{d".to_owned(), 2.5));
        for content_type in [None, Some("text/plain")] {
            assert_eq!(read(content_type, JSON), expected);
            assert_eq!(read(content_type, &[b"\n\t", JSON].concat()), expected);
            assert_eq!(read(content_type, &protobuf()), expected);
            assert_eq!(read(content_type, b"\nnonsense"), Err("not_json"));
            assert_eq!(read(content_type, b""), Err("empty"));
        }
    }
}
