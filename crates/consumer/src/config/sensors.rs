//! Sections `sensors` and `thresholds`. docs/consumer.md and docs/detection.md explain
//! them.

use iot_fold::{Known, Limit, Limits, SensorKind, ThresholdRule};
use iot_service::config::HumanDuration;
use serde::{Deserialize, Deserializer, Serialize};

use super::millis;

/// A sensor of section `sensors`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SensorConfig {
    /// Its name in readings.
    pub name: String,
    /// The unit of its stored values and of these limits.
    pub unit: String,
    /// The least value that a working sensor can report.
    #[serde(skip_serializing_if = "Limit::is_unset")]
    pub min: Limit,
    /// The greatest value that a working sensor can report.
    #[serde(skip_serializing_if = "Limit::is_unset")]
    pub max: Limit,
    /// Greater values raise an alert.
    #[serde(skip_serializing_if = "Limit::is_unset")]
    pub above: Limit,
    /// Smaller values raise an alert.
    #[serde(skip_serializing_if = "Limit::is_unset")]
    pub below: Limit,
    /// Whether its values are a total that rises, such as a meter's; otherwise the unit decides.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub kind: Option<SensorKind>,
    /// `for`: how long a value must stay beyond a limit before it raises an alert.
    #[serde(rename = "for")]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub min_duration: Option<HumanDuration>,
}

/// A rule of section `thresholds`: other limits for a sensor of some devices. A rule without a
/// condition matches all devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThresholdRuleConfig {
    /// Name of the sensor, which must be in the catalogue.
    pub sensor: String,
    /// Only devices of this tenant.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub tenant: Option<String>,
    /// Only devices of this project.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub project: Option<String>,
    /// Only devices in this building.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub building: Option<String>,
    /// Only devices on this floor.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub floor: Option<String>,
    /// Only devices in this room.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub room: Option<String>,
    /// Only this device.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub device: Option<String>,
    /// Greater values raise an alert.
    #[serde(skip_serializing_if = "Limit::is_unset")]
    pub above: Limit,
    /// Smaller values raise an alert.
    #[serde(skip_serializing_if = "Limit::is_unset")]
    pub below: Limit,
    /// `for`: how long a value must stay beyond a limit before it raises an alert.
    #[serde(rename = "for")]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub min_duration: Option<HumanDuration>,
}

/// What is present but empty is an error: a condition must not match all devices.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl ThresholdRuleConfig {
    /// The rule as the fold has it.
    pub(crate) fn rule(&self) -> ThresholdRule {
        ThresholdRule {
            sensor: self.sensor.clone(),
            tenant: self.tenant.clone(),
            project: self.project.clone(),
            building: self.building.clone(),
            floor: self.floor.clone(),
            room: self.room.clone(),
            device: self.device.clone(),
            above: self.above,
            below: self.below,
            min_duration: self.min_duration.map(|duration| millis(*duration)),
        }
    }
}

impl SensorConfig {
    /// The sensor as the catalogue has it.
    pub(crate) fn known(&self) -> Known {
        let or_none = |limit: Limit, none: f64| limit.or(none, none);
        let least = or_none(self.min, f64::NEG_INFINITY);
        Known {
            name: self.name.as_str().into(),
            unit: self.unit.as_str().into(),
            physical: least..=or_none(self.max, f64::INFINITY),
            limits: Limits {
                above: or_none(self.above, Limits::NONE.above),
                below: or_none(self.below, Limits::NONE.below),
                min_duration: self.min_duration.map_or(0, |duration| millis(*duration)),
            },
            kind: self.kind,
        }
    }
}
