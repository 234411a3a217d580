//! The state of one partition as a pure function of its log: no clock, no
//! randomness, and no trace of how records were cut into batches.

mod alerts;
mod changes;
mod doubt;
mod retention;
mod silence;
#[cfg(test)]
mod tests;
mod tracked;
mod updates;

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;
use iot_core::message::{DeviceMessage, Quality, Reading};

use crate::detect::DetectRules;
use crate::kind::AlertKind;
use crate::layout::{self, SEALED_BYTES, TIME_BYTES, TIME_KEY, UnpackError};
use crate::limits::LimitRules;
use crate::log_time::LogTime;
use crate::model::DeviceKey;
use crate::names::Names;
use crate::new_values::Numbers;
use crate::refusal::Refusal;
use crate::sealed::{DeviceWindows, Sealed};
use crate::stamp::Stamp;
use crate::state::DeviceState;
use crate::watch::Watch;
use crate::window::{Added, WindowRules};
pub use changes::Changes;
use tracked::{Tracked, excess};
pub use updates::{Change, Contents, Update, Updates};

/// Maximum number of window sizes.
pub const MOST_SIZES: usize = 8;

/// The rules of the fold. All partitions and all replicas must use the same rules.
#[derive(Debug, Clone, PartialEq)]
pub struct FoldRules {
    /// Lengths of windows, and how long they take values.
    pub windows: WindowRules,
    /// What detectors look for.
    pub detect: DetectRules,
    /// The limits of sensors.
    pub limits: LimitRules,
    /// After how many milliseconds without a message a device is silent; `None` turns this
    /// off.
    pub silence: Option<i64>,
    /// For how many milliseconds after its last message a device is kept; `None` keeps all.
    pub retention: Option<i64>,
    /// The most devices in a partition.
    pub devices: usize,
    /// The most sensors of a device.
    pub sensors: usize,
}

/// A valid message of a record, and the device's tenant and project.
#[derive(Debug, Clone, Copy)]
pub struct Event<'m> {
    /// Offset of the record.
    pub offset: i64,
    /// Time of the record, in milliseconds since the epoch, if it has one.
    pub recorded: Option<i64>,
    /// The tenant, without control characters.
    pub tenant: &'m str,
    /// The tenant's project, without control characters.
    pub project: &'m str,
    /// The message. The caller has validated it: names without control characters, finite
    /// values in the units of the catalogue.
    pub message: &'m DeviceMessage<'m>,
    /// Whether the message was retained by the MQTT broker and has no time: its timestamp is that
    /// of the record, and its values may be much older. It sets only values that do not exist.
    pub is_undated: bool,
    /// Sensors whose state the message gives in a word that stands for no number. If the device
    /// has such a sensor, its value becomes uncertain.
    pub unmatched: &'m [String],
}

/// What events changed, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Folded {
    /// Readings.
    pub readings: u64,
    /// Readings older than the newest one of their sensor, which only windows count.
    pub stale: u64,
    /// Readings that came after their window was sealed, by length of the window, shortest
    /// first.
    pub late: [u64; MOST_SIZES],
    /// Messages that repeat the newest one of their device and changed nothing.
    pub duplicates: u64,
    /// Devices that were removed because they sent nothing for longer than the retention.
    pub removed: u64,
    /// Alerts that were raised, by number of their kind.
    pub raised: [u64; AlertKind::ALL.len()],
    /// Alerts that were cleared, by number of their kind.
    pub cleared: [u64; AlertKind::ALL.len()],
}

/// The state of one partition, and what has changed in it since its changes were last taken.
#[derive(Debug)]
pub struct Fold {
    rules: FoldRules,
    /// The start of the ids of alerts: `<topic>:<partition>`.
    origin: String,
    devices: Vec<Tracked>,
    /// Places in `devices` that are free again.
    vacant: Vec<usize>,
    watch: Watch,
    index: HashMap<String, usize, RandomState>,
    names: Names,
    /// The key of the current event; kept to reuse its memory.
    lookup: String,
    /// Numbers of devices with changes for the store.
    unsaved: Vec<usize>,
    /// Whether the time of the partition has changed for the store.
    time_unsaved: bool,
    /// Changes for clients.
    updates: Updates,
    numbers: Numbers,
    /// Whether nobody wants to know of changes of devices.
    is_unobserved: bool,
    /// Sealed windows for the store.
    sealed: Vec<Sealed>,
    /// Keys of removed devices for the store.
    removed: Vec<String>,
    /// Approximate bytes of the changes for the store.
    changed_bytes: usize,
}

impl Fold {
    /// The state of a partition before its first record.
    pub fn new(rules: FoldRules, topic: &str, partition: i32) -> Self {
        Self {
            watch: Watch::new(rules.silence, rules.retention),
            rules,
            origin: format!("{topic}:{partition}"),
            devices: Vec::new(),
            vacant: Vec::new(),
            index: HashMap::default(),
            names: Names::default(),
            lookup: String::new(),
            unsaved: Vec::new(),
            time_unsaved: false,
            updates: Updates::default(),
            numbers: Numbers::default(),
            is_unobserved: false,
            sealed: Vec::new(),
            removed: Vec::new(),
            changed_bytes: 0,
        }
    }

    /// Restores the state from the live values that a store holds (key and bytes, as in
    /// [`Changes::live`], in any order). `rules` apply from the next event. If the detection
    /// rules have changed, detectors start again and sensor alerts are cleared; if
    /// `rules.silence` is `None`, silence alerts are cleared.
    ///
    /// # Errors
    /// This version cannot read a key or a value.
    pub fn restore(
        rules: FoldRules,
        topic: &str,
        partition: i32,
        entries: &[(String, Vec<u8>)],
    ) -> Result<Self, UnpackError> {
        let mut fold = Self::new(rules, topic, partition);
        let (mut time, mut is_older) = (None, false);
        for (name, bytes) in entries {
            if name == TIME_KEY {
                time = Some(LogTime::unpack(bytes)?);
                continue;
            }
            is_older |= layout::is_without_time(bytes);
            let mut state = DeviceState::unpack(name, bytes)?;
            state.share(&mut fold.names);
            let key = &state.key;
            write_key(&mut fold.lookup, &key.tenant, &key.project, &key.device);
            fold.index.insert(fold.lookup.clone(), fold.devices.len());
            fold.devices.push(Tracked::new(state, &fold.rules));
        }
        fold.watch
            .restore(time, is_older, fold.devices.iter().map(|d| &d.state));
        Ok(fold)
    }

    /// How many devices the partition has.
    pub fn devices(&self) -> usize {
        self.index.len()
    }

    /// Applies the next event, and adds what it changed to `folded`. Offsets must increase; they
    /// may have gaps.
    ///
    /// # Errors
    /// A limit of [`FoldRules`] refuses the message. The state has not changed then.
    pub fn apply(&mut self, event: &Event<'_>, folded: &mut Folded) -> Result<(), Refusal> {
        if event.message.readings.is_empty() && !self.has_unmatched(event) {
            return Err(Refusal::NoReadings);
        }
        let at = self.find(event)?;
        if event.is_undated {
            self.fill(at, event, folded);
            return Ok(());
        }
        let message = event.message;
        let device = &mut self.devices[at];
        let state = &mut device.state;
        let stamp = Stamp::new(message, event.recorded);
        if state.newest.is_repeated_by(stamp) {
            folded.duplicates += 1;
            return Ok(());
        }
        let (mut described, newest) = (state.newest == Stamp::NONE, state.newest.yields_to(stamp));
        if newest {
            state.newest = stamp;
            if let Some(location) = &message.location
                && state.move_to(location)
            {
                state.share(&mut self.names);
                device.find_limits(&self.rules);
                described = true;
            }
        }
        self.mark_unsaved(at);
        let noted = self.note(described, newest);
        self.advance(at, event, stamp);
        self.hear(at, event, folded);
        for reading in &message.readings {
            self.read(at, (event, stamp), reading, folded);
        }
        for sensor in event.unmatched {
            self.doubt(at, sensor, stamp);
        }
        self.show_message(at, event, noted);
        self.reveal(folded);
        self.retire(folded);
        Ok(())
    }

    /// The places in the message of the readings that the limit of sensors does not allow: they
    /// are of new sensors, for which there is no room. Ascending.
    pub fn excess(&self, event: &Event<'_>) -> Vec<usize> {
        let mut key = String::new();
        let message = event.message;
        write_key(&mut key, event.tenant, event.project, &message.device_id);
        let device = self.index.get(&key).map(|at| &self.devices[*at]);
        let known = device.map_or(&[][..], |device| &device.state.sensors);
        excess(known, &message.readings, self.rules.sensors)
    }

    /// The device of an event, which may be a new one.
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
                if !excess(sensors, readings, self.rules.sensors).is_empty() {
                    return Err(Refusal::TooManySensors);
                }
                Ok(*at)
            }
            None if self.index.len() >= self.rules.devices => Err(Refusal::TooManyDevices),
            None if !excess(&[], readings, self.rules.sensors).is_empty() => {
                Err(Refusal::TooManySensors)
            }
            None => {
                let mut state = DeviceState::new(DeviceKey {
                    tenant: event.tenant.into(),
                    project: event.project.into(),
                    device: (*event.message.device_id).into(),
                });
                state.share(&mut self.names);
                let device = Tracked::new(state, &self.rules);
                let at = self.vacant.pop().unwrap_or(self.devices.len());
                match self.devices.get_mut(at) {
                    Some(place) => *place = device,
                    None => self.devices.push(device),
                }
                // It may have been removed since the last step.
                if !self.removed.is_empty() {
                    let key = layout::device_key(&self.devices[at].state.key);
                    self.removed.retain(|removed| *removed != key);
                }
                self.index.insert(self.lookup.clone(), at);
                Ok(at)
            }
        }
    }

    /// Advances the watermark of a device and seals its windows that are over.
    fn advance(&mut self, at: usize, event: &Event<'_>, stamp: Stamp) {
        let device = &mut self.devices[at];
        let watermark = device.state.watermark.max(stamp.reaches(event.recorded));
        device.state.watermark = watermark;
        if watermark < device.next_seal {
            return;
        }
        // The time of the log and not of a clock, so that each replay gives the same result.
        let recorded = event.recorded.filter(|at| *at >= 0);
        let recorded = recorded.unwrap_or(stamp.timestamp);
        let rules = &self.rules.windows;
        let mut sealed = BTreeMap::<_, Vec<_>>::new();
        for sensor in &mut device.state.sensors {
            for window in sensor.windows.seal(rules, watermark) {
                self.changed_bytes += SEALED_BYTES + sensor.name.len();
                let together = sealed.entry((window.size, window.start)).or_default();
                together.push((sensor.name.clone(), window));
            }
        }
        device.find_next_seal(rules);
        for ((size, start), mut sensors) in sealed {
            sensors.sort_by(|a, b| a.0.cmp(&b.0));
            let sealed = Sealed {
                key: device.state.key.clone(),
                size,
                start,
                expires: recorded.saturating_add(rules.retention(i64::from(size))),
                sensors,
            };
            self.sealed.push(sealed);
        }
    }

    /// Takes a reading into the windows, and into the newest value if it is not older.
    fn read(
        &mut self,
        at: usize,
        (event, stamp): (&Event<'_>, Stamp),
        reading: &Reading<'_>,
        folded: &mut Folded,
    ) {
        let number = self.sensor(at, &reading.sensor);
        let device = &mut self.devices[at];
        let sensor = &mut device.state.sensors[number];
        let usable = reading.quality != Quality::Bad;
        folded.readings += 1;
        if usable {
            let (rules, watermark) = (&self.rules.windows, device.state.watermark);
            for (size, late) in rules.sizes.iter().zip(&mut folded.late) {
                let windows = &mut sensor.windows;
                match windows.add(rules, *size, watermark, stamp.timestamp, reading.value) {
                    Added::Counted => {}
                    Added::Late => *late += 1,
                    Added::Opened(seals_at) => {
                        device.next_seal = device.next_seal.min(seals_at);
                        self.changed_bytes += layout::WINDOW_BYTES;
                    }
                }
            }
        }
        if !sensor.newest.yields_to(stamp) {
            folded.stale += 1;
            return;
        }
        sensor.newest = stamp;
        if sensor.take(reading) {
            sensor.share(&mut self.names);
            device.find_by_unit(number, &self.rules);
        }
        self.show(at, number);
        if usable {
            self.detect(at, number, event, folded);
        }
    }

    /// The number of a device's sensor, which may be a new one.
    fn sensor(&mut self, at: usize, name: &str) -> usize {
        let device = &mut self.devices[at];
        device.sensor(name).unwrap_or_else(|| {
            let number = device.add_sensor(name, &self.rules);
            device.state.sensors[number].share(&mut self.names);
            self.changed_bytes += device.state.sensors[number].packed_size();
            number
        })
    }

    /// Marks the time of the partition as changed for the store.
    fn mark_time_unsaved(&mut self) {
        if !std::mem::replace(&mut self.time_unsaved, true) {
            self.changed_bytes += TIME_BYTES;
        }
    }

    /// Marks a device as changed for the store.
    fn mark_unsaved(&mut self, at: usize) {
        let device = &mut self.devices[at];
        if !std::mem::replace(&mut device.unsaved, true) {
            self.unsaved.push(at);
            self.changed_bytes += device.state.packed_size();
        }
    }
}

/// Validation refuses control characters, so that no part contains the separator.
fn write_key(out: &mut String, tenant: &str, project: &str, device: &str) {
    out.clear();
    for part in [tenant, "\0", project, "\0", device] {
        out.push_str(part);
    }
}
