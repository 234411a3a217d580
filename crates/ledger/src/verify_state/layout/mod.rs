//! The consumer's layout of state in Redis, schemas 2 and 3 of docs/state.md: names of keys
//! and fields, and the bytes of values. No other file depends on it.

mod reader;

use iot_core::message::Quality;

use super::model::{Moment, Place, Span, Summary, ThresholdAlert, Waiting, Window};
use reader::Reader;

/// The supported schemas. Schema 3 adds fields about the log.
pub(super) const SCHEMAS: [&str; 2] = ["2", "3"];
/// Field of a partition's hash with the schema.
pub(super) const SCHEMA_FIELD: &str = "schema";
/// Field of a partition's hash with the next offset to apply.
pub(super) const OFFSET_FIELD: &str = "offset";
/// Field of a partition's hash with its time.
pub(super) const TIME_FIELD: &str = "p\0time";
/// First byte of a device. Version 3 adds the state of silence detection at the end, version 4
/// which times were ahead of their records, version 5 values that wait beyond a threshold.
const DEVICE_VERSIONS: [u8; 4] = [2, 3, 4, 5];
/// First byte of the time of a partition.
const TIME_VERSIONS: [u8; 1] = [1];
/// First byte of sealed windows.
const SEALED_VERSIONS: [u8; 1] = [2];
/// Separator between the parts of a name.
const SEPARATOR: char = '\0';

/// Why a value cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable(pub(super) String);

/// The stored state of a device.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredDevice {
    pub(super) watermark: i64,
    pub(super) newest: Moment,
    /// Whether that is ahead of its record; `None` before version 4.
    pub(super) ahead: Option<bool>,
    pub(super) place: Option<Place>,
    pub(super) sensors: Vec<(String, StoredSensor)>,
    /// Offset of its last message.
    pub(super) heard: Option<i64>,
}

/// The stored time of a partition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredTime {
    /// Offset of the last message.
    pub(super) offset: i64,
    pub(super) time: i64,
    /// Whether the time is that of an earlier version, which stored no record times.
    pub(super) taken_over: bool,
    /// The last record times, the newest last.
    pub(super) recent: Vec<i64>,
}

/// The stored state of a sensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredSensor {
    pub(super) value: f64,
    pub(super) unit: Option<String>,
    pub(super) quality: Quality,
    pub(super) newest: Moment,
    /// Whether that is ahead of its record; `None` before version 4.
    pub(super) ahead: Option<bool>,
    pub(super) open: Vec<Window>,
    /// `None` before version 5.
    pub(super) detection: Option<StoredDetection>,
}

/// The part of a sensor's alerts and detectors that can be compared.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct StoredDetection {
    pub(super) alert: Option<ThresholdAlert>,
    pub(super) waiting: Option<Waiting>,
}

/// The stored windows of a device that were sealed together, by sensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredWindows {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) windows: Vec<(String, Summary)>,
}

/// Prefix of all keys of a partition.
pub(super) fn key_prefix(prefix: &str, topic: &str, partition: i32) -> String {
    format!("{prefix}:{{{topic}:{partition}}}:")
}

/// Name of a device within keys and fields.
pub(super) fn device_name(tenant: &str, project: &str, device: &str) -> String {
    [tenant, project, device].join("\0")
}

/// Whether a field of the partition's hash is a value. The others are about the partition, such
/// as its log, and are not compared.
pub(super) fn is_value(field: &str) -> bool {
    field.contains(SEPARATOR)
}

/// Key of the state of an earlier log of the partition, without [`key_prefix`]: the rest is a
/// name of that log.
pub(super) const ASIDE: &str = "aside\0";

/// Field of a device in the partition's hash.
pub(super) fn device_field(device: &str) -> String {
    format!("d{SEPARATOR}{device}")
}

/// Key of sealed windows, without [`key_prefix`].
pub(super) fn window_key(device: &str, span: Span) -> String {
    let Span { size, start } = span;
    format!("w{SEPARATOR}{device}{SEPARATOR}{size}{SEPARATOR}{start}")
}

/// Prefix of the result of [`window_key`].
pub(super) const WINDOW: &str = "w\0";

/// Parses the result of [`window_key`]; `None` for other keys.
pub(super) fn parse_window_key(key: &str) -> Option<(String, Span)> {
    let parts: Vec<&str> = key.split(SEPARATOR).collect();
    let ["w", tenant, project, device, size, start] = parts[..] else {
        return None;
    };
    let span = Span {
        size: size.parse().ok()?,
        start: start.parse().ok()?,
    };
    let device = device_name(tenant, project, device);
    // Refuse other spellings of the same numbers.
    (window_key(&device, span) == key).then_some((device, span))
}

/// A name with printable separators.
pub(super) fn shown(name: &str) -> String {
    name.replace(SEPARATOR, "·")
}

/// Decodes the value of a [`device_field`].
///
/// # Errors
/// The value has another version, or is malformed.
pub(super) fn device(bytes: &[u8]) -> Result<StoredDevice, Unreadable> {
    let (version, mut reader) = Reader::new(bytes, &DEVICE_VERSIONS)?;
    let mut device = StoredDevice {
        watermark: reader.i64()?,
        newest: reader.moment()?,
        ahead: reader.ahead(version)?,
        place: reader.option(|reader| Ok([reader.text()?, reader.text()?, reader.text()?]))?,
        sensors: {
            // Hash of the detectors' rules.
            reader.u32()?;
            reader.list(|reader| reader.part(|part| sensor(part, version)))?
        },
        heard: None,
    };
    if version > 2 {
        device.heard = reader.silence(version)?;
    }
    reader.end()?;
    Ok(device)
}

/// Decodes a sensor and its name. Of the alerts and detectors, which follow the open windows, only
/// those of thresholds can be compared.
fn sensor(reader: &mut Reader<'_>, version: u8) -> Result<(String, StoredSensor), Unreadable> {
    let name = reader.text()?;
    let sensor = StoredSensor {
        value: reader.f64()?,
        unit: reader.option(Reader::text)?,
        quality: match reader.u8()? {
            0 => Quality::Good,
            1 => Quality::Uncertain,
            2 => Quality::Bad,
            other => return Err(Unreadable(format!("invalid quality {other}"))),
        },
        newest: reader.moment()?,
        ahead: reader.ahead(version)?,
        open: reader.list(Reader::window)?,
        detection: (version > 4).then(|| reader.detection()).transpose()?,
    };
    Ok((name, sensor))
}

/// Whether a value of a device says which times were ahead of their records: then the partition
/// has a stored time.
pub(super) fn is_with_time(device: &[u8]) -> bool {
    device.first().is_some_and(|version| *version > 3)
}

/// Decodes the value of [`TIME_FIELD`].
///
/// # Errors
/// The value has another version, or is malformed.
pub(super) fn time(bytes: &[u8]) -> Result<StoredTime, Unreadable> {
    let (_, mut reader) = Reader::new(bytes, &TIME_VERSIONS)?;
    let (offset, time) = (reader.i64()?, reader.i64()?);
    // The clocks of silence and of retention.
    reader.take(2 * size_of::<i64>())?;
    let time = StoredTime {
        offset,
        time,
        taken_over: reader.flag()?,
        recent: reader.list(Reader::i64)?,
    };
    reader.end()?;
    Ok(time)
}

/// Decodes the value of a [`window_key`].
///
/// # Errors
/// The value has another version, or is malformed.
pub(super) fn sealed(bytes: &[u8]) -> Result<StoredWindows, Unreadable> {
    let (_, mut reader) = Reader::new(bytes, &SEALED_VERSIONS)?;
    let sealed = StoredWindows {
        start: reader.i64()?,
        end: reader.i64()?,
        windows: reader.list(|reader| Ok((reader.text()?, reader.summary()?)))?,
    };
    reader.end()?;
    Ok(sealed)
}

#[cfg(test)]
mod tests;
