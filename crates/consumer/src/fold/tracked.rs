//! A device in memory: its state, and what only this process needs of it.

use iot_core::message::Reading;
use iot_core::sensor::{self, Sensor};

use super::FoldRules;
use super::detect::{DetectRules, Kinds};
use super::state::{DeviceState, SensorState};
use super::window::WindowRules;
use crate::refusal::Refusal;

#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) state: DeviceState,
    /// The watermark at which a window of any sensor is sealed next.
    pub(super) next_seal: i64,
    /// For each sensor of the state.
    pub(super) marks: Vec<Marks>,
    pub(super) unsaved: bool,
    pub(super) untold: bool,
}

/// What is remembered of a sensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// The standard sensor of that name.
    pub(super) known: Option<&'static Sensor>,
    /// What is looked for.
    pub(super) kinds: Kinds,
    pub(super) untold: bool,
}

impl Marks {
    fn new(sensor: &str, rules: &DetectRules) -> Self {
        Self {
            known: sensor::lookup(sensor),
            kinds: rules.kinds(sensor),
            untold: false,
        }
    }
}

impl Tracked {
    pub(super) fn new(mut state: DeviceState, rules: &FoldRules) -> Self {
        state.go_by(rules.detect.version);
        if rules.silence.is_none() {
            state.unwatch();
        }
        let sensors = state.sensors.iter();
        let marks = sensors.map(|sensor| Marks::new(&sensor.name, &rules.detect));
        let mut device = Self {
            marks: marks.collect(),
            state,
            next_seal: i64::MAX,
            unsaved: false,
            untold: false,
        };
        device.find_next_seal(&rules.windows);
        device
    }

    /// The sensor of that name; `None` if it is new.
    pub(super) fn sensor(&self, name: &str) -> Option<usize> {
        let mut sensors = self.state.sensors.iter();
        sensors.position(|sensor| &*sensor.name == name)
    }

    /// A new sensor.
    pub(super) fn add_sensor(&mut self, name: &str, rules: &DetectRules) -> usize {
        self.state.sensors.push(SensorState::new(name));
        self.marks.push(Marks::new(name, rules));
        self.state.sensors.len() - 1
    }

    pub(super) fn find_next_seal(&mut self, rules: &WindowRules) {
        let sensors = self.state.sensors.iter();
        let seals = sensors.filter_map(|sensor| sensor.windows.next_seal(rules));
        self.next_seal = seals.min().unwrap_or(i64::MAX);
    }
}

/// Whether these readings leave a device within its number of sensors.
pub(super) fn check_sensors(
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
