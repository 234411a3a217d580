//! The JSON of publications, in the form of the REST API.

use std::sync::Arc;

use iot_fold::{Device, DeviceKey, Place, Value};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// Some readings of a device.
#[derive(Serialize)]
struct Part<'d, R> {
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    tenant: &'d str,
    project: &'d str,
    device: &'d str,
    location: Option<&'d Place>,
    seq: Option<u64>,
    timestamp: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ahead: bool,
    readings: R,
}

/// The readings that `takes` selects. Of a sensor that occurs twice the last one counts.
struct Selected<'d, F>(&'d [(Arc<str>, Value)], F);

impl<F: Fn(&str) -> bool> Serialize for Selected<'_, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (number, (sensor, value)) in self.0.iter().enumerate() {
            let again = self.0[number + 1..].iter().any(|(name, _)| name == sensor);
            if !again && (self.1)(sensor) {
                map.serialize_entry(sensor, value)?;
            }
        }
        map.end()
    }
}

/// Appends a device with those of `readings` that `takes` selects. `origin` is the partition and
/// the offset of the message that they are of.
pub(super) fn device(
    out: &mut Vec<u8>,
    device: &Device,
    readings: &[(Arc<str>, Value)],
    takes: impl Fn(&str) -> bool,
    origin: Option<(&str, i64)>,
) {
    value(
        out,
        &Part {
            partition: origin.map(|(partition, _)| partition),
            offset: origin.map(|(_, offset)| offset),
            tenant: &device.key.tenant,
            project: &device.key.project,
            device: &device.key.device,
            location: device.location.as_deref(),
            seq: device.seq,
            timestamp: device.timestamp,
            ahead: device.is_ahead,
            readings: Selected(readings, takes),
        },
    );
}

/// Appends the name of a removed device.
pub(super) fn key(out: &mut Vec<u8>, key: &DeviceKey) {
    value(out, key);
}

/// Appends anything.
pub(super) fn value(out: &mut Vec<u8>, value: &impl Serialize) {
    // Plain data with text keys always serialises, and a list takes every byte.
    let _ = serde_json::to_writer(out, value);
}

/// A list of one kind of a publication's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Devices,
    Removed,
    Alerts,
    Gone,
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Removed => "removed",
            Self::Alerts => "alerts",
            Self::Gone => "gone",
        }
    }
}

/// The data of a publication that is being written: `{"removed":[..],"devices":[..]`.
#[derive(Debug, Default, Clone)]
pub(super) struct Data {
    bytes: Vec<u8>,
    field: Option<Field>,
}

impl Data {
    /// Appends an item to a list. The items of a list follow each other.
    pub(super) fn item(&mut self, field: Field, write: impl FnOnce(&mut Vec<u8>)) {
        if self.field == Some(field) {
            self.bytes.push(b',');
        } else {
            let before = match self.field {
                None => "{\"",
                Some(_) => "],\"",
            };
            for part in [before, field.name(), "\":["] {
                self.bytes.extend(part.as_bytes());
            }
            self.field = Some(field);
        }
        write(&mut self.bytes);
    }

    pub(super) fn field(&self) -> Option<Field> {
        self.field
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The whole object. A publication of devices always has the list of them.
    pub(super) fn end(mut self, of_devices: bool, skipped: u64) -> Vec<u8> {
        match self.field {
            None => self.bytes.push(b'{'),
            Some(_) => self.bytes.push(b']'),
        }
        if of_devices && self.field != Some(Field::Devices) {
            if self.field.is_some() {
                self.bytes.push(b',');
            }
            self.bytes.extend(b"\"devices\":[]");
            self.field = Some(Field::Devices);
        }
        if skipped > 0 {
            if self.field.is_some() {
                self.bytes.push(b',');
            }
            self.bytes.extend(format!("\"skipped\":{skipped}").bytes());
        }
        self.bytes.push(b'}');
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, from_slice, json};

    use super::*;
    use crate::hub::tests::device as sample;

    #[test]
    fn a_device_is_written_as_by_the_rest_api() {
        let mut known = sample("t", "d", 5, &[("a", 1.5), ("b", 2.0)]);
        for ahead in [false, true] {
            known.is_ahead = ahead;
            let mut out = Vec::new();
            device(&mut out, &known, &known.readings, |_| true, None);
            let written: Json = from_slice(&out).unwrap();
            assert_eq!(written, serde_json::to_value(&known).unwrap());
        }
        let mut out = Vec::new();
        device(
            &mut out,
            &known,
            &known.readings,
            |name| name == "b",
            Some(("x:3", 7)),
        );
        let written: Json = from_slice(&out).unwrap();
        assert_eq!(
            (&written["partition"], &written["offset"]),
            (&json!("x:3"), &json!(7))
        );
        assert_eq!(written["readings"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn data_is_valid_json_whatever_it_has() {
        let mut data = Data::default();
        let empty = data.clone().end(true, 3);
        assert_eq!(empty, br#"{"devices":[],"skipped":3}"#);
        assert_eq!(Data::default().end(false, 0), b"{}");
        data.item(Field::Removed, |out| out.push(b'1'));
        data.item(Field::Removed, |out| out.push(b'2'));
        assert_eq!(
            data.clone().end(true, 0),
            br#"{"removed":[1,2],"devices":[]}"#
        );
        data.item(Field::Devices, |out| out.push(b'3'));
        assert_eq!(
            data.end(true, 1),
            br#"{"removed":[1,2],"devices":[3],"skipped":1}"#
        );
    }
}
