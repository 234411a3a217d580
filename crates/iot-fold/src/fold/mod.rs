//! The state of one partition as a pure function of its log: no clock, no
//! randomness, and no trace of how records were cut into batches.

mod changes;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod limits_tests;
mod silence;
#[cfg(test)]
mod silence_tests;
#[cfg(test)]
pub(crate) mod tests;
mod tracked;

use std::collections::{BTreeMap, HashMap};

use iot_core::message::{DeviceMessage, Quality, Reading};

use crate::alert::{self, AlertState, Moment, Transition};
use crate::detect::{DetectRules, Verdict};
use crate::layout;
use crate::limits::LimitRules;
use crate::model::{Alert, AlertKind, DeviceKey};
use crate::names::Names;
use crate::pack::UnpackError;
use crate::refusal::Refusal;
use crate::sealed::{DeviceWindows, SEALED_BYTES, Sealed};
use crate::state::DeviceState;
use crate::watch::Watch;
use crate::window::{Added, WindowRules};
pub use changes::{Change, Updates};
use tracked::{Tracked, check_sensors};

/// Lengths of windows at the same time, at most.
pub const MOST_SIZES: usize = 8;

/// What the fold goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct FoldRules {
    /// How windows are cut.
    pub windows: WindowRules,
    /// What detectors go by.
    pub detect: DetectRules,
    /// Beyond which values there is an alert.
    pub limits: LimitRules,
    /// After how many milliseconds a device is silent; `None` if it doesn't matter.
    pub silence: Option<i64>,
    /// Devices in the partition, at most.
    pub devices: usize,
    /// Sensors of a device, at most.
    pub sensors: usize,
}

/// A valid message and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Event<'m> {
    pub offset: i64,
    /// When Kafka recorded it, in milliseconds since the epoch, if it says so.
    pub recorded: Option<i64>,
    pub tenant: &'m str,
    pub project: &'m str,
    pub message: &'m DeviceMessage<'m>,
}

/// What an event did, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Folded {
    /// Readings taken in.
    pub readings: u64,
    /// Readings older than the newest known: counted into windows only.
    pub stale: u64,
    /// Readings too late for their window, by its length, shortest first.
    pub late: [u64; MOST_SIZES],
    /// The same message a second time in a row: nothing was done.
    pub duplicates: u64,
    /// Alerts raised, by number of their kind.
    pub raised: [u64; AlertKind::ALL.len()],
    /// Alerts cleared, likewise.
    pub cleared: [u64; AlertKind::ALL.len()],
}

impl Folded {
    /// What both did.
    pub fn add(&mut self, other: &Self) {
        self.readings += other.readings;
        self.stale += other.stale;
        self.duplicates += other.duplicates;
        let counts = [
            (&mut self.late[..], &other.late[..]),
            (&mut self.raised, &other.raised),
            (&mut self.cleared, &other.cleared),
        ];
        for (mine, others) in counts {
            mine.iter_mut().zip(others).for_each(|(a, b)| *a += b);
        }
    }
}

/// The state of one partition.
#[derive(Debug)]
pub struct Fold {
    rules: FoldRules,
    /// Begins the ids of alerts: `<topic>:<partition>`.
    origin: String,
    devices: Vec<Tracked>,
    watch: Watch,
    index: HashMap<String, usize>,
    names: Names,
    /// Key of the event at hand; kept for its memory.
    lookup: String,
    /// Devices with something to store or to tell.
    unsaved: Vec<usize>,
    untold: Vec<usize>,
    alerts: Vec<Alert>,
    /// Sealed windows to store.
    sealed: Vec<Sealed>,
    /// About the bytes of what is to store.
    changed_bytes: usize,
}

impl Fold {
    /// The state before the first record.
    pub fn new(rules: FoldRules, topic: &str, partition: i32) -> Self {
        Self {
            watch: Watch::new(rules.silence),
            rules,
            origin: format!("{topic}:{partition}"),
            devices: Vec::new(),
            index: HashMap::new(),
            names: Names::default(),
            lookup: String::new(),
            unsaved: Vec::new(),
            untold: Vec::new(),
            alerts: Vec::new(),
            sealed: Vec::new(),
            changed_bytes: 0,
        }
    }

    /// The state that a store holds.
    ///
    /// # Errors
    /// Values that this version can't read.
    pub fn restore(
        rules: FoldRules,
        topic: &str,
        partition: i32,
        entries: &[(String, Vec<u8>)],
    ) -> Result<Self, UnpackError> {
        let mut fold = Self::new(rules, topic, partition);
        for (name, bytes) in entries {
            let mut state = DeviceState::unpack(name, bytes)?;
            state.share(&mut fold.names);
            let key = &state.key;
            write_key(&mut fold.lookup, &key.tenant, &key.project, &key.device);
            fold.index.insert(fold.lookup.clone(), fold.devices.len());
            fold.devices.push(Tracked::new(state, &fold.rules));
        }
        fold.watch.restore(fold.devices.iter().map(|d| &d.state));
        Ok(fold)
    }

    /// How many devices there are.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Takes in one event.
    ///
    /// # Errors
    /// Refused because of a limit; the state is then as before.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<Folded, Refusal> {
        let at = self.find(event)?;
        let message = event.message;
        let device = &mut self.devices[at];
        let state = &mut device.state;
        let moment = (message.timestamp, message.seq);
        if message.seq.is_some() && moment == (state.timestamp, state.seq) {
            return Ok(Folded {
                duplicates: 1,
                ..Folded::default()
            });
        }
        if moment >= (state.timestamp, state.seq) {
            (state.timestamp, state.seq) = moment;
            if let Some(location) = &message.location
                && state.move_to(location)
            {
                state.share(&mut self.names);
                device.find_limits(&self.rules);
            }
        }
        self.save(at);
        self.tell(at);
        let mut folded = Folded::default();
        self.advance(at, event);
        self.hear(at, event, &mut folded);
        for reading in &message.readings {
            self.read(at, event, reading, &mut folded);
        }
        self.reveal(&mut folded);
        Ok(folded)
    }

    /// The device of an event, a new one if need be and allowed.
    fn find(&mut self, event: &Event<'_>) -> Result<usize, Refusal> {
        let readings = &event.message.readings;
        write_key(
            &mut self.lookup,
            event.tenant,
            event.project,
            &event.message.device_id,
        );
        match self.index.get(self.lookup.as_str()) {
            Some(at) => {
                let sensors = &self.devices[*at].state.sensors;
                check_sensors(sensors, readings, self.rules.sensors)?;
                Ok(*at)
            }
            None if self.devices.len() >= self.rules.devices => Err(Refusal::TooManyDevices),
            None => {
                check_sensors(&[], readings, self.rules.sensors)?;
                let mut state = DeviceState::new(DeviceKey {
                    tenant: event.tenant.into(),
                    project: event.project.into(),
                    device: (*event.message.device_id).into(),
                });
                state.share(&mut self.names);
                self.index.insert(self.lookup.clone(), self.devices.len());
                self.devices.push(Tracked::new(state, &self.rules));
                Ok(self.devices.len() - 1)
            }
        }
    }

    /// Moves the watermark of a device and seals what is over.
    fn advance(&mut self, at: usize, event: &Event<'_>) {
        let timestamp = event.message.timestamp;
        let device = &mut self.devices[at];
        device.state.watermark = device.state.watermark.max(timestamp);
        let watermark = device.state.watermark;
        if watermark < device.next_seal {
            return;
        }
        // By the log and not by a clock, so that each replay says the same.
        let recorded = event.recorded.filter(|at| *at >= 0).unwrap_or(timestamp);
        let rules = &self.rules.windows;
        let mut sealed = BTreeMap::new();
        for sensor in &mut device.state.sensors {
            for window in sensor.windows.seal(rules, watermark) {
                let same = sealed.entry((window.size, window.start));
                let same = same.or_insert_with(Vec::new);
                self.changed_bytes += SEALED_BYTES + sensor.name.len();
                same.push((sensor.name.clone(), window));
            }
        }
        device.find_next_seal(rules);
        let sealed = sealed.into_iter();
        let sealed = sealed.map(|(when, windows)| Sealed::new(at, when, rules, recorded, windows));
        self.sealed.extend(sealed);
    }

    fn read(&mut self, at: usize, event: &Event<'_>, reading: &Reading<'_>, folded: &mut Folded) {
        let device = &mut self.devices[at];
        let number = device.sensor(&reading.sensor).unwrap_or_else(|| {
            let number = device.add_sensor(&reading.sensor, &self.rules);
            device.state.sensors[number].share(&mut self.names);
            self.changed_bytes += device.state.sensors[number].packed_size();
            number
        });
        let (sensor, marks) = (&mut device.state.sensors[number], &mut device.marks[number]);
        let moment = (event.message.timestamp, event.message.seq);
        let usable = reading.quality != Quality::Bad;
        folded.readings += 1;
        if usable {
            let (rules, watermark) = (&self.rules.windows, device.state.watermark);
            for (size, late) in rules.sizes.iter().zip(&mut folded.late) {
                let windows = &mut sensor.windows;
                match windows.add(rules, *size, watermark, moment.0, reading.value) {
                    Added::Counted => {}
                    Added::Late => *late += 1,
                    Added::Opened(seals_at) => {
                        device.next_seal = device.next_seal.min(seals_at);
                        self.changed_bytes += layout::WINDOW_BYTES;
                    }
                }
            }
        }
        if moment < (sensor.timestamp, sensor.seq) {
            folded.stale += 1;
            return;
        }
        (sensor.timestamp, sensor.seq) = moment;
        if sensor.take(reading) {
            sensor.share(&mut self.names);
        }
        marks.untold = true;
        if usable {
            self.detect(at, number, event, folded);
        }
    }

    /// Lets detectors look at a sensor's newest value.
    fn detect(&mut self, at: usize, number: usize, event: &Event<'_>, folded: &mut Folded) {
        let Tracked { state, marks, .. } = &mut self.devices[at];
        let (sensor, marks) = (&mut state.sensors[number], &marks[number]);
        let side = alert::side(&sensor.alerts);
        let (rules, limits) = (&self.rules.detect, (marks.limits, side));
        let verdicts = sensor
            .detectors
            .look(rules, marks.kinds, limits, sensor.value);
        let is_quiet = verdicts.iter().all(|verdict| *verdict == Verdict::Normal);
        if is_quiet && !sensor.alerts.iter().any(AlertState::is_active) {
            return;
        }
        let moment = Moment {
            offset: event.offset,
            timestamp: sensor.timestamp,
            value: sensor.value,
        };
        alert::measure_by(&mut sensor.alerts, marks.limits);
        for (kind, verdict) in AlertKind::ALL.into_iter().zip(verdicts) {
            if kind == AlertKind::Threshold && verdict.is_beyond_other(side) {
                self.observe((at, number), kind, Verdict::Normal, moment, folded);
            }
            self.observe((at, number), kind, verdict, moment, folded);
        }
    }

    /// Takes what a detector says of a sensor's newest value into its alert.
    fn observe(
        &mut self,
        (at, number): (usize, usize),
        kind: AlertKind,
        verdict: Verdict,
        moment: Moment,
        folded: &mut Folded,
    ) {
        let state = &mut self.devices[at].state;
        let sensor = &mut state.sensors[number];
        match alert::observe(&mut sensor.alerts, kind, verdict, moment) {
            Transition::None | Transition::Folded => return,
            Transition::Raised => {
                folded.raised[kind as usize] += 1;
                self.changed_bytes += layout::ALERT_BYTES;
            }
            Transition::Cleared => folded.cleared[kind as usize] += 1,
            Transition::Repeated => {}
        }
        let sensor = &state.sensors[number];
        let alerts = sensor.alerts.iter().filter(|alert| alert.kind == kind);
        let alerts = alerts.map(|alert| state.describe_alert(sensor, alert, &self.origin));
        self.alerts.extend(alerts);
    }

    /// Remembers that a device has something to store.
    fn save(&mut self, at: usize) {
        let device = &mut self.devices[at];
        if !std::mem::replace(&mut device.unsaved, true) {
            self.unsaved.push(at);
            self.changed_bytes += device.state.packed_size();
        }
    }

    /// Remembers that a device has something to tell.
    fn tell(&mut self, at: usize) {
        let device = &mut self.devices[at];
        if !std::mem::replace(&mut device.untold, true) {
            self.untold.push(at);
        }
    }
}

/// The parts can't hold the separator: validation refuses control characters.
fn write_key(out: &mut String, tenant: &str, project: &str, device: &str) {
    out.clear();
    for part in [tenant, "\0", project, "\0", device] {
        out.push_str(part);
    }
}
