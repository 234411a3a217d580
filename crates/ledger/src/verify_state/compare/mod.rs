//! Compares the stored state of one partition with the fold of its log.

mod threshold;
mod time;

use std::collections::{BTreeMap, BTreeSet};

use iot_core::message::Quality;
use iot_core::partition::TopicPartition;

use super::fold::{Device, Fold, Newest, Sealed, Sensor, Timing};
use super::layout::{self, StoredDevice, StoredSensor, StoredWindows, Unreadable};
use super::model::{FieldValue, Moment, Place, Span};
use super::report::{Finding, Kind, Report};
use super::store::Snapshot;

/// Tolerance in milliseconds for different clocks when windows are about to expire.
const MARGIN: i64 = 30_000;

/// The part of the log that Kafka still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// All records.
    Whole,
    /// The first records are deleted; none of them has an event time after this one.
    After(i64),
}

/// The comparison of a partition and its findings.
pub(super) struct Comparison<'a> {
    pub(super) partition: &'a TopicPartition,
    pub(super) kept: Kept,
    /// How long sealed windows are kept, as a multiple of their length.
    pub(super) keep: i64,
    pub(super) report: Report,
}

impl Kept {
    /// Whether a window can contain only records that Kafka still has.
    fn has(self, span: Span) -> bool {
        match self {
            Self::Whole => true,
            Self::After(newest) => span.start > newest,
        }
    }

    /// Whether a stored value can be compared with the newest one of the records that
    /// Kafka still has. If the stored one is newer, its record is deleted.
    fn has_newest(self, expected: Option<Timing>, found: Moment) -> bool {
        self == Self::Whole || Some(found) <= expected.map(|expected| expected.moment)
    }
}

impl<'a> Comparison<'a> {
    /// A comparison with a whole log, in which sealed windows are not kept.
    pub(super) fn new(partition: &'a TopicPartition) -> Self {
        Self {
            partition,
            kept: Kept::Whole,
            keep: 0,
            report: Report::default(),
        }
    }

    /// Compares the live values with the fold up to the stored offset.
    pub(super) fn live(&mut self, fold: &Fold, snapshot: &Snapshot) {
        let mut stored: BTreeMap<&str, &[u8]> = BTreeMap::new();
        for (field, value) in &snapshot.live {
            stored.insert(field, value);
        }
        stored.remove(layout::TIME_FIELD);
        for (name, device) in &fold.devices {
            self.report.devices += 1;
            self.report.sensors += device.sensors.len() as u64;
            let field = layout::device_field(name);
            let Some(value) = stored.remove(&*field) else {
                if self.kept != Kept::Whole && fold.removes_devices() {
                    // Its age depends on record times that are deleted.
                    self.report.not_comparable += 1;
                } else {
                    self.find(Kind::Missing, &field, "", "a value", "none");
                }
                continue;
            };
            self.report.values_compared += 1;
            match layout::device(value) {
                Ok(found) => {
                    self.device(&field, device, &found);
                    self.sensors(&field, device, found.sensors);
                }
                Err(Unreadable(why)) => {
                    self.find(Kind::Difference, &field, "", "a value", &why);
                }
            }
        }
        for (field, value) in stored {
            self.unexpected(field, value);
        }
        self.time(&fold.time, snapshot);
    }

    fn device(&mut self, key: &str, expected: &Device, found: &StoredDevice) {
        let watermark = expected.watermark.unwrap_or(i64::MIN);
        if self.kept == Kept::Whole || found.watermark <= watermark {
            let field = |watermark| [("watermark", FieldValue::Signed(watermark))];
            self.fields(key, "", &field(watermark), &field(found.watermark));
        } else {
            self.report.not_comparable += 1;
        }
        // An earlier version may not have stored it, and deleted records may have had it.
        let is_stored = found.heard.is_some() || found.ahead.is_some();
        if expected.heard.is_some() && is_stored {
            self.fields(
                key,
                "",
                &last_offset(expected.heard),
                &last_offset(found.heard),
            );
        }
        if !self.kept.has_newest(expected.newest, found.newest) {
            self.report.not_comparable += 1;
            return;
        }
        let found_moment = moment(Some(found.newest), found.ahead);
        self.fields(key, "", &timing(expected.newest), &found_moment);
        // Otherwise a deleted record may have set the place.
        if self.kept == Kept::Whole || expected.place_is_newest {
            let (expected, found) = (place(&expected.place), place(&found.place));
            self.fields(key, "", &expected, &found);
        } else {
            self.report.not_comparable += 1;
        }
    }

    fn sensors(&mut self, key: &str, expected: &Device, found: Vec<(String, StoredSensor)>) {
        let mut sensors = self.by_name(key, found);
        for (name, expected) in &expected.sensors {
            match sensors.remove(name) {
                Some(found) => {
                    self.report.values_compared += 1;
                    self.sensor(key, name, expected, found);
                }
                None => self.find(Kind::Missing, key, name, "a sensor", "none"),
            }
        }
        for name in sensors.into_keys() {
            match self.kept {
                Kept::Whole => self.find(Kind::Extra, key, &name, "none", "a sensor"),
                Kept::After(_) => self.report.not_comparable += 1,
            }
        }
    }

    fn sensor(&mut self, key: &str, name: &str, expected: &Sensor, found: StoredSensor) {
        let newest = expected.newest.as_ref();
        if self.kept.has_newest(newest.map(|n| n.timing), found.newest) {
            self.newest(key, name, newest, &found);
        } else {
            self.report.not_comparable += 1;
        }
        if let Some(crossing) = &expected.crossing {
            self.threshold(key, name, crossing, found.detection.as_ref());
        }
        let mut open = BTreeMap::new();
        for window in found.open {
            let span = window.span;
            if open.insert(span, window).is_some() {
                let field = window_of(name, span);
                self.find(Kind::Extra, key, &field, "one window", "two");
            }
        }
        for (span, window) in &expected.open {
            let (field, found) = (window_of(name, *span), open.remove(span));
            if !self.kept.has(*span) {
                self.report.not_comparable += 1;
            } else if let Some(found) = found {
                self.report.open_windows_compared += 1;
                self.fields(key, &field, &window.fields(), &found.fields());
            } else {
                self.find(Kind::Missing, key, &field, "a window", "none");
            }
        }
        for span in open.into_keys() {
            if self.kept.has(span) {
                let field = window_of(name, span);
                self.find(Kind::Extra, key, &field, "none", "a window");
            } else {
                self.report.not_comparable += 1;
            }
        }
    }

    fn newest(&mut self, key: &str, name: &str, expected: Option<&Newest>, found: &StoredSensor) {
        let expected_moment = timing(expected.map(|newest| newest.timing));
        let found_moment = moment(Some(found.newest), found.ahead);
        self.fields(key, name, &expected_moment, &found_moment);
        let Some(expected) = expected else { return };
        let value = |value, unit: &Option<String>, quality: Quality| {
            [
                ("value", FieldValue::Float(value)),
                ("unit", text(unit.clone())),
                ("quality", FieldValue::Text(quality.as_str().into())),
            ]
        };
        self.fields(
            key,
            name,
            &value(expected.value, &expected.unit, expected.quality),
            &value(found.value, &found.unit, found.quality),
        );
    }

    /// Handles a live value that the fold does not have.
    fn unexpected(&mut self, field: &str, value: &[u8]) {
        let read = match field.split('\0').collect::<Vec<_>>()[..] {
            ["d", _, _, _] => layout::device(value).map(drop),
            _ => Err(Unreadable("a value of unknown kind".into())),
        };
        match (self.kept, read) {
            (_, Err(Unreadable(why))) => self.find(Kind::Extra, field, "", "none", &why),
            (Kept::Whole, Ok(())) => self.find(Kind::Extra, field, "", "none", "a value"),
            (Kept::After(_), Ok(())) => self.report.not_comparable += 1,
        }
    }

    /// Compares the sealed windows with the fold up to the end of the log, because windows
    /// are stored before the offset moves.
    pub(super) fn sealed(&mut self, fold: &Fold, snapshot: &Snapshot) {
        let mut stored = BTreeSet::new();
        for (key, value) in &snapshot.sealed {
            let Some(name) = layout::parse_window_key(key) else {
                self.find(Kind::Extra, key, "", "none", "a key of unknown kind");
                continue;
            };
            let (span, expected) = (name.1, fold.sealed.get(&name));
            stored.insert(name);
            match (layout::sealed(value), expected) {
                (Err(Unreadable(why)), _) => {
                    self.find(Kind::Difference, key, "", "windows", &why);
                }
                _ if !self.kept.has(span) => self.report.not_comparable += 1,
                // Not applied yet: it may still be that of the log before.
                (Ok(_), Some(expected))
                    if snapshot.has_earlier_log && expected.by >= snapshot.offset =>
                {
                    self.report.not_comparable += 1;
                }
                (Ok(found), Some(expected)) => self.group(key, span, expected, found),
                // Sealed from the log before, and not expired yet.
                (Ok(_), None) if snapshot.has_earlier_log => self.report.not_comparable += 1,
                (Ok(_), None) => self.find(Kind::Extra, key, "", "none", "windows"),
            }
        }
        let is_applied = |sealed: &Sealed| sealed.by < snapshot.offset;
        for (name, sealed) in &fold.sealed {
            if stored.contains(name) || !is_applied(sealed) {
                continue;
            }
            let (device, span) = name;
            let retention = span.size.saturating_mul(self.keep);
            let expires = sealed.at.saturating_add(retention);
            if !self.kept.has(*span) {
                self.report.not_comparable += 1;
            } else if expires > snapshot.read_at.saturating_add(MARGIN) {
                let key = layout::window_key(device, *span);
                self.find(Kind::Missing, &key, "", "windows", "none");
            } else {
                self.report.expired += sealed.windows.len() as u64;
            }
        }
    }

    /// Compares the windows of one device that were sealed together.
    fn group(&mut self, key: &str, span: Span, expected: &Sealed, found: StoredWindows) {
        let times = |start, end| {
            [
                ("start", FieldValue::Signed(start)),
                ("end", FieldValue::Signed(end)),
            ]
        };
        let expected_times = times(span.start, span.end());
        self.fields(key, "", &expected_times, &times(found.start, found.end));
        let mut windows = self.by_name(key, found.windows);
        for (sensor, window) in &expected.windows {
            match windows.remove(sensor) {
                Some(found) => {
                    self.report.sealed_windows_compared += 1;
                    self.fields(key, sensor, &window.fields(), &found.fields());
                }
                None => self.find(Kind::Missing, key, sensor, "a window", "none"),
            }
        }
        for sensor in windows.into_keys() {
            self.find(Kind::Extra, key, &sensor, "none", "a window");
        }
    }

    /// Sorts the parts of a value by sensor; a duplicate sensor is a finding.
    fn by_name<T>(&mut self, key: &str, list: Vec<(String, T)>) -> BTreeMap<String, T> {
        let mut sensors = BTreeMap::new();
        for (name, part) in list {
            if sensors.contains_key(&name) {
                self.find(Kind::Extra, key, &name, "once", "twice");
            }
            sensors.insert(name, part);
        }
        sensors
    }

    /// Compares fields of the part `of` of a value.
    fn fields(
        &mut self,
        key: &str,
        of: &str,
        expected: &[(&'static str, FieldValue)],
        found: &[(&'static str, FieldValue)],
    ) {
        for ((name, expected), (_, found)) in expected.iter().zip(found) {
            if expected != found {
                let field = format!("{of} {name}");
                let (expected, found) = (expected.to_string(), found.to_string());
                self.find(Kind::Difference, key, field.trim(), &expected, &found);
            }
        }
    }

    /// Adds a finding; `key` and `field` may contain NUL.
    pub(super) fn find(&mut self, kind: Kind, key: &str, field: &str, expected: &str, found: &str) {
        self.report.find(Finding {
            kind,
            topic: self.partition.topic.to_string(),
            partition: self.partition.partition,
            key: layout::shown(key),
            field: layout::shown(field),
            expected: expected.to_owned(),
            found: found.to_owned(),
        });
    }
}

fn last_offset(offset: Option<i64>) -> [(&'static str, FieldValue); 1] {
    let offset = offset.map_or(FieldValue::Missing, FieldValue::Signed);
    [("last offset", offset)]
}

fn timing(timing: Option<Timing>) -> Vec<(&'static str, FieldValue)> {
    let ahead = timing.is_some_and(|timing| timing.ahead);
    moment(timing.map(|timing| timing.moment), Some(ahead))
}

/// The fields of a moment; the last one only if it is known whether it was ahead.
fn moment(moment: Option<Moment>, ahead: Option<bool>) -> Vec<(&'static str, FieldValue)> {
    let timestamp = moment.map_or(i64::MIN, |moment| moment.timestamp);
    let seq = moment.and_then(|moment| moment.seq);
    let ahead = ahead.map(|ahead| ("ahead", FieldValue::Unsigned(ahead.into())));
    let fields = [
        ("timestamp", FieldValue::Signed(timestamp)),
        ("seq", seq.map_or(FieldValue::Missing, FieldValue::Unsigned)),
    ];
    fields.into_iter().chain(ahead).collect()
}

fn place(place: &Option<Place>) -> [(&'static str, FieldValue); 3] {
    let part = |index: usize| text(place.as_ref().map(|place| place[index].clone()));
    [("building", part(0)), ("floor", part(1)), ("room", part(2))]
}

fn text(text: Option<String>) -> FieldValue {
    text.map_or(FieldValue::Missing, FieldValue::Text)
}

fn window_of(sensor: &str, span: Span) -> String {
    format!("{sensor} window {} of {} ms", span.start, span.size)
}

#[cfg(test)]
pub(super) mod tests;
