//! Detectors. Each looks at the readings of one sensor, in the order of their time, and
//! decides for every reading whether it is normal. What a detector has learnt is part of
//! the sensor's state. docs/detection.md explains the methods.

mod drift;
mod rules;
#[cfg(test)]
mod score;
mod spike;
mod stuck;
#[cfg(test)]
mod tests;
pub(crate) mod threshold;
mod toggling;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalogue::Limits;
use crate::kind::AlertKind;
use crate::model::Level;
pub(crate) use drift::Drift;
pub use drift::DriftConfig;
pub use rules::DetectRules;
pub(crate) use spike::Spike;
pub use spike::SpikeConfig;
pub(crate) use stuck::Stuck;
pub use stuck::StuckConfig;
pub(crate) use threshold::Pending;
pub use threshold::ThresholdConfig;
pub(crate) use toggling::Toggling;
pub use toggling::TogglingConfig;

/// Part of what names the rules: to be increased whenever detectors learn or decide
/// differently.
const LAYOUT: u32 = 2;
/// A sensor with so many different values has many.
const MANY: u8 = 3;

/// The settings of all detectors. Their names and order are part of what names the rules:
/// another name or order makes detectors start again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Detection {
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
    /// Kinds that are off for single sensors, by name of the sensor.
    pub off: BTreeMap<String, Vec<AlertKind>>,
}

impl Detection {
    fn enabled(&self) -> Kinds {
        let kinds = [
            (AlertKind::Threshold, self.threshold.enabled),
            (AlertKind::Spike, self.spike.enabled),
            (AlertKind::Stuck, self.stuck.enabled),
            (AlertKind::Drift, self.drift.enabled),
            (AlertKind::Toggling, self.toggling.enabled),
        ];
        let enabled = kinds.into_iter().filter(|(_, enabled)| *enabled);
        enabled.map(|(kind, _)| kind).collect()
    }

    /// The settings that are out of range: their paths, such as `spike.weight`, and what
    /// they must be.
    pub fn problems(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let checks = self.threshold.checks().into_iter();
        let checks = checks.chain(self.spike.checks()).chain(self.stuck.checks());
        let checks = checks.chain(self.drift.checks());
        let checks = checks.chain(self.toggling.checks());
        checks.filter_map(|check| (!check.is_valid).then_some((check.path, check.must_be)))
    }
}

/// A setting, and what it must be.
struct Check {
    path: &'static str,
    is_valid: bool,
    must_be: &'static str,
}

impl Check {
    fn new(path: &'static str, is_valid: bool, must_be: &'static str) -> Self {
        Self {
            path,
            is_valid,
            must_be,
        }
    }

    /// A weight of the newest reading in an average.
    fn weight(path: &'static str, weight: f64) -> Self {
        let is_valid = weight > 0.0 && weight <= 1.0;
        Self::new(path, is_valid, "must be above 0 and at most 1")
    }

    fn share(path: &'static str, share: f64) -> Self {
        let is_valid = (0.0..=1.0).contains(&share);
        Self::new(path, is_valid, "must be between 0 and 1")
    }

    fn positive(path: &'static str, number: f64) -> Self {
        let is_valid = number > 0.0 && number.is_finite();
        Self::new(path, is_valid, "must be above 0")
    }
}

/// What a detector decides about a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    /// It is normal: an active alert is over.
    Normal,
    /// It is too close to the limit to raise an alert or to clear one.
    Near,
    /// It is beyond what is normal.
    Beyond(Finding),
}

impl Verdict {
    /// Whether it is beyond the limit on the side opposite to `side`.
    pub(crate) fn is_beyond_other(self, side: Option<bool>) -> bool {
        match self {
            Self::Beyond(finding) => side.is_some_and(|above| above != finding.above),
            Self::Normal | Self::Near => false,
        }
    }
}

/// What is wrong with a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What the value is compared with: see [`Alert::limit`](crate::Alert::limit).
    pub(crate) limit: f64,
    /// Whether the value is above the limit.
    pub(crate) above: bool,
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kinds(u8);

impl Kinds {
    pub(crate) fn has(self, kind: AlertKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    pub(crate) fn without(self, kind: AlertKind) -> Self {
        Self(self.0 & !(1 << kind as u8))
    }
}

impl FromIterator<AlertKind> for Kinds {
    fn from_iter<I: IntoIterator<Item = AlertKind>>(kinds: I) -> Self {
        let bits = kinds.into_iter().map(|kind| 1 << kind as u8);
        Self(bits.fold(0, |all, bit: u8| all | bit))
    }
}

/// What detectors have learnt about a sensor. Only sensors of two values can toggle; only
/// the others can be stuck, drift and have spikes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Detectors {
    /// Readings so far.
    pub(crate) readings: u32,
    /// Different values so far: 1, 2, or 3 for many.
    pub(crate) values: u8,
    /// The newest value, and the previous different one.
    pub(crate) last: f64,
    pub(crate) other: f64,
    /// The smallest change so far, 0 before the first: an estimate of the sensor's
    /// resolution.
    pub(crate) step: f64,
    pub(crate) spike: Spike,
    pub(crate) stuck: Stuck,
    pub(crate) drift: Drift,
    pub(crate) toggling: Toggling,
    /// A value beyond a limit that has not raised an alert yet.
    pub(crate) pending: Option<Pending>,
}

impl Default for Detectors {
    fn default() -> Self {
        Self {
            readings: 0,
            values: 0,
            last: 0.0,
            other: 0.0,
            step: 0.0,
            spike: Spike::default(),
            stuck: Stuck::default(),
            drift: Drift::default(),
            toggling: Toggling::default(),
            pending: None,
        }
    }
}

impl Detectors {
    /// Looks at the next reading. The verdicts are indexed by the number of their kind;
    /// `side` is the side of the limits on which an alert is active, and `at` the event time, or
    /// the record time where that is less.
    pub(crate) fn look(
        &mut self,
        rules: &DetectRules,
        kinds: Kinds,
        (limits, side): (Limits, Option<bool>),
        (value, at): (f64, i64),
    ) -> [Verdict; AlertKind::ALL.len()] {
        let mut verdicts = [Verdict::Normal; AlertKind::ALL.len()];
        let mut set = |kind: AlertKind, verdict| verdicts[kind as usize] = verdict;
        let config = &rules.config;
        if kinds.has(AlertKind::Threshold) {
            let verdict = threshold::look(limits, config.threshold.band, side, value);
            let pending = &mut self.pending;
            let verdict = threshold::hold(pending, limits.min_duration, side, verdict, at);
            set(AlertKind::Threshold, verdict);
        }
        self.readings = self.readings.saturating_add(1);
        let number = self.readings;
        if number == 1 {
            (self.values, self.last) = (1, value);
            (self.spike, self.drift) = (Spike::new(value), Drift::new(value));
            return verdicts;
        }
        let same = value == self.last;
        if !same {
            self.count_value(value);
        }
        if self.values < MANY && kinds.has(AlertKind::Toggling) {
            let verdict = self.toggling.look(&config.toggling, same);
            set(AlertKind::Toggling, verdict);
        }
        // These learn from a sensor of two values too, which may turn out to have more.
        let many = self.values >= MANY;
        let of_many = |verdict| if many { verdict } else { Verdict::Normal };
        if kinds.has(AlertKind::Spike) {
            let verdict = self.spike.look(&config.spike, number, self.step, value);
            set(AlertKind::Spike, of_many(verdict));
        }
        if kinds.has(AlertKind::Stuck) {
            let verdict = self.stuck.look(&config.stuck, number, same);
            set(AlertKind::Stuck, of_many(verdict));
        }
        if kinds.has(AlertKind::Drift) {
            let verdict = self.drift.look(&config.drift, number, self.step, value);
            set(AlertKind::Drift, of_many(verdict));
        }
        verdicts
    }

    fn count_value(&mut self, value: f64) {
        let step = (value - self.last).abs();
        if self.values == 1 {
            (self.values, self.step) = (2, step);
        } else if value != self.other {
            self.values = MANY;
        }
        self.step = self.step.min(step);
        (self.other, self.last) = (self.last, value);
    }
}
