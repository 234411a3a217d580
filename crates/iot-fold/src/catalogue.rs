//! The sensors that are known: the standard ones and those of section `sensors`.

use std::ops::RangeInclusive;

use iot_core::sensor::{self, Sensor, Threshold};

/// Values beyond these raise an alert; the limits themselves are normal. Without a limit
/// it is infinite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Greater values raise an alert.
    pub above: f64,
    /// Smaller values raise an alert.
    pub below: f64,
    /// How long a value must stay beyond a limit before it raises an alert, in milliseconds of
    /// event time; 0: at once.
    pub min_duration: i64,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self {
        above: f64::INFINITY,
        below: f64::NEG_INFINITY,
        min_duration: 0,
    };
}

/// A sensor of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Its name in readings.
    pub name: Box<str>,
    /// The unit in which its values are stored.
    pub unit: Box<str>,
    /// The values that a working sensor can report.
    pub physical: RangeInclusive<f64>,
    /// For devices that no rule of section `thresholds` matches.
    pub limits: Limits,
}

impl Known {
    fn standard(sensor: &Sensor) -> Self {
        let mut limits = Limits::NONE;
        match sensor.alert {
            Some(Threshold::Above(limit)) => limits.above = limit,
            Some(Threshold::Below(limit)) => limits.below = limit,
            None => {}
        }
        Self {
            name: sensor.name.into(),
            unit: sensor.unit.into(),
            physical: sensor.physical.clone(),
            limits,
        }
    }
}

/// All sensors that are known, ordered by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalogue(Vec<Known>);

impl Catalogue {
    /// The configured sensors, and the standard ones whose names these do not have.
    #[must_use]
    pub fn new(configured: impl IntoIterator<Item = Known>) -> Self {
        let mut all: Vec<_> = configured.into_iter().collect();
        let replaced = |name: &str| all.iter().any(|known| *known.name == *name);
        let standard = sensor::ALL.iter().filter(|sensor| !replaced(sensor.name));
        let standard: Vec<_> = standard.map(Known::standard).collect();
        all.extend(standard);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Self(all)
    }

    /// The sensor of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Known> {
        let found = self.0.binary_search_by(|known| (*known.name).cmp(name));
        found.ok().map(|at| &self.0[at])
    }

    /// All of them, ordered by name.
    #[must_use]
    pub fn all(&self) -> &[Known] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_settings_it_has_the_standard_sensors() {
        let catalogue = Catalogue::new([]);
        for standard in sensor::ALL {
            let known = catalogue.find(standard.name).unwrap();
            assert_eq!(*known, Known::standard(standard));
        }
        assert_eq!(catalogue.all().len(), sensor::ALL.len());
        assert_eq!(catalogue.find("vibration"), None);
        let humidity = catalogue.find("humidity").unwrap().limits;
        assert_eq!((humidity.above, humidity.below), (f64::INFINITY, 20.0));
    }

    #[test]
    fn configured_sensors_are_added_or_replace_a_standard_one() {
        let sensor = |name: &str, above| Known {
            name: name.into(),
            unit: "kelvin".into(),
            physical: 0.0..=f64::INFINITY,
            limits: Limits {
                above,
                ..Limits::NONE
            },
        };
        let configured = [sensor("temperature", f64::INFINITY), sensor("core", 300.0)];
        let catalogue = Catalogue::new(configured);
        assert_eq!(catalogue.all().len(), sensor::ALL.len() + 1);
        let temperature = catalogue.find("temperature").unwrap();
        assert_eq!(&*temperature.unit, "kelvin");
        assert_eq!(temperature.limits, Limits::NONE);
        assert_eq!(temperature.physical, 0.0..=f64::INFINITY);
        assert_eq!(catalogue.find("core").unwrap().limits.above, 300.0);
    }
}
