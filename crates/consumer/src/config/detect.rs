//! Section `detect`. docs/detection.md explains the settings and where their
//! defaults come from.

use std::collections::BTreeMap;

use iot_fold::AlertKind;
use iot_fold::detect::{
    DetectRules, Detection, DriftConfig, SpikeConfig, StuckConfig, ThresholdConfig, TogglingConfig,
};
use iot_service::config::{HumanDuration, Problems};
use serde::{Deserialize, Serialize};

use super::millis;

/// Section `detect`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectConfig {
    /// Beyond a limit of the sensor.
    pub threshold: ThresholdConfig,
    /// Far from what the previous readings predict.
    pub spike: SpikeConfig,
    /// The same value again and again.
    pub stuck: StuckConfig,
    /// Away from the usual level, little by little.
    pub drift: DriftConfig,
    /// A switch that changes too often.
    pub toggling: TogglingConfig,
    /// A device that sends no messages any more.
    pub silence: SilenceConfig,
    /// Kinds that are off for single sensors, by name of the sensor.
    pub off: BTreeMap<String, Vec<AlertKind>>,
}

/// Section `detect.silence`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SilenceConfig {
    /// Whether it is on.
    pub enabled: bool,
    /// How long a device may send nothing, in the time of its partition.
    pub after: HumanDuration,
}

impl Default for SilenceConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            after: HumanDuration::from_secs(30 * 60),
        }
    }
}

impl SilenceConfig {
    /// In milliseconds; `None` if it is off.
    pub(crate) fn patience(&self) -> Option<i64> {
        self.enabled.then(|| millis(*self.after))
    }
}

impl DetectConfig {
    /// The rules of detectors.
    pub(crate) fn rules(&self) -> DetectRules {
        DetectRules::new(self.detection())
    }

    /// The settings without those of silence, which is no detector.
    fn detection(&self) -> Detection {
        Detection {
            threshold: self.threshold.clone(),
            spike: self.spike.clone(),
            stuck: self.stuck.clone(),
            drift: self.drift.clone(),
            toggling: self.toggling.clone(),
            off: self.off.clone(),
        }
    }

    pub(crate) fn validate(&self, problems: &mut Problems) {
        if self.silence.after.as_secs() < 1 {
            problems.add("detect.silence.after", "must be at least 1s");
        }
        if self.off.values().flatten().any(|kind| kind.is_of_device()) {
            problems.add(
                "detect.off",
                "silence is of devices, not of a sensor: use detect.silence.enabled",
            );
        }
        for (path, must_be) in self.detection().problems() {
            problems.add(format!("detect.{path}"), must_be);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_silence_are_no_rules_of_detectors() {
        let mut config = DetectConfig::default();
        let rules = config.rules();
        config.silence.enabled = false;
        assert_eq!(config.rules(), rules);
    }
}
