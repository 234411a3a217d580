//! The rules of detectors, and the number that names them.

use iot_core::partition::fnv1a_32;

use super::{Detection, Kinds, LAYOUT};
use crate::catalogue::without_chip;
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

    /// The kinds that are enabled for a sensor. With `has_chips`, those that are off for the name
    /// without its chip are off, unless the whole name has an entry.
    pub(crate) fn kinds(&self, sensor: &str, has_chips: bool) -> Kinds {
        let of = |name: &str| self.config.off.get(name).map(|off| &**off);
        let of_chip = || {
            has_chips
                .then(|| without_chip(sensor).find_map(of))
                .flatten()
        };
        let off = of(sensor).or_else(of_chip).unwrap_or_default();
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
        config.off.insert("old-valve".into(), Vec::new());
        let rules = DetectRules::new(config);
        let kinds = |sensor, has_chips| {
            let kinds = rules.kinds(sensor, has_chips);
            AlertKind::ALL.map(|kind| kinds.has(kind))
        };
        let (without, all) = (
            [true, false, false, false, true, false],
            [true, true, true, false, true, false],
        );
        assert_eq!(
            [kinds("valve", false), kinds("other", true)],
            [without, all]
        );
        // Those of chips follow the plain name, unless they are named themselves.
        assert_eq!(kinds("new-1-valve", true), without);
        assert_eq!(kinds("old-valve", true), all);
        assert_eq!(kinds("new-1-valve", false), all);
    }
}
