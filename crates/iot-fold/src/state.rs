//! The state of a device with its sensors. `layout` has the bytes in which a store keeps
//! it.

use std::sync::Arc;

use iot_core::message::{Location, Quality, Reading};

use crate::alert::AlertState;
use crate::detect::Detectors;
use crate::log_time::LogPosition;
use crate::model::{Alert, AlertStatus, Device, DeviceKey, Place, Readings, Value};
use crate::names::Names;
use crate::stamp::Stamp;
use crate::window::SensorWindows;

/// What the log has said about a device so far.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeviceState {
    pub(crate) key: DeviceKey,
    pub(crate) place: Option<Arc<Place>>,
    /// Of its newest message.
    pub(crate) newest: Stamp,
    /// The greatest event time so far, or record time where that is less. Each device has its
    /// own, so that one clock that is ahead cannot seal the windows of other devices.
    pub(crate) watermark: i64,
    /// The version of the rules by which detectors have learnt.
    pub(crate) rules: u32,
    /// In the order of their first readings.
    pub(crate) sensors: Vec<SensorState>,
    /// Where the partition was at its last message; `None` if that is unknown.
    pub(crate) heard: Option<LogPosition>,
    /// Its last silence. It is boxed because few devices have one.
    pub(crate) silence: Option<Box<AlertState>>,
}

/// One sensor of a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SensorState {
    pub(crate) name: Arc<str>,
    pub(crate) value: f64,
    pub(crate) unit: Option<Arc<str>>,
    pub(crate) quality: Quality,
    /// Of the message with `value`.
    pub(crate) newest: Stamp,
    pub(crate) windows: SensorWindows,
    /// The last alert of each kind.
    pub(crate) alerts: Vec<AlertState>,
    pub(crate) detectors: Detectors,
}

impl DeviceState {
    pub(crate) fn new(key: DeviceKey) -> Self {
        Self {
            key,
            place: None,
            newest: Stamp::NONE,
            watermark: i64::MIN,
            rules: 0,
            sensors: Vec::new(),
            heard: None,
            silence: None,
        }
    }

    /// Makes detectors start again if they have learnt by other rules. Alerts are over then,
    /// because nothing would clear them.
    pub(crate) fn go_by(&mut self, rules: u32) {
        if self.rules == rules {
            return;
        }
        self.rules = rules;
        for sensor in &mut self.sensors {
            sensor.detectors = Detectors::default();
            for alert in &mut sensor.alerts {
                alert.status = AlertStatus::Cleared;
            }
        }
    }

    /// Ends its silence when silence is turned off, because nothing else would.
    pub(crate) fn unwatch(&mut self) {
        if let Some(silence) = &mut self.silence {
            silence.status = AlertStatus::Cleared;
        }
    }

    /// Replaces its texts by shared copies.
    pub(crate) fn share(&mut self, names: &mut Names) {
        names.share(&mut self.key.tenant);
        names.share(&mut self.key.project);
        if let Some(place) = self.place.as_mut().and_then(Arc::get_mut) {
            names.share(&mut place.building);
            names.share(&mut place.floor);
            names.share(&mut place.room);
        }
        for sensor in &mut self.sensors {
            sensor.share(names);
        }
    }

    /// Sets the place, and returns whether it has changed.
    pub(crate) fn move_to(&mut self, location: &Location<'_>) -> bool {
        let same = self.place.as_ref().is_some_and(|place| {
            *place.building == location.building
                && *place.floor == location.floor
                && *place.room == location.room
        });
        if !same {
            self.place = Some(Arc::new(Place {
                building: (*location.building).into(),
                floor: (*location.floor).into(),
                room: (*location.room).into(),
            }));
        }
        !same
    }

    /// What clients see of it, with these readings.
    pub(crate) fn describe(&self, readings: Readings) -> Device {
        Device {
            key: self.key.clone(),
            location: self.place.clone(),
            seq: self.newest.seq,
            timestamp: self.newest.timestamp,
            is_ahead: self.newest.is_ahead,
            readings,
        }
    }

    /// What clients see of an alert; its id starts with `origin`.
    pub(crate) fn describe_alert(
        &self,
        sensor: &SensorState,
        alert: &AlertState,
        origin: &str,
    ) -> Alert {
        let unit = sensor.unit.as_deref();
        alert.describe(origin, &self.key, self.place.as_ref(), &sensor.name, unit)
    }

    /// What clients see of its last silence, if it had one.
    pub(crate) fn describe_silence(&self, origin: &str) -> Option<Alert> {
        let (place, no_sensor) = (self.place.as_ref(), Arc::from(""));
        let silence = self.silence.as_ref();
        silence.map(|silence| silence.describe(origin, &self.key, place, &no_sensor, None))
    }
}

impl SensorState {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            value: 0.0,
            unit: None,
            quality: Quality::Good,
            newest: Stamp::NONE,
            windows: SensorWindows::default(),
            alerts: Vec::new(),
            detectors: Detectors::default(),
        }
    }

    /// Replaces its texts by shared copies.
    pub(crate) fn share(&mut self, names: &mut Names) {
        names.share(&mut self.name);
        if let Some(unit) = &mut self.unit {
            names.share(unit);
        }
    }

    /// Replaces the newest value, and returns whether the unit has changed. Detectors start
    /// again after a change from one unit to another.
    pub(crate) fn take(&mut self, reading: &Reading<'_>) -> bool {
        self.value = reading.value;
        self.quality = reading.quality;
        let unit = reading.unit.as_deref();
        if self.unit.as_deref() == unit {
            return false;
        }
        if self.unit.is_some() && unit.is_some() {
            self.detectors = Detectors::default();
        }
        self.unit = unit.map(Arc::from);
        true
    }

    pub(crate) fn describe(&self) -> Value {
        Value {
            value: self.value,
            unit: self.unit.clone(),
            quality: self.quality,
            timestamp: self.newest.timestamp,
            is_ahead: self.newest.is_ahead,
        }
    }
}
