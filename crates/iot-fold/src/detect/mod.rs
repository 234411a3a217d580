//! Detectors: each looks at the readings of one sensor in the order of their time
//! and says of every reading whether it is as it should be. They are pure, and
//! their state is part of the sensor's. docs/detection.md explains them.

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

use crate::catalogue::Limits;
use crate::model::{AlertKind, Level};
pub(crate) use drift::Drift;
pub use drift::DriftConfig;
pub use rules::{DetectRules, Detection};
pub(crate) use spike::Spike;
pub use spike::SpikeConfig;
pub(crate) use stuck::Stuck;
pub use stuck::StuckConfig;
pub use threshold::ThresholdConfig;
pub(crate) use toggling::Toggling;
pub use toggling::TogglingConfig;

/// Changes whenever detectors come to learn or find something else.
const LAYOUT: u32 = 2;
/// So many different values make a sensor one with many.
const MANY: u8 = 3;

/// What a detector says of a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    /// It is as it should be: an alert is over.
    Normal,
    /// Too near to the limit to raise an alert, or to clear one.
    Near,
    /// It is not as it should be.
    Beyond(Finding),
}

impl Verdict {
    /// Whether it is beyond the limit on the other side than that one.
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
    /// What it is measured by; what that is depends on the kind of the alert.
    pub(crate) limit: f64,
    /// On which side of the limit.
    pub(crate) above: bool,
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kinds(u8);

impl Kinds {
    pub(crate) fn has(self, kind: AlertKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }
}

impl FromIterator<AlertKind> for Kinds {
    fn from_iter<I: IntoIterator<Item = AlertKind>>(kinds: I) -> Self {
        let bits = kinds.into_iter().map(|kind| 1 << kind as u8);
        Self(bits.fold(0, |all, bit: u8| all | bit))
    }
}

/// What detectors have learnt of a sensor. Two-valued sensors can toggle; the
/// others can be stuck, drift and have spikes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Detectors {
    /// Readings so far.
    pub(crate) readings: u32,
    /// Different values so far: 1, 2, or 3 for many.
    pub(crate) values: u8,
    /// The newest value, and the other one of two.
    pub(crate) last: f64,
    pub(crate) other: f64,
    /// The smallest change so far, 0 before the first: about the resolution of the
    /// sensor.
    pub(crate) step: f64,
    pub(crate) spike: Spike,
    pub(crate) stuck: Stuck,
    pub(crate) drift: Drift,
    pub(crate) toggling: Toggling,
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
        }
    }
}

impl Detectors {
    /// Looks at the next reading; the verdicts are by number of the kind. With the
    /// limits comes the side on which an alert of theirs is active.
    pub(crate) fn look(
        &mut self,
        rules: &DetectRules,
        kinds: Kinds,
        (limits, side): (Limits, Option<bool>),
        value: f64,
    ) -> [Verdict; AlertKind::OF_SENSORS] {
        let mut verdicts = [Verdict::Normal; AlertKind::OF_SENSORS];
        let mut set = |kind: AlertKind, verdict| verdicts[kind as usize] = verdict;
        let config = &rules.config;
        if kinds.has(AlertKind::Threshold) {
            let verdict = threshold::look(limits, config.threshold.band, side, value);
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
        // A sensor of two values learns too: it may turn out to have more.
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
