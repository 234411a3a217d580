//! A device in memory: its state, and what only this process needs of it.

use iot_core::message::Reading;

use super::FoldRules;
use crate::catalogue::Limits;
use crate::detect::Kinds;
use crate::refusal::Refusal;
use crate::state::{DeviceState, SensorState};
use crate::window::WindowRules;

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
    /// Beyond which its values are worth an alert, where the device is now.
    pub(super) limits: Limits,
    /// What is looked for.
    pub(super) kinds: Kinds,
    pub(super) untold: bool,
}

impl Marks {
    fn new(sensor: &str, device: &DeviceState, rules: &FoldRules) -> Self {
        let place = device.place.as_deref();
        Self {
            limits: rules.limits.find(sensor, &device.key, place),
            kinds: rules.detect.kinds(sensor),
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
        let marks = sensors.map(|sensor| Marks::new(&sensor.name, &state, rules));
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
    pub(super) fn add_sensor(&mut self, name: &str, rules: &FoldRules) -> usize {
        // Most devices have one or few; by itself a list would keep room for four.
        self.state.sensors.reserve_exact(1);
        self.marks.reserve_exact(1);
        self.state.sensors.push(SensorState::new(name));
        self.marks.push(Marks::new(name, &self.state, rules));
        self.state.sensors.len() - 1
    }

    /// Once the device is at another place.
    pub(super) fn find_limits(&mut self, rules: &FoldRules) {
        let place = self.state.place.as_deref();
        for (sensor, marks) in self.state.sensors.iter().zip(&mut self.marks) {
            marks.limits = rules.limits.find(&sensor.name, &self.state.key, place);
        }
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
