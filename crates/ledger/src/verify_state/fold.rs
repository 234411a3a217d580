//! What the state of a partition must be after its records: the rules of
//! docs/state.md ("The fold"), written down a second time and on purpose not shared
//! with the consumer.

use std::collections::BTreeMap;

use iot_core::message::{DeviceMessage, Quality, Reading};
use iot_core::sensor;

use super::layout::device_name;
use super::model::{Moment, Place, Span, Window};

/// How windows are cut; all in milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Lengths of the windows.
    pub(super) sizes: Vec<i64>,
    /// How long after its end, by the device's own time, a window takes values.
    pub(super) lateness: i64,
}

/// A message that counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'m> {
    pub(super) offset: i64,
    /// Kafka's time of the record, milliseconds since the epoch; negative if it has none.
    pub(super) recorded: i64,
    pub(super) tenant: &'m str,
    pub(super) project: &'m str,
    pub(super) message: &'m DeviceMessage<'m>,
}

/// The state of a partition, by names of devices.
#[derive(Debug)]
pub(super) struct Fold {
    rules: Rules,
    pub(super) devices: BTreeMap<String, Device>,
    pub(super) sealed: BTreeMap<(String, Span), Sealed>,
}

#[derive(Debug, Default)]
pub(super) struct Device {
    pub(super) newest: Option<Moment>,
    pub(super) watermark: Option<i64>,
    pub(super) place: Option<Place>,
    /// The newest message itself says where the device is.
    pub(super) place_is_newest: bool,
    pub(super) sensors: BTreeMap<String, Sensor>,
}

#[derive(Debug, Default)]
pub(super) struct Sensor {
    pub(super) newest: Option<Newest>,
    pub(super) open: BTreeMap<Span, Tally>,
}

/// The newest reading of a sensor.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    pub(super) moment: Moment,
    pub(super) value: f64,
    pub(super) unit: Option<String>,
    pub(super) quality: Quality,
    /// The value and its unit are not known here.
    pub(super) unsure: bool,
}

/// A window as it fills.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    pub(super) window: Window,
    /// It has a value that is not known here.
    pub(super) unsure: bool,
}

/// Windows of a device that were sealed together, by sensor.
#[derive(Debug)]
pub(super) struct Sealed {
    /// Offset of the record that sealed them, and its time in Kafka.
    pub(super) by: i64,
    pub(super) at: i64,
    pub(super) windows: BTreeMap<String, Tally>,
}

impl Fold {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            devices: BTreeMap::new(),
            sealed: BTreeMap::new(),
        }
    }

    /// Takes the next message of the log. Returns how many of its readings are in a
    /// unit that is not the sensor's own, so that their value is not known here.
    pub(super) fn take(&mut self, entry: &Entry<'_>) -> u64 {
        let message = entry.message;
        let moment = Moment {
            timestamp: message.timestamp,
            seq: message.seq,
        };
        let name = device_name(entry.tenant, entry.project, &message.device_id);
        let device = self.devices.entry(name.clone()).or_default();
        // The newest numbered message once more: sent again, not measured again.
        if moment.seq.is_some() && device.newest == Some(moment) {
            return 0;
        }
        device.locate(moment, message);
        let watermark = device.watermark.max(Some(moment.timestamp));
        device.watermark = watermark;
        let watermark = watermark.unwrap_or(moment.timestamp);
        let over = |span: &Span| self.rules.is_over(*span, watermark);
        for (sensor, state) in &mut device.sensors {
            for (span, tally) in state.open.extract_if(.., |span, _| over(span)) {
                let sealed = self.sealed.entry((name.clone(), span));
                let sealed = sealed.or_insert_with(|| Sealed::new(entry));
                sealed.windows.insert(sensor.clone(), tally);
            }
        }
        let mut unsure = 0;
        for reading in &message.readings {
            let state = device.sensors.entry(reading.sensor.to_string());
            let in_doubt = has_other_unit(reading);
            unsure += u64::from(in_doubt);
            let state = state.or_default();
            state.take(&self.rules, watermark, moment, reading, in_doubt);
        }
        unsure
    }
}

impl Rules {
    fn span(&self, size: i64, timestamp: i64) -> Span {
        Span {
            size,
            start: timestamp.saturating_sub(timestamp.rem_euclid(size)),
        }
    }

    /// Whether a window takes no more values.
    fn is_over(&self, span: Span, watermark: i64) -> bool {
        let last = span.start.saturating_add(span.size);
        watermark >= last.saturating_add(self.lateness)
    }
}

impl Device {
    /// What a message says of the device itself.
    fn locate(&mut self, moment: Moment, message: &DeviceMessage<'_>) {
        if self.newest.is_some_and(|newest| moment < newest) {
            return;
        }
        self.newest = Some(moment);
        self.place_is_newest = message.location.is_some();
        if let Some(place) = &message.location {
            let parts = [&place.building, &place.floor, &place.room];
            self.place = Some(parts.map(ToString::to_string));
        }
    }
}

impl Sensor {
    fn take(
        &mut self,
        rules: &Rules,
        watermark: i64,
        moment: Moment,
        reading: &Reading<'_>,
        unsure: bool,
    ) {
        let outdated = self.newest.as_ref().is_some_and(|n| moment < n.moment);
        if !outdated {
            let standard = sensor::lookup(&reading.sensor).map(|known| known.unit);
            self.newest = Some(Newest {
                moment,
                value: reading.value,
                unit: reading.unit.as_deref().or(standard).map(str::to_owned),
                quality: reading.quality,
                unsure,
            });
        }
        if reading.quality == Quality::Bad {
            return;
        }
        for size in &rules.sizes {
            let span = rules.span(*size, moment.timestamp);
            if rules.is_over(span, watermark) {
                continue;
            }
            let tally = self.open.entry(span).or_insert_with(|| Tally::new(span));
            tally.unsure |= unsure;
            tally.window.count_in(moment.timestamp, reading.value);
        }
    }
}

/// A standard sensor that reports in a unit other than its own.
fn has_other_unit(reading: &Reading<'_>) -> bool {
    let standard = sensor::lookup(&reading.sensor).map(|known| known.unit);
    match (standard, reading.unit.as_deref()) {
        (Some(standard), Some(unit)) => unit != standard,
        _ => false,
    }
}

impl Sealed {
    fn new(entry: &Entry<'_>) -> Self {
        let at = if entry.recorded < 0 {
            entry.message.timestamp
        } else {
            entry.recorded
        };
        Self {
            by: entry.offset,
            at,
            windows: BTreeMap::new(),
        }
    }
}

impl Tally {
    fn new(span: Span) -> Self {
        Self {
            window: Window::empty(span),
            unsure: false,
        }
    }
}

impl Window {
    fn empty(span: Span) -> Self {
        Self {
            start: span.start,
            end: span.start.saturating_add(span.size),
            count: 0,
            min: 0.0,
            max: 0.0,
            mean: 0.0,
            squares: 0.0,
            first: 0.0,
            last: 0.0,
            first_at: 0,
            last_at: 0,
        }
    }

    /// Welford's recurrence (Technometrics 4, 1962), each operation rounded as
    /// written: another order gives other bits.
    fn count_in(&mut self, timestamp: i64, value: f64) {
        self.count += 1;
        if self.count == 1 {
            (self.min, self.max, self.mean) = (value, value, value);
            (self.first, self.last) = (value, value);
            (self.first_at, self.last_at) = (timestamp, timestamp);
            return;
        }
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        let from_old = value - self.mean;
        self.mean += from_old / self.count as f64;
        let from_new = value - self.mean;
        self.squares += from_old * from_new;
        // Of the same time the first to come is first, and the last to come last.
        if timestamp < self.first_at {
            (self.first, self.first_at) = (value, timestamp);
        }
        if timestamp >= self.last_at {
            (self.last, self.last_at) = (value, timestamp);
        }
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
