//! Section `detect`. docs/detection.md explains the settings and where their
//! defaults come from.

use std::collections::BTreeMap;

use iot_service::config::{HumanDuration, Problems};
use serde::{Deserialize, Serialize};

use super::millis;
use crate::model::AlertKind;

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

/// Section `detect.threshold`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThresholdConfig {
    /// Whether it is looked for.
    pub enabled: bool,
    /// How far a value has to be back inside, as a share of the limit.
    pub band: f64,
}

impl Default for ThresholdConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            band: 0.01,
        }
    }
}

/// Section `detect.spike`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpikeConfig {
    /// Whether it is looked for.
    pub enabled: bool,
    /// Weight of the newest reading in the forecast.
    pub weight: f64,
    /// Distance to the forecast, in standard deviations.
    pub limit: f64,
    /// Readings to learn from before the first alert.
    pub warm_up: u32,
    /// After so many in a row a new level is accepted.
    pub settle: u32,
}

impl Default for SpikeConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            weight: 0.6,
            limit: 4.5,
            warm_up: 100,
            settle: 10,
        }
    }
}

/// Section `detect.stuck`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StuckConfig {
    /// Whether it is looked for.
    pub enabled: bool,
    /// Equal readings in a row, at least.
    pub readings: u32,
    /// Share of readings that differ from the one before, for a sensor that varies.
    pub varies: f64,
    /// Readings to learn from before the first alert.
    pub warm_up: u32,
}

impl Default for StuckConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            readings: 10,
            varies: 0.5,
            warm_up: 100,
        }
    }
}

/// Section `detect.drift`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriftConfig {
    /// Whether it is looked for.
    pub enabled: bool,
    /// Weight of the newest reading in the usual level.
    pub weight: f64,
    /// Deviations that a reading may be away at no charge: k of the CUSUM.
    pub slack: f64,
    /// Sum of what is above, in deviations: h of the CUSUM.
    pub limit: f64,
    /// Readings to learn from before the first alert.
    pub warm_up: u32,
}

impl Default for DriftConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            weight: 0.005,
            slack: 1.5,
            limit: 15.0,
            warm_up: 200,
        }
    }
}

/// Section `detect.toggling`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TogglingConfig {
    /// Whether it is looked for.
    pub enabled: bool,
    /// Changes among the last readings.
    pub changes: u32,
    /// How many readings these are.
    pub readings: u32,
}

impl Default for TogglingConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            changes: 9,
            readings: 12,
        }
    }
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
