//! Settings of the sensors.

use iot_service::config::HumanDuration;
use serde::{Deserialize, Serialize};

use crate::sensors::{self, Normal};

/// Section `sensors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SensorsConfig {
    /// Sensors of every device, in the order of the readings.
    pub enabled: Vec<String>,
    /// Whether values follow the time of day, the season, the weather and the load.
    pub trend_enabled: bool,
    /// Factor of trends, 0 to 1.
    pub trend_strength: f64,
    /// Factor of the deviation of normal values, 0 to 1.
    pub variation: f64,
    /// Air temperature, degrees Celsius.
    pub temperature: SensorConfig,
    /// Relative humidity, percent.
    pub humidity: SensorConfig,
    /// Air pressure, hectopascal.
    pub pressure: SensorConfig,
    /// A switch.
    pub switch: SwitchConfig,
    /// Current, ampere.
    pub current: SensorConfig,
}

/// Sections of sensors with a normal distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SensorConfig {
    /// Mean of normal values, in the unit of the sensor.
    pub mean: f64,
    /// Standard deviation of normal values, over time and over all devices.
    pub deviation: f64,
    /// Time after which the correlation of a value with an earlier one has fallen to 1/e;
    /// 0 for a coefficient of 0.7 from reading to reading, whatever the interval.
    pub correlation: HumanDuration,
    /// Share of the variance that is a constant level of the device, 0 to 1.
    pub own_level: f64,
}

/// Section `sensors.switch`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwitchConfig {
    /// As in [`SensorConfig`].
    pub correlation: HumanDuration,
}

impl SensorConfig {
    fn of(name: &str) -> Self {
        match sensors::find(name).map(|profile| profile.normal) {
            Some(Normal::Gauss { mean, deviation }) => Self {
                mean,
                deviation,
                ..Self::default()
            },
            _ => Self::default(),
        }
    }
}

impl Default for SensorsConfig {
    fn default() -> Self {
        let names = sensors::PROFILES.iter().map(|profile| profile.name);
        Self {
            enabled: names.map(str::to_owned).collect(),
            trend_enabled: true,
            trend_strength: 1.0,
            variation: 1.0,
            temperature: SensorConfig::of("temperature"),
            humidity: SensorConfig::of("humidity"),
            pressure: SensorConfig::of("pressure"),
            switch: SwitchConfig::default(),
            current: SensorConfig::of("current"),
        }
    }
}

impl SensorsConfig {
    /// The section of each sensor with a normal distribution, by name.
    pub(crate) fn normal(&self) -> [(&'static str, &SensorConfig); 4] {
        [
            ("temperature", &self.temperature),
            ("humidity", &self.humidity),
            ("pressure", &self.pressure),
            ("current", &self.current),
        ]
    }

    /// The section of a sensor with a normal distribution.
    pub(crate) fn normal_of(&self, name: &str) -> Option<&SensorConfig> {
        let mut sections = self.normal().into_iter();
        sections.find_map(|(known, section)| (known == name).then_some(section))
    }
}
