//! Fast encoding of many messages of one device: everything but the sequence
//! number, the time and the values is encoded once.

use std::ops::Range;

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use serde::Serialize;

use super::{DeviceMessage, Location, Quality};

/// The constant bytes of a device's messages, in one format.
#[derive(Debug, Clone)]
pub struct Template {
    format: Format,
    /// The bytes before the sequence number, then those after the time.
    parts: Box<[u8]>,
    /// Start of the second part.
    second: usize,
    /// Range of the device id.
    id: Range<usize>,
}

/// The constant bytes of a sensor's readings, in one format.
#[derive(Debug, Clone)]
pub struct ReadingTemplate {
    format: Format,
    before: Box<[u8]>,
    behind: Box<[u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Protobuf,
}

impl Template {
    /// A template for JSON. The sequence number, time and readings of `message` are
    /// ignored.
    #[must_use]
    pub fn json(message: &DeviceMessage<'_>) -> Self {
        let mut parts = br#"{"device_id":"#.to_vec();
        // After the quotation mark.
        let id = parts.len() + 1;
        json(&message.device_id, &mut parts);
        let id = id..parts.len() - 1;
        for (name, value) in [("tenant", &message.tenant), ("project", &message.project)] {
            if let Some(value) = value {
                parts.extend_from_slice(format!(",\"{name}\":").as_bytes());
                json(value, &mut parts);
            }
        }
        parts.extend_from_slice(br#","seq":"#);
        let second = parts.len();
        if let Some(location) = &message.location {
            parts.extend_from_slice(br#","location":"#);
            json(location, &mut parts);
        }
        parts.extend_from_slice(br#","readings":["#);
        Self {
            format: Format::Json,
            parts: parts.into(),
            second,
            id,
        }
    }

    /// A template for Protobuf; as [`json`](Self::json).
    #[must_use]
    pub fn protobuf(message: &DeviceMessage<'_>) -> Self {
        let mut parts = Vec::new();
        text(1, &message.device_id, &mut parts);
        let id = parts.len() - message.device_id.len()..parts.len();
        for (tag, part) in [(2, &message.tenant), (3, &message.project)] {
            if let Some(part) = part {
                text(tag, part, &mut parts);
            }
        }
        let second = parts.len();
        if let Some(location) = &message.location {
            write_location(location, &mut parts);
        }
        Self {
            format: Format::Protobuf,
            parts: parts.into(),
            second,
            id,
        }
    }

    /// Byte range of the device id in every message. In JSON it covers the escaped
    /// text.
    #[must_use]
    pub fn id(&self) -> Range<usize> {
        self.id.clone()
    }

    /// Appends a message: `timestamp` is in milliseconds since the Unix epoch, and each
    /// reading is a template of the same format with its value. Without readings it
    /// appends nothing and returns `false`.
    pub fn write<'t>(
        &self,
        seq: u64,
        timestamp: i64,
        readings: impl Iterator<Item = (&'t ReadingTemplate, f64)>,
        out: &mut Vec<u8>,
    ) -> bool {
        let begin = out.len();
        let (first, second) = self.parts.split_at(self.second);
        out.extend_from_slice(first);
        match self.format {
            Format::Json => {
                json(&seq, out);
                out.extend_from_slice(br#","timestamp":"#);
                json(&timestamp, out);
            }
            Format::Protobuf => {
                number(4, seq, out);
                // Protobuf encodes int64 as two's complement.
                number(5, timestamp as u64, out);
            }
        }
        out.extend_from_slice(second);
        let mut any = false;
        for (reading, value) in readings {
            debug_assert_eq!(reading.format, self.format);
            if any && self.format == Format::Json {
                out.push(b',');
            }
            any = true;
            out.extend_from_slice(&reading.before);
            match self.format {
                Format::Json => json(&value, out),
                Format::Protobuf => out.extend_from_slice(&value.to_le_bytes()),
            }
            out.extend_from_slice(&reading.behind);
        }
        match (any, self.format) {
            (false, _) => out.truncate(begin),
            (true, Format::Json) => out.extend_from_slice(b"]}"),
            (true, Format::Protobuf) => {}
        }
        any
    }
}

impl ReadingTemplate {
    /// A template for JSON.
    #[must_use]
    pub fn json(sensor: &str, unit: Option<&str>, quality: Quality) -> Self {
        let (mut before, mut behind) = (br#"{"sensor":"#.to_vec(), Vec::new());
        json(sensor, &mut before);
        before.extend_from_slice(br#","value":"#);
        if let Some(unit) = unit {
            behind.extend_from_slice(br#","unit":"#);
            json(unit, &mut behind);
        }
        behind.extend_from_slice(br#","quality":"#);
        json(&quality, &mut behind);
        behind.push(b'}');
        Self {
            format: Format::Json,
            before: before.into(),
            behind: behind.into(),
        }
    }

    /// A template for Protobuf.
    #[must_use]
    pub fn protobuf(sensor: &str, unit: Option<&str>, quality: Quality) -> Self {
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        // The value takes a key and eight bytes, the quality a key and one.
        let length = text_length(sensor) + 9 + unit.map_or(0, text_length) + 2;
        prefix(7, length, &mut before);
        text(1, sensor, &mut before);
        encode_key(2, WireType::SixtyFourBit, &mut before);
        if let Some(unit) = unit {
            text(3, unit, &mut behind);
        }
        number(4, wire_quality(quality), &mut behind);
        Self {
            format: Format::Protobuf,
            before: before.into(),
            behind: behind.into(),
        }
    }
}

fn json(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value)
        .expect("writing to a Vec does not fail, and the value has no maps");
}

fn wire_quality(quality: Quality) -> u64 {
    match quality {
        Quality::Good => 1,
        Quality::Uncertain => 2,
        Quality::Bad => 3,
    }
}

fn write_location(location: &Location<'_>, out: &mut Vec<u8>) {
    let Location {
        building,
        floor,
        room,
    } = location;
    let parts = [(1, building), (2, floor), (3, room)];
    let parts = parts.into_iter().filter(|(_, part)| !part.is_empty());
    let length: usize = parts.clone().map(|(_, part)| text_length(part)).sum();
    prefix(6, length, out);
    parts.for_each(|(tag, part)| text(tag, part, out));
}

/// Writes the key and the length of a length-delimited field.
fn prefix(tag: u32, length: usize, out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn text(tag: u32, text: &str, out: &mut Vec<u8>) {
    prefix(tag, text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// Encoded length of a string field: key (one byte up to tag 15), length and text.
fn text_length(text: &str) -> usize {
    1 + encoded_len_varint(text.len() as u64) + text.len()
}

fn number(tag: u32, number: u64, out: &mut Vec<u8>) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(number, out);
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::strategies::{plain_message, value};
    use super::*;

    type ReadingOf = fn(&str, Option<&str>, Quality) -> ReadingTemplate;

    fn written_as(template: &Template, reading: ReadingOf, message: &DeviceMessage<'_>) -> Vec<u8> {
        let readings = message.readings.iter();
        let readings =
            readings.map(|r| (reading(&r.sensor, r.unit.as_deref(), r.quality), r.value));
        let readings: Vec<_> = readings.collect();
        let readings = readings.iter().map(|(template, value)| (template, *value));
        let mut out = b"before".to_vec();
        let seq = message.seq.expect("a number");
        assert!(template.write(seq, message.timestamp, readings, &mut out));
        let written = out.split_off("before".len());
        assert_eq!(&written[template.id()], message.device_id.as_bytes());
        written
    }

    /// Encodes a message as Protobuf.
    pub(crate) fn written(message: &DeviceMessage<'_>) -> Vec<u8> {
        written_as(
            &Template::protobuf(message),
            ReadingTemplate::protobuf,
            message,
        )
    }

    proptest! {
        #[test]
        fn a_template_writes_the_same_json_as_the_message(message in plain_message(value())) {
            let json = written_as(&Template::json(&message), ReadingTemplate::json, &message);
            let mut expected = Vec::new();
            message.write_json(&mut expected);
            prop_assert_eq!(String::from_utf8(json), String::from_utf8(expected));
        }
    }

    #[test]
    fn nothing_is_written_without_readings() {
        let message = DeviceMessage {
            device_id: "d1".into(),
            tenant: None,
            project: None,
            seq: None,
            timestamp: 0,
            location: None,
            readings: Vec::new(),
        };
        let mut out = b"before".to_vec();
        for template in [Template::json(&message), Template::protobuf(&message)] {
            assert!(!template.write(1, 1, std::iter::empty(), &mut out));
            assert_eq!(out, b"before");
        }
    }
}
