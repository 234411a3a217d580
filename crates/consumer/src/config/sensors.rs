//! Sections `sensors` and `thresholds`. docs/consumer.md and docs/detection.md explain
//! them.

use iot_fold::{Known, Limit, Limits, SensorKind};
use serde::{Deserialize, Serialize};

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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<SensorKind>,
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
            },
            kind: self.kind,
        }
    }
}
