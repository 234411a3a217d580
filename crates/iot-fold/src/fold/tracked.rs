//! A device in memory: its state, and what only this process needs.

use iot_core::message::Reading;

use super::FoldRules;
use crate::catalogue::Limits;
use crate::detect::Kinds;
use crate::kind::AlertKind;
use crate::model::{DeviceKey, Place};
use crate::state::{DeviceState, SensorState};
use crate::window::WindowRules;

#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) state: DeviceState,
    /// The watermark at which the next window of any sensor is sealed.
    pub(super) next_seal: i64,
    /// One for each sensor of the state.
    pub(super) marks: Vec<Marks>,
    pub(super) unsaved: bool,
    /// Whether there is no device in this place.
    pub(super) is_vacant: bool,
}

/// What memory keeps beside the state of a sensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// Its limits in its present unit, at the present place of the device.
    pub(super) limits: Limits,
    /// The kinds of alerts that are enabled.
    pub(super) kinds: Kinds,
}

impl Marks {
    fn new(sensor: &SensorState, device: &DeviceState, rules: &FoldRules) -> Self {
        Self {
            limits: limits(sensor, &device.key, device.place.as_deref(), rules),
            kinds: kinds(sensor, rules),
        }
    }
}

fn limits(
    sensor: &SensorState,
    key: &DeviceKey,
    place: Option<&Place>,
    rules: &FoldRules,
) -> Limits {
    let named = (&*sensor.name, sensor.unit.as_deref());
    rules.limits.find(named, key, place)
}

fn kinds(sensor: &SensorState, rules: &FoldRules) -> Kinds {
    let kinds = rules.detect.kinds(&sensor.name, rules.limits.has_chips());
    let unit = sensor.unit.as_deref();
    if rules.limits.is_counter(&sensor.name, unit) {
        kinds.without(AlertKind::Drift)
    } else {
        kinds
    }
}

impl Tracked {
    pub(super) fn new(mut state: DeviceState, rules: &FoldRules) -> Self {
        state.go_by(rules.detect.version);
        if rules.silence.is_none() {
            state.unwatch();
        }
        let sensors = state.sensors.iter();
        let marks = sensors.map(|sensor| Marks::new(sensor, &state, rules));
        let mut device = Self {
            marks: marks.collect(),
            state,
            next_seal: i64::MAX,
            unsaved: false,
            is_vacant: false,
        };
        device.find_next_seal(&rules.windows);
        device
    }

    /// In the place of a device that was removed, until another one takes it.
    pub(super) fn vacant() -> Self {
        let nobody = || "".into();
        Self {
            state: DeviceState::new(DeviceKey {
                tenant: nobody(),
                project: nobody(),
                device: nobody(),
            }),
            next_seal: i64::MAX,
            marks: Vec::new(),
            unsaved: false,
            is_vacant: true,
        }
    }

    /// The number of the sensor with that name; `None` if it is new.
    pub(super) fn sensor(&self, name: &str) -> Option<usize> {
        let mut sensors = self.state.sensors.iter();
        sensors.position(|sensor| &*sensor.name == name)
    }

    /// Adds a sensor, and returns its number.
    pub(super) fn add_sensor(&mut self, name: &str, rules: &FoldRules) -> usize {
        // Most devices have few sensors: without this the list would reserve room for four.
        self.state.sensors.reserve_exact(1);
        self.marks.reserve_exact(1);
        let sensor = SensorState::new(name);
        self.marks.push(Marks::new(&sensor, &self.state, rules));
        self.state.sensors.push(sensor);
        self.state.sensors.len() - 1
    }

    /// Updates the limits after the device has moved.
    pub(super) fn find_limits(&mut self, rules: &FoldRules) {
        let place = self.state.place.as_deref();
        for (sensor, marks) in self.state.sensors.iter().zip(&mut self.marks) {
            marks.limits = limits(sensor, &self.state.key, place, rules);
        }
    }

    /// Updates limits and kinds after the unit of a sensor has changed.
    pub(super) fn find_by_unit(&mut self, number: usize, rules: &FoldRules) {
        let DeviceState {
            sensors,
            key,
            place,
            ..
        } = &self.state;
        let (sensor, marks) = (&sensors[number], &mut self.marks[number]);
        marks.limits = limits(sensor, key, place.as_deref(), rules);
        marks.kinds = kinds(sensor, rules);
    }

    pub(super) fn find_next_seal(&mut self, rules: &WindowRules) {
        let sensors = self.state.sensors.iter();
        let seals = sensors.filter_map(|sensor| sensor.windows.next_seal(rules));
        self.next_seal = seals.min().unwrap_or(i64::MAX);
    }
}

/// The places of the readings that would give a device more than `most` sensors. Ascending.
pub(super) fn excess(known: &[SensorState], readings: &[Reading<'_>], most: usize) -> Vec<usize> {
    // Nearly always: saves looking for each reading.
    if known.len() + readings.len() <= most {
        return Vec::new();
    }
    let is_new = |reading: &&Reading<'_>| known.iter().all(|sensor| *sensor.name != reading.sensor);
    let new = readings.iter().filter(is_new).count();
    // An upper bound, as readings may repeat a new sensor.
    if new == 0 || known.len() + new <= most {
        return Vec::new();
    }
    let room = most.saturating_sub(known.len());
    let mut added = Vec::new();
    let mut excess = Vec::new();
    for (place, reading) in readings.iter().enumerate() {
        if !is_new(&reading) || added.contains(&&reading.sensor) {
            continue;
        }
        if added.len() < room {
            added.push(&reading.sensor);
        } else {
            excess.push(place);
        }
    }
    excess
}
