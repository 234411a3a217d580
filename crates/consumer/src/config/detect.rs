//! Section `detect`. docs/detection.md explains the settings and where their
//! defaults come from.

use std::collections::BTreeMap;

use iot_fold::{
    AlertKind, DetectRules, Detection, DriftConfig, SpikeConfig, StuckConfig, ThresholdConfig,
    TogglingConfig,
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
    /// Far from what the readings before let expect.
    pub spike: SpikeConfig,
    /// The same value again and again.
    pub stuck: StuckConfig,
    /// Away from the usual level, little by little.
    pub drift: DriftConfig,
    /// A switch that changes too often.
    pub toggling: TogglingConfig,
    /// A device of which nothing is heard any more.
    pub silence: SilenceConfig,
    /// Kinds that are not looked for, by name of the sensor.
    pub off: BTreeMap<String, Vec<AlertKind>>,
}

/// Section `detect.silence`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SilenceConfig {
    /// Whether it is looked for.
    pub enabled: bool,
    /// How long nothing is heard of a device, by the time of its partition.
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
    /// In milliseconds; `None` if it is not looked for.
    pub(crate) fn patience(&self) -> Option<i64> {
        self.enabled.then(|| millis(*self.after))
    }
}

impl DetectConfig {
    /// What detectors go by.
    pub(crate) fn rules(&self) -> DetectRules {
        DetectRules::new(Detection {
            threshold: self.threshold.clone(),
            spike: self.spike.clone(),
            stuck: self.stuck.clone(),
            drift: self.drift.clone(),
            toggling: self.toggling.clone(),
            off: self.off.clone(),
        })
    }

    pub(crate) fn validate(&self, problems: &mut Problems) {
        let mut check = |valid: bool, path: &str, text: &str| {
            if !valid {
                problems.add(path, text);
            }
        };
        check(
            self.silence.after.as_secs() >= 1,
            "detect.silence.after",
            "must be at least 1s",
        );
        let mut off = self.off.values().flatten();
        check(
            off.all(|kind| *kind != AlertKind::Silence),
            "detect.off",
            "silence is of devices, not of a sensor: use detect.silence.enabled",
        );
        let weight = |weight: f64| weight > 0.0 && weight <= 1.0;
        let share = |share: f64| (0.0..=1.0).contains(&share);
        let positive = |number: f64| number > 0.0 && number.is_finite();
        let (spike, drift) = (&self.spike, &self.drift);
        const WEIGHT: &str = "must be above 0 and at most 1";
        const SHARE: &str = "must be between 0 and 1";
        const POSITIVE: &str = "must be above 0";
        check(share(self.threshold.band), "detect.threshold.band", SHARE);
        check(weight(spike.weight), "detect.spike.weight", WEIGHT);
        check(positive(spike.limit), "detect.spike.limit", POSITIVE);
        check(
            (1..=255).contains(&spike.settle),
            "detect.spike.settle",
            "must be 1 to 255",
        );
        check(share(self.stuck.varies), "detect.stuck.varies", SHARE);
        check(
            self.stuck.readings >= 2,
            "detect.stuck.readings",
            "must be at least 2",
        );
        check(weight(drift.weight), "detect.drift.weight", WEIGHT);
        check(positive(drift.slack), "detect.drift.slack", POSITIVE);
        check(positive(drift.limit), "detect.drift.limit", POSITIVE);
        let TogglingConfig {
            changes, readings, ..
        } = self.toggling;
        check(
            (2..=32).contains(&readings),
            "detect.toggling.readings",
            "must be 2 to 32",
        );
        check(
            (1..=readings).contains(&changes),
            "detect.toggling.changes",
            "must be at least 1 and at most detect.toggling.readings",
        );
    }
}
