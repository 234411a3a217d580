//! The state of a partition after its records, by the rules of docs/state.md ("The
//! fold"). This is a second implementation that deliberately shares no code with the
//! consumer.

mod gone;
mod threshold;
mod time;

use std::collections::BTreeMap;

use iot_core::message::{DeviceMessage, Quality, Reading};

use super::layout::device_name;
use super::model::{Moment, Place, Span, Summary, Values, Window};
use gone::Last;
use threshold::Sample;
pub(crate) use threshold::{Crossing, Threshold};
pub(super) use time::PartitionTime;
pub(crate) use time::Timing;

/// Milliseconds in an hour, for slopes per hour.
const HOUR: f64 = 3_600_000.0;

/// The rules of windows and devices, in milliseconds, and of thresholds.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Lengths of the windows.
    pub(crate) sizes: Vec<i64>,
    /// Allowed lateness: how long after its end, by the device's watermark, a window
    /// accepts values.
    pub(crate) lateness: i64,
    /// How long a device is kept after its last message.
    pub(crate) retention: Option<i64>,
    /// Thresholds by sensor, for those of which alerts are compared.
    pub(crate) thresholds: BTreeMap<String, Threshold>,
}

/// A valid message of the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'m> {
    pub(crate) offset: i64,
    /// Record time, milliseconds since the Unix epoch; negative if the record has none.
    pub(crate) recorded: i64,
    pub(crate) tenant: &'m str,
    pub(crate) project: &'m str,
    pub(crate) message: &'m DeviceMessage<'m>,
}

/// The state of a partition, by device name.
#[derive(Debug)]
pub(crate) struct Fold {
    rules: Rules,
    pub(crate) devices: BTreeMap<String, Device>,
    pub(super) sealed: BTreeMap<(String, Span), Sealed>,
    pub(super) time: PartitionTime,
    last: Last,
}

#[derive(Debug, Default)]
pub(crate) struct Device {
    pub(crate) newest: Option<Timing>,
    pub(super) watermark: Option<i64>,
    pub(crate) place: Option<Place>,
    /// Whether the newest message itself has the place.
    pub(super) place_is_newest: bool,
    pub(crate) sensors: BTreeMap<String, Sensor>,
    /// Offset of its last message, if the partition had a time then.
    pub(super) heard: Option<i64>,
}

#[derive(Debug, Default)]
pub(crate) struct Sensor {
    pub(crate) newest: Option<Newest>,
    pub(super) open: BTreeMap<Span, Window>,
    /// If thresholds are given for it.
    pub(crate) crossing: Option<Crossing>,
}

/// The newest reading of a sensor.
#[derive(Debug, Clone)]
pub(crate) struct Newest {
    /// Offset of its record.
    pub(crate) offset: i64,
    pub(crate) timing: Timing,
    pub(crate) value: f64,
    pub(crate) unit: Option<String>,
    pub(crate) quality: Quality,
}

/// Windows of a device that were sealed together, by sensor.
#[derive(Debug)]
pub(super) struct Sealed {
    /// Offset of the record that sealed them.
    pub(super) by: i64,
    /// Record time of that record.
    pub(super) at: i64,
    pub(super) windows: BTreeMap<String, Summary>,
}

impl Fold {
    /// Whether devices are removed after a retention.
    pub(super) fn removes_devices(&self) -> bool {
        self.rules.retention.is_some()
    }

    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            devices: BTreeMap::new(),
            sealed: BTreeMap::new(),
            time: PartitionTime::default(),
            last: Last::default(),
        }
    }

    /// Applies the next message of the log, with values in the units of known sensors.
    pub(crate) fn take(&mut self, entry: &Entry<'_>) {
        let message = entry.message;
        let moment = Moment {
            timestamp: message.timestamp,
            seq: message.seq,
        };
        let name = device_name(entry.tenant, entry.project, &message.device_id);
        let device = self.devices.entry(name.clone()).or_default();
        // A duplicate of the newest message with a sequence number.
        let newest = device.newest.map(|newest| newest.moment);
        if moment.seq.is_some() && newest == Some(moment) {
            return;
        }
        let timing = Timing::new(moment, entry.recorded);
        device.locate(timing, message);
        let age_before = self.time.age;
        if self
            .time
            .take(entry.offset, entry.recorded, self.rules.retention)
        {
            if self.time.age < age_before {
                self.last.limit(self.time.age);
            }
            self.last
                .moved(&name, device.heard, entry.offset, self.time.age);
            device.heard = Some(entry.offset);
        }
        let progress = timing.progress(entry.recorded);
        let watermark = device.watermark.unwrap_or(progress).max(progress);
        device.watermark = Some(watermark);
        let over = |span: &Span| self.rules.is_over(*span, watermark);
        for (sensor, state) in &mut device.sensors {
            for (span, window) in state.open.extract_if(.., |span, _| over(span)) {
                let sealed = self.sealed.entry((name.clone(), span));
                let sealed = sealed.or_insert_with(|| Sealed::new(entry));
                // The device was removed and has come back: these are the windows of another.
                if sealed.by != entry.offset {
                    *sealed = Sealed::new(entry);
                }
                sealed.windows.insert(sensor.clone(), window.summary());
            }
        }
        for reading in &message.readings {
            let state = device.sensors.entry(reading.sensor.to_string());
            let state = state.or_default();
            state.take(&self.rules, watermark, (entry, timing), reading);
        }
        if let Some(retention) = self.rules.retention {
            for gone in self.last.gone(self.time.age, retention) {
                self.devices.remove(&gone);
            }
        }
    }
}

impl Rules {
    fn span(&self, size: i64, timestamp: i64) -> Span {
        Span {
            size,
            start: timestamp.saturating_sub(timestamp.rem_euclid(size)),
        }
    }

    /// Whether a window accepts no more values.
    fn is_over(&self, span: Span, watermark: i64) -> bool {
        watermark >= span.end().saturating_add(self.lateness)
    }
}

impl Device {
    /// Updates the newest message and the place of the device.
    fn locate(&mut self, timing: Timing, message: &DeviceMessage<'_>) {
        if !timing.follows(self.newest) {
            return;
        }
        self.newest = Some(timing);
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
        (entry, timing): (&Entry<'_>, Timing),
        reading: &Reading<'_>,
    ) {
        let moment = timing.moment;
        let thresholds = rules.thresholds.get(&*reading.sensor);
        self.crossing = self.crossing.or(thresholds.map(|_| Crossing::default()));
        if timing.follows(self.newest.as_ref().map(|newest| newest.timing)) {
            let usable = thresholds.filter(|_| reading.quality != Quality::Bad);
            if let (Some(crossing), Some(thresholds)) = (&mut self.crossing, usable) {
                let sample = Sample {
                    offset: entry.offset,
                    timestamp: moment.timestamp,
                    progress: timing.progress(entry.recorded),
                    value: reading.value,
                };
                crossing.take(thresholds, sample);
            }
            self.newest = Some(Newest {
                offset: entry.offset,
                timing,
                value: reading.value,
                unit: reading.unit.as_deref().map(str::to_owned),
                quality: reading.quality,
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
            let after = moment.timestamp.saturating_sub(span.start);
            let window = self.open.entry(span);
            let window = window.or_insert_with(|| Window::empty(span));
            window.add(after, reading.value);
        }
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

impl Window {
    fn empty(span: Span) -> Self {
        Self {
            span,
            values: Values {
                count: 0,
                min: 0.0,
                max: 0.0,
                mean: 0.0,
                squared_deviations: 0.0,
                first: 0.0,
                last: 0.0,
            },
            first_at: 0,
            last_at: 0,
            time_mean: 0.0,
            time_squared_deviations: 0.0,
            deviation_products: 0.0,
        }
    }

    /// Adds a value, `after` milliseconds from the start of the window: Welford's
    /// recurrence (Technometrics 4, 1962) for values and times, Pebay's (SAND2008-6212,
    /// 2008) for their products. The order of operations matters, because each one rounds.
    fn add(&mut self, after: i64, value: f64) {
        // Exact, because windows are shorter than 2^53 ms.
        let time = after as f64;
        let of = &mut self.values;
        of.count += 1;
        if of.count == 1 {
            (of.min, of.max, of.mean) = (value, value, value);
            (of.first, of.last) = (value, value);
            (self.first_at, self.last_at) = (after, after);
            self.time_mean = time;
            return;
        }
        // The order of 0 and -0 is undefined; both sides use `f64::min` and `f64::max`.
        of.min = of.min.min(value);
        of.max = of.max.max(value);
        let count = of.count as f64;
        let time_from_old = time - self.time_mean;
        self.time_mean += time_from_old / count;
        let time_from_new = time - self.time_mean;
        self.time_squared_deviations += time_from_old * time_from_new;
        let from_old = value - of.mean;
        of.mean += from_old / count;
        let from_new = value - of.mean;
        of.squared_deviations += from_old * from_new;
        self.deviation_products += time_from_old * from_new;
        // Among values of the same time, `first` is the earliest in the log and `last` the
        // latest.
        if after < self.first_at {
            (of.first, self.first_at) = (value, after);
        }
        if after >= self.last_at {
            (of.last, self.last_at) = (value, after);
        }
    }

    fn summary(self) -> Summary {
        let slope = self.deviation_products / self.time_squared_deviations * HOUR;
        Summary {
            values: self.values,
            slope: (self.time_squared_deviations > 0.0).then_some(slope),
        }
    }
}

#[cfg(test)]
mod tests;
