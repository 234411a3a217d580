//! What detectors go by.

use std::collections::BTreeMap;

use iot_core::partition::fnv1a_32;
use serde::{Deserialize, Serialize};

use super::{
    DriftConfig, Kinds, LAYOUT, SpikeConfig, StuckConfig, ThresholdConfig, TogglingConfig,
};
use crate::model::AlertKind;

/// The settings of detectors. The names and their order are part of what names the rules.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Detection {
    /// Beyond a limit of the sensor.
    pub threshold: ThresholdConfig,
    /// Far from what the readings before let expect.
    pub spike: SpikeConfig,
    /// The same value again and again.
    pub stuck: StuckConfig,
    /// Away from the usual level, little by little.
    pub drift: DriftConfig,
    /// A switch that changes too often.
    pub toggling: TogglingConfig,
    /// Kinds that are not looked for, by name of the sensor.
    pub off: BTreeMap<String, Vec<AlertKind>>,
}

/// What detectors go by, and which rules these are.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectRules {
    pub(super) config: Detection,
    enabled: Kinds,
    /// Names the rules. State that was made by others is not gone on with.
    pub(crate) version: u32,
}

impl DetectRules {
    /// Rules made of these settings.
    #[must_use]
    pub fn new(config: Detection) -> Self {
        let enabled = [
            (AlertKind::Threshold, config.threshold.enabled),
            (AlertKind::Spike, config.spike.enabled),
            (AlertKind::Stuck, config.stuck.enabled),
            (AlertKind::Drift, config.drift.enabled),
            (AlertKind::Toggling, config.toggling.enabled),
        ];
        let enabled = enabled.into_iter().filter(|(_, enabled)| *enabled);
        // Numbers and texts are always JSON.
        let text = serde_json::to_string(&config);
        let text = text.unwrap_or_default();
        Self {
            enabled: enabled.map(|(kind, _)| kind).collect(),
            version: fnv1a_32(&[&LAYOUT.to_le_bytes(), text.as_bytes()].concat()),
            config,
        }
    }

    /// What is looked for in a sensor.
    pub(crate) fn kinds(&self, sensor: &str) -> Kinds {
        let off = self.config.off.get(sensor).map_or(&[][..], |off| off);
        let kinds = AlertKind::ALL.into_iter();
        let kinds = kinds.filter(|kind| self.enabled.has(*kind) && !off.contains(kind));
        kinds.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_makes_other_rules() {
        let rules = DetectRules::new(Detection::default());
        let mut config = Detection::default();
        assert_eq!(DetectRules::new(config.clone()), rules);
        config.spike.limit += 0.1;
        assert_ne!(DetectRules::new(config).version, rules.version);
    }

    #[test]
    fn kinds_are_off_for_all_or_for_one_sensor() {
        let mut config = Detection::default();
        config.drift.enabled = false;
        let off = vec![AlertKind::Spike, AlertKind::Stuck];
        config.off.insert("valve".into(), off);
        let rules = DetectRules::new(config);
        let kinds = |sensor| {
            let kinds = rules.kinds(sensor);
            AlertKind::ALL.map(|kind| kinds.has(kind))
        };
        assert_eq!(kinds("valve"), [true, false, false, false, true, false]);
        assert_eq!(kinds("other"), [true, true, true, false, true, false]);
    }
}
