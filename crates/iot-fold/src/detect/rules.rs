//! The rules of detectors, and the number that names them.

use iot_core::partition::fnv1a_32;

use super::{Detection, Kinds, LAYOUT};
use crate::kind::AlertKind;

/// The rules of detectors, made of their settings.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectRules {
    pub(super) config: Detection,
    enabled: Kinds,
    /// Names the rules. It is stored with each device: detectors start again where it is
    /// another one.
    pub(crate) version: u32,
}

impl DetectRules {
    /// The rules of these settings.
    #[must_use]
    pub fn new(config: Detection) -> Self {
        // Numbers and texts can always be written as JSON.
        let text = serde_json::to_string(&config).unwrap_or_default();
        Self {
            enabled: config.enabled(),
            version: fnv1a_32(&[&LAYOUT.to_le_bytes(), text.as_bytes()].concat()),
            config,
        }
    }

    /// The kinds that are enabled for a sensor.
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
