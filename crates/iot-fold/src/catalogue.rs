//! The sensors that are known: the standard ones and those of section `sensors`.

use std::ops::RangeInclusive;

use iot_core::sensor::{self, Sensor, Threshold};
use serde::{Deserialize, Serialize};

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

/// What the values of a sensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SensorKind {
    /// A quantity that rises and falls, such as a temperature.
    Gauge,
    /// A total that rises until it is reset, such as energy. It has no usual level, so drift is
    /// not detected.
    Counter,
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
    /// `None`: a counter if the unit is one of energy, else a gauge.
    pub kind: Option<SensorKind>,
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
            kind: None,
        }
    }
}

/// All sensors that are known, ordered by the length of the name and then by the name: most
/// comparisons need only the length.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalogue {
    known: Vec<Known>,
    has_chips: bool,
}

impl Catalogue {
    /// The configured sensors, and the standard ones whose names these do not have.
    #[must_use]
    pub fn new(configured: impl IntoIterator<Item = Known>) -> Self {
        let mut all: Vec<_> = configured.into_iter().collect();
        let replaced = |name: &str| all.iter().any(|known| *known.name == *name);
        let standard = sensor::ALL.iter().filter(|sensor| !replaced(sensor.name));
        let standard: Vec<_> = standard.map(Known::standard).collect();
        all.extend(standard);
        all.sort_by(|a, b| rank(&a.name).cmp(&rank(&b.name)));
        Self {
            known: all,
            has_chips: false,
        }
    }

    /// Sets whether sensors can be named after a chip: the sensor
    /// `ds18b20-temperature` is then a `temperature`, unless it has an entry of its own.
    #[must_use]
    pub fn with_chips(self, has_chips: bool) -> Self {
        Self { has_chips, ..self }
    }

    /// Whether some devices have several chips.
    #[must_use]
    pub fn has_chips(&self) -> bool {
        self.has_chips
    }

    /// The sensor of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Known> {
        let found = self
            .known
            .binary_search_by(|known| rank(&known.name).cmp(&rank(name)));
        found.ok().map(|at| &self.known[at])
    }

    /// The sensor of that name, or that of the name without its chip.
    #[must_use]
    pub fn find_of_chip(&self, name: &str) -> Option<&Known> {
        let names = self.has_chips.then(|| without_chip(name));
        let mut others = names.into_iter().flatten();
        self.find(name)
            .or_else(|| others.find_map(|other| self.find(other)))
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Known] {
        &self.known
    }
}

fn rank(name: &str) -> (usize, &str) {
    (name.len(), name)
}

/// Possible sensor names after removing the chip, longest first. Names of chips may
/// have hyphens too: `ds18b20-1-temperature`.
pub(crate) fn without_chip(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('-').map(|(at, _)| &name[at + 1..])
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
            kind: None,
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

    #[test]
    fn a_sensor_of_a_chip_is_found_without_the_chip_if_there_are_chips() {
        let find = |has_chips, name: &str| {
            let catalogue = Catalogue::new([]).with_chips(has_chips);
            let found = catalogue.find_of_chip(name);
            found.map(|known| known.name.to_string())
        };
        for name in ["temperature", "am2301-temperature", "ds18b20-1-temperature"] {
            assert_eq!(find(true, name).as_deref(), Some("temperature"));
        }
        for name in ["am2301-dew", "temperature-am2301", "am2301temperature"] {
            assert_eq!(find(true, name), None);
        }
        assert_eq!(find(false, "am2301-temperature"), None);
    }
}
