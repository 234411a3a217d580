//! The standard sensors: unit, what is physically possible, and when to alert.

use std::ops::RangeInclusive;

/// One standard sensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensor {
    /// Name as it stands in a reading.
    pub name: &'static str,
    /// Unit in which values are stored and thresholds are given.
    pub unit: &'static str,
    /// Values a working sensor can report, in [`unit`](Self::unit). Wider than
    /// what is usual: an overheated machine is an alert, not bad input.
    pub physical: RangeInclusive<f64>,
    /// When a value is worth an alert.
    pub alert: Option<Threshold>,
}

/// A limit whose crossing raises an alert. The limit itself is still normal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Alert above this value.
    Above(f64),
    /// Alert below this value.
    Below(f64),
}

impl Threshold {
    /// Whether `value` is beyond the limit. Never true for NaN.
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

/// Every standard sensor.
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

/// The standard sensor of that name, if it is one.
#[must_use]
pub fn lookup(name: &str) -> Option<&'static Sensor> {
    ALL.iter().find(|sensor| sensor.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_standard_sensors_and_no_others() {
        for sensor in ALL {
            assert_eq!(lookup(sensor.name), Some(sensor));
        }
        assert_eq!(lookup("Temperature"), None);
        assert_eq!(lookup(""), None);
    }

    #[test]
    fn an_alert_is_possible_inside_the_physical_limits() {
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
