//! The standard sensors with their unit, physical limits and alert threshold.

use std::ops::RangeInclusive;

/// A standard sensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensor {
    /// Name in a [`Reading`](crate::message::Reading).
    pub name: &'static str,
    /// Unit of stored values, physical limits and thresholds.
    pub unit: &'static str,
    /// Physical limits: the values that a working sensor can report, in
    /// [`unit`](Self::unit). They are wider than usual values, because an overheated
    /// machine is an alert and not invalid input.
    pub physical: RangeInclusive<f64>,
    /// Threshold of the alert, if the sensor has one.
    pub alert: Option<Threshold>,
}

/// A limit, in the sensor's unit, beyond which a value raises an alert. The limit
/// itself is normal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Alert above this value.
    Above(f64),
    /// Alert below this value.
    Below(f64),
}

impl Threshold {
    /// Whether `value` is beyond the limit; `false` for NaN.
    #[must_use]
    pub fn is_crossed_by(self, value: f64) -> bool {
        match self {
            Self::Above(limit) => value > limit,
            Self::Below(limit) => value < limit,
        }
    }

    /// The limit, in the sensor's unit.
    #[must_use]
    pub fn limit(self) -> f64 {
        match self {
            Self::Above(limit) | Self::Below(limit) => limit,
        }
    }
}

/// Air temperature in degrees Celsius.
pub const TEMPERATURE: &str = "temperature";
/// Relative humidity in percent.
pub const HUMIDITY: &str = "humidity";
/// Air pressure in hectopascal.
pub const PRESSURE: &str = "pressure";
/// A switch: 0 off, 1 on.
pub const SWITCH: &str = "switch";
/// Electric current in ampere.
pub const CURRENT: &str = "current";

/// All standard sensors.
pub const ALL: &[Sensor] = &[
    Sensor {
        name: TEMPERATURE,
        unit: "celsius",
        physical: -90.0..=200.0,
        alert: Some(Threshold::Above(50.0)),
    },
    Sensor {
        name: HUMIDITY,
        unit: "percent",
        physical: 0.0..=100.0,
        alert: Some(Threshold::Below(20.0)),
    },
    Sensor {
        name: PRESSURE,
        unit: "hectopascal",
        physical: 300.0..=2000.0,
        alert: Some(Threshold::Above(1040.0)),
    },
    Sensor {
        name: SWITCH,
        unit: "state",
        physical: 0.0..=1.0,
        alert: None,
    },
    Sensor {
        name: CURRENT,
        unit: "ampere",
        physical: 0.0..=100.0,
        alert: Some(Threshold::Above(8.0)),
    },
];

/// Finds a standard sensor by its exact name.
#[must_use]
pub fn lookup(name: &str) -> Option<&'static Sensor> {
    ALL.iter().find(|sensor| sensor.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_standard_sensors_are_found() {
        for sensor in ALL {
            assert_eq!(lookup(sensor.name), Some(sensor));
        }
        assert_eq!(lookup("Temperature"), None);
        assert_eq!(lookup(""), None);
    }

    #[test]
    fn thresholds_are_within_the_physical_limits() {
        for sensor in ALL {
            if let Some(threshold) = sensor.alert {
                assert!(
                    sensor.physical.contains(&threshold.limit()),
                    "{}",
                    sensor.name
                );
            }
        }
    }

    #[test]
    fn the_limit_itself_is_normal() {
        let hot = Threshold::Above(50.0);
        assert!(!hot.is_crossed_by(50.0) && hot.is_crossed_by(50.01));
        let dry = Threshold::Below(20.0);
        assert!(!dry.is_crossed_by(20.0) && dry.is_crossed_by(19.99));
        assert!(!hot.is_crossed_by(f64::NAN) && !dry.is_crossed_by(f64::NAN));
    }
}
