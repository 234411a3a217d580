//! What detectors go by.

use std::collections::BTreeMap;

use iot_core::partition::fnv1a_32;
use serde::Serialize;

use super::{Kinds, LAYOUT};
use crate::config::{
    DetectConfig, DriftConfig, SpikeConfig, StuckConfig, ThresholdConfig, TogglingConfig,
};
use crate::model::AlertKind;

/// The settings that detectors learn by: all but those of silence, which learns nothing.
/// The names and their order are part of what names the rules.
#[derive(Serialize)]
struct Learning<'c> {
    threshold: &'c ThresholdConfig,
    spike: &'c SpikeConfig,
    stuck: &'c StuckConfig,
    drift: &'c DriftConfig,
    toggling: &'c TogglingConfig,
    off: &'c BTreeMap<String, Vec<AlertKind>>,
}

/// What detectors go by, and which rules these are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DetectRules {
    pub(super) config: DetectConfig,
    enabled: Kinds,
    /// Names the rules. State that was made by others is not gone on with.
    pub(crate) version: u32,
}

impl DetectRules {
    pub(crate) fn new(config: &DetectConfig) -> Self {
        let enabled = [
            (AlertKind::Threshold, config.threshold.enabled),
            (AlertKind::Spike, config.spike.enabled),
            (AlertKind::Stuck, config.stuck.enabled),
            (AlertKind::Drift, config.drift.enabled),
            (AlertKind::Toggling, config.toggling.enabled),
        ];
        let enabled = enabled.into_iter().filter(|(_, enabled)| *enabled);
        // Numbers and texts are always JSON.
        let text = serde_json::to_string(&Learning {
            threshold: &config.threshold,
            spike: &config.spike,
            stuck: &config.stuck,
            drift: &config.drift,
            toggling: &config.toggling,
            off: &config.off,
        });
        let text = text.unwrap_or_default();
        Self {
            config: config.clone(),
            enabled: enabled.map(|(kind, _)| kind).collect(),
            version: fnv1a_32(&[&LAYOUT.to_le_bytes(), text.as_bytes()].concat()),
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
        let rules = DetectRules::new(&DetectConfig::default());
        let mut config = DetectConfig::default();
        assert_eq!(DetectRules::new(&config), rules);
        config.spike.limit += 0.1;
        assert_ne!(DetectRules::new(&config).version, rules.version);
    }

    #[test]
    fn silence_learns_nothing() {
        let mut config = DetectConfig::default();
        let rules = DetectRules::new(&config);
        config.silence.enabled = false;
        assert_eq!(DetectRules::new(&config).version, rules.version);
    }

    #[test]
    fn kinds_are_off_for_all_or_for_one_sensor() {
        let mut config = DetectConfig::default();
        config.drift.enabled = false;
        let off = vec![AlertKind::Spike, AlertKind::Stuck];
        config.off.insert("valve".into(), off);
        let rules = DetectRules::new(&config);
        let kinds = |sensor| {
            let kinds = rules.kinds(sensor);
            AlertKind::ALL.map(|kind| kinds.has(kind))
        };
        assert_eq!(kinds("valve"), [true, false, false, false, true, false]);
        assert_eq!(kinds("other"), [true, true, true, false, true, false]);
    }
}
