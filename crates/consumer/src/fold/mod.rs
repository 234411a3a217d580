//! The state of one partition as a pure function of its log: no clock, no
//! randomness, and no trace of how records were cut into batches.

pub(crate) mod alert;
mod pack;
mod sealed;
mod state;
#[cfg(test)]
mod tests;
pub(crate) mod window;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use iot_core::message::{DeviceMessage, Location, Quality, Reading};
use iot_core::sensor;

use crate::config::ConsumerConfig;
use crate::model::{Alert, Device, DeviceKey, Place, Value};
use crate::refusal::Refusal;
use crate::store::Change;
use alert::Transition;
pub(crate) use pack::UnpackError;
use sealed::Sealed;
pub(crate) use sealed::{DeviceWindows, add_stored};
use state::{DeviceState, SensorState};
use window::WindowRules;

/// What the fold goes by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FoldRules {
    windows: WindowRules,
    devices: usize,
    sensors: usize,
}

impl FoldRules {
    pub(crate) fn new(config: &ConsumerConfig) -> Self {
        Self {
            windows: WindowRules::new(&config.windows),
            devices: config.limits.devices,
            sensors: config.limits.sensors,
        }
    }
}

/// A valid message and whose it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event<'m> {
    pub(crate) offset: i64,
    /// When Kafka recorded it, in milliseconds since the epoch, if it says so.
    pub(crate) recorded: Option<i64>,
    pub(crate) tenant: &'m str,
    pub(crate) project: &'m str,
    pub(crate) message: &'m DeviceMessage<'m>,
}

/// What an event did, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Folded {
    /// Readings taken in.
    pub(crate) readings: u64,
    /// Readings older than the newest known: counted into windows only.
    pub(crate) stale: u64,
    /// Readings too late for their window.
    pub(crate) late: u64,
    /// The same message a second time in a row: nothing was done.
    pub(crate) duplicate: bool,
    /// Alerts raised.
    pub(crate) raised: u64,
    /// Alerts cleared.
    pub(crate) cleared: u64,
}

/// What changed since it was last asked for.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    /// Devices with the readings that changed.
    pub(crate) devices: Vec<Device>,
    /// Every change of an alert that clients are told of, in order.
    pub(crate) alerts: Vec<Alert>,
}

/// The state of one partition.
#[derive(Debug)]
pub(crate) struct Fold {
    rules: FoldRules,
    /// Begins the ids of alerts: `<topic>:<partition>`.
    origin: String,
    devices: Vec<Tracked>,
    index: HashMap<String, usize>,
    /// Key of the event at hand; kept for its memory.
    lookup: String,
    /// Devices with something to store or to tell.
    unsaved: Vec<usize>,
    untold: Vec<usize>,
    alerts: Vec<Alert>,
    /// Sealed windows to store.
    sealed: Vec<Sealed>,
    /// Values to store.
    changed: usize,
}

#[derive(Debug)]
struct Tracked {
    state: DeviceState,
    /// The watermark at which a window of any sensor is sealed next.
    next_seal: i64,
    marks: Vec<Marks>,
    unsaved: bool,
    untold: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    unsaved: bool,
    untold: bool,
}

impl Fold {
    /// The state before the first record.
    pub(crate) fn new(rules: FoldRules, topic: &str, partition: i32) -> Self {
        Self {
            rules,
            origin: format!("{topic}:{partition}"),
            devices: Vec::new(),
            index: HashMap::new(),
            lookup: String::new(),
            unsaved: Vec::new(),
            untold: Vec::new(),
            alerts: Vec::new(),
            sealed: Vec::new(),
            changed: 0,
        }
    }

    /// The state that a store holds.
    ///
    /// # Errors
    /// Values that this version can't read.
    pub(crate) fn restore(
        rules: FoldRules,
        topic: &str,
        partition: i32,
        entries: &[(String, Vec<u8>)],
    ) -> Result<Self, UnpackError> {
        let mut fold = Self::new(rules, topic, partition);
        for state in state::restore(entries)? {
            write_key(
                &mut fold.lookup,
                &state.key.tenant,
                &state.key.project,
                &state.key.device,
            );
            fold.index.insert(fold.lookup.clone(), fold.devices.len());
            let mut device = Tracked::new(state);
            device.marks = vec![Marks::default(); device.state.sensors.len()];
            device.next_seal = device.earliest_seal(&fold.rules.windows);
            fold.devices.push(device);
        }
        Ok(fold)
    }

    /// Takes in one event.
    ///
    /// # Errors
    /// Refused because of a limit; the state is then as before.
    pub(crate) fn apply(&mut self, event: &Event<'_>) -> Result<Folded, Refusal> {
        let at = self.find(event)?;
        let message = event.message;
        let device = &mut self.devices[at];
        let moment = (message.timestamp, message.seq);
        if message.seq.is_some() && moment == (device.state.timestamp, device.state.seq) {
            return Ok(Folded {
                duplicate: true,
                ..Folded::default()
            });
        }
        if moment >= (device.state.timestamp, device.state.seq) {
            (device.state.timestamp, device.state.seq) = moment;
            if let Some(location) = &message.location {
                device.move_to(location);
            }
        }
        let mut folded = Folded::default();
        self.advance(at, event);
        for reading in &message.readings {
            self.read(at, event, reading, &mut folded);
        }
        let device = &mut self.devices[at];
        device.next_seal = device.earliest_seal(&self.rules.windows);
        self.mark(at);
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
                let key = DeviceKey {
                    tenant: event.tenant.into(),
                    project: event.project.into(),
                    device: (*event.message.device_id).into(),
                };
                self.index.insert(self.lookup.clone(), self.devices.len());
                self.devices.push(Tracked::new(DeviceState::new(key)));
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
        let expires = recorded.saturating_add(rules.retention);
        let mut sealed = BTreeMap::new();
        for (number, sensor) in device.state.sensors.iter_mut().enumerate() {
            let before = sealed.len();
            let mut any = false;
            for window in sensor.windows.seal(rules, watermark) {
                any = true;
                let same = sealed.entry(window.start).or_insert_with(Vec::new);
                same.push((sensor.name.clone(), window));
            }
            self.changed += sealed.len() - before;
            if any && !std::mem::replace(&mut device.marks[number].unsaved, true) {
                self.changed += 1;
            }
        }
        let sealed = sealed.into_iter();
        self.sealed
            .extend(sealed.map(|(start, windows)| Sealed::new(at, start, expires, windows)));
    }

    fn read(&mut self, at: usize, event: &Event<'_>, reading: &Reading<'_>, folded: &mut Folded) {
        let device = &mut self.devices[at];
        let number = device.sensor(&reading.sensor);
        let sensor = &mut device.state.sensors[number];
        let moment = (event.message.timestamp, event.message.seq);
        let usable = reading.quality != Quality::Bad;
        folded.readings += 1;
        if moment >= (sensor.timestamp, sensor.seq) {
            (sensor.timestamp, sensor.seq) = moment;
            sensor.take(reading);
            device.marks[number].untold = true;
            if usable {
                self.detect(at, number, event, folded);
            }
        } else {
            folded.stale += 1;
        }
        let device = &mut self.devices[at];
        let sensor = &mut device.state.sensors[number];
        if usable {
            let (rules, watermark) = (&self.rules.windows, device.state.watermark);
            let taken = sensor
                .windows
                .add(rules, watermark, moment.0, reading.value);
            folded.late += u64::from(!taken);
        }
        if !std::mem::replace(&mut device.marks[number].unsaved, true) {
            self.changed += 1;
        }
    }

    fn detect(&mut self, at: usize, number: usize, event: &Event<'_>, folded: &mut Folded) {
        let device = &mut self.devices[at].state;
        let sensor = &mut device.sensors[number];
        let Some(threshold) = sensor::lookup(&sensor.name).and_then(|known| known.alert) else {
            return;
        };
        let id = || format!("{}:{}:{}:threshold", self.origin, event.offset, sensor.name).into();
        let (timestamp, value) = (sensor.timestamp, sensor.value);
        match alert::observe(&mut sensor.alert, threshold, timestamp, value, id) {
            Transition::None | Transition::Folded => return,
            Transition::Raised => folded.raised += 1,
            Transition::Cleared => folded.cleared += 1,
            Transition::Repeated => {}
        }
        self.alerts.extend(device.alert(&device.sensors[number]));
    }

    /// Remembers that a device has something to store and to tell.
    fn mark(&mut self, at: usize) {
        let device = &mut self.devices[at];
        if !std::mem::replace(&mut device.unsaved, true) {
            self.unsaved.push(at);
            self.changed += 1;
        }
        if !std::mem::replace(&mut device.untold, true) {
            self.untold.push(at);
        }
    }

    /// How many values a store would have to write.
    pub(crate) fn changed(&self) -> usize {
        self.changed
    }

    /// The values that changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.changed);
        for at in self.unsaved.drain(..) {
            let Tracked {
                state,
                marks,
                unsaved,
                ..
            } = &mut self.devices[at];
            *unsaved = false;
            changes.push(Change::Live {
                key: state.store_key(),
                value: state.pack(),
            });
            for (sensor, mark) in state.sensors.iter().zip(marks) {
                if std::mem::take(&mut mark.unsaved) {
                    changes.push(Change::Live {
                        key: state.sensor_key(sensor),
                        value: sensor.pack(),
                    });
                }
            }
        }
        let size = self.rules.windows.size;
        for sealed in self.sealed.drain(..) {
            changes.push(sealed.change(&self.devices[sealed.device].state, size));
        }
        self.changed = 0;
        changes
    }

    /// What clients haven't been told yet.
    pub(crate) fn take_updates(&mut self) -> Updates {
        let mut devices = Vec::with_capacity(self.untold.len());
        for at in self.untold.drain(..) {
            let Tracked {
                state,
                marks,
                untold,
                ..
            } = &mut self.devices[at];
            *untold = false;
            let readings = state
                .sensors
                .iter()
                .zip(marks)
                .filter_map(|(sensor, mark)| {
                    let changed = std::mem::take(&mut mark.untold);
                    changed.then(|| (sensor.name.clone(), sensor.newest()))
                });
            devices.push(state.device(readings.collect()));
        }
        Updates {
            devices,
            alerts: std::mem::take(&mut self.alerts),
        }
    }

    /// Everything clients could be told, for a partition just loaded.
    pub(crate) fn all(&self) -> Updates {
        let states = || self.devices.iter().map(|device| &device.state);
        let full = |state: &DeviceState| {
            let readings = state.sensors.iter().map(|s| (s.name.clone(), s.newest()));
            state.device(readings.collect())
        };
        let alerts = states().flat_map(|d| d.sensors.iter().filter_map(|s| d.alert(s)));
        Updates {
            devices: states().map(full).collect(),
            alerts: alerts.collect(),
        }
    }

    /// The windows of a device; `None` if there is no such device.
    pub(crate) fn windows(&self, key: &DeviceKey) -> Option<DeviceWindows> {
        let mut name = String::new();
        write_key(&mut name, &key.tenant, &key.project, &key.device);
        let at = *self.index.get(&name)?;
        let unstored = self.sealed.iter().filter(|sealed| sealed.device == at);
        let device = &self.devices[at].state;
        Some(DeviceWindows::new(device, &self.rules.windows, unstored))
    }
}

impl Tracked {
    fn new(state: DeviceState) -> Self {
        Self {
            state,
            next_seal: i64::MAX,
            marks: Vec::new(),
            unsaved: false,
            untold: false,
        }
    }

    fn sensor(&mut self, name: &str) -> usize {
        let known = self
            .state
            .sensors
            .iter()
            .position(|sensor| &*sensor.name == name);
        known.unwrap_or_else(|| {
            self.state.sensors.push(SensorState::new(name));
            self.marks.push(Marks::default());
            self.state.sensors.len() - 1
        })
    }

    fn earliest_seal(&self, rules: &WindowRules) -> i64 {
        let seals = self
            .state
            .sensors
            .iter()
            .filter_map(|s| s.windows.next_seal(rules));
        seals.min().unwrap_or(i64::MAX)
    }

    fn move_to(&mut self, location: &Location<'_>) {
        let same = self.state.place.as_ref().is_some_and(|place| {
            *place.building == location.building
                && *place.floor == location.floor
                && *place.room == location.room
        });
        if !same {
            self.state.place = Some(Arc::new(Place {
                building: (*location.building).into(),
                floor: (*location.floor).into(),
                room: (*location.room).into(),
            }));
        }
    }
}

impl SensorState {
    fn take(&mut self, reading: &Reading<'_>) {
        self.value = reading.value;
        self.quality = reading.quality;
        let unit = reading.unit.as_deref();
        let unit = unit.or_else(|| sensor::lookup(&self.name).map(|known| known.unit));
        if self.unit.as_deref() != unit {
            self.unit = unit.map(Arc::from);
        }
    }

    fn newest(&self) -> Value {
        Value {
            value: self.value,
            unit: self.unit.clone(),
            quality: self.quality,
            timestamp: self.timestamp,
        }
    }
}

impl DeviceState {
    fn device(&self, readings: BTreeMap<Arc<str>, Value>) -> Device {
        Device {
            key: self.key.clone(),
            location: self.place.clone(),
            seq: self.seq,
            timestamp: self.timestamp,
            readings,
        }
    }

    fn alert(&self, sensor: &SensorState) -> Option<Alert> {
        let alert = sensor.alert.as_ref()?;
        let unit = sensor.unit.as_deref();
        Some(alert.describe(&self.key, self.place.as_ref(), &sensor.name, unit))
    }
}

fn check_sensors(
    known: &[SensorState],
    readings: &[Reading<'_>],
    most: usize,
) -> Result<(), Refusal> {
    // Readings that repeat a new sensor count twice: a bound, not a census.
    let is_new = |reading: &&Reading<'_>| known.iter().all(|sensor| *sensor.name != reading.sensor);
    let new = readings.iter().filter(is_new).count();
    if new > 0 && known.len() + new > most {
        Err(Refusal::TooManySensors)
    } else {
        Ok(())
    }
}

/// The parts can't hold the separator: validation refuses control characters.
fn write_key(out: &mut String, tenant: &str, project: &str, device: &str) {
    out.clear();
    // Writing into a String can't fail.
    let _ = write!(out, "{tenant}\0{project}\0{device}");
}
