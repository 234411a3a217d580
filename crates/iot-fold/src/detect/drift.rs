//! Away from the usual level, little by little: a two-sided CUSUM (Page, Biometrika 41,
//! 1954) of the standardised distances to a slow average.

use serde::{Deserialize, Serialize};

use super::{Check, Finding, Verdict};
use crate::model::Level;

/// Section `detect.drift`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriftConfig {
    /// Whether it is looked for.
    pub enabled: bool,
    /// Weight of the newest reading in the usual level.
    pub weight: f64,
    /// Deviations from the level that are not summed up: k of the CUSUM.
    pub slack: f64,
    /// The sum, in deviations, that raises an alert: h of the CUSUM.
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

impl DriftConfig {
    pub(super) fn checks(&self) -> [Check; 3] {
        [
            Check::weight("drift.weight", self.weight),
            Check::positive("drift.slack", self.slack),
            Check::positive("drift.limit", self.limit),
        ]
    }
}

/// A reading counts as at most so many deviations, so that a spike is no drift.
const MOST: f64 = 4.0;
/// A sum grows to at most so many times the limit, so that it falls again in time.
const END: f64 = 2.0;
/// An alert is cleared below this share of the limit.
const OVER: f64 = 0.5;

/// What was learnt from the previous readings.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Drift {
    /// The usual level.
    pub(crate) mean: f64,
    pub(crate) variance: f64,
    /// The two sums: how far recent readings were above and below the level, in deviations.
    pub(crate) up: f64,
    pub(crate) down: f64,
}

impl Drift {
    pub(super) fn new(value: f64) -> Self {
        Self {
            mean: value,
            ..Self::default()
        }
    }

    /// `number` counts the readings so far with this one, which is not the first; `step`
    /// is the smallest change so far.
    pub(super) fn look(
        &mut self,
        rules: &DriftConfig,
        number: u32,
        step: f64,
        value: f64,
    ) -> Verdict {
        let error = value - self.mean;
        let alike = 1.0 / f64::from(number);
        let weight = rules.weight.max(alike);
        if number <= rules.warm_up {
            self.mean += weight * error;
            self.variance += weight * (error * (value - self.mean) - self.variance);
            return Verdict::Normal;
        }
        let deviation = self.variance.sqrt().max(step);
        if deviation == 0.0 {
            // The sensor has only had one value.
            return Verdict::Normal;
        }
        let away = (error / deviation).clamp(-MOST, MOST);
        let end = END * rules.limit;
        self.up = (self.up + away - rules.slack).clamp(0.0, end);
        self.down = (self.down - away - rules.slack).clamp(0.0, end);
        let sum = self.up.max(self.down);
        let held = away * deviation;
        self.mean += weight * held;
        if sum > rules.limit {
            // Drifting readings say nothing about the normal variance.
            return Verdict::Beyond(Finding {
                level: Level::critical_if(sum >= end),
                limit: self.mean,
                above: self.up > self.down,
            });
        }
        self.variance += weight * (held * held - self.variance);
        if sum > OVER * rules.limit {
            Verdict::Near
        } else {
            Verdict::Normal
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(values: impl IntoIterator<Item = f64>) -> (Vec<usize>, Drift) {
        let rules = DriftConfig::default();
        let mut drift = Drift::new(10.0);
        let looks = values.into_iter().zip(2..).map(|(value, number)| {
            matches!(drift.look(&rules, number, 0.1, value), Verdict::Beyond(_))
        });
        let found: Vec<_> = looks.collect();
        let found = (0..).zip(found).filter(|(_, found)| *found);
        (found.map(|(at, _)| at).collect(), drift)
    }

    fn trembling(count: usize) -> impl Iterator<Item = f64> {
        [10.0, 11.0, 9.0].into_iter().cycle().take(count)
    }

    #[test]
    fn a_slow_way_up_or_down_is_found() {
        for direction in [1.0, -1.0] {
            let away = (0..30).map(|n| 10.0 + direction * 0.25 * f64::from(n));
            let (found, drift) = run(trembling(300).chain(away));
            assert!((308..330).contains(&found[0]), "{found:?}");
            assert_eq!(drift.up > drift.down, direction > 0.0);
        }
    }

    #[test]
    fn neither_trembling_nor_a_spike_is_a_drift() {
        let (found, _) = run(trembling(300).chain([500.0, 500.0]).chain(trembling(300)));
        assert_eq!(found, [0_usize; 0]);
    }

    #[test]
    fn a_new_level_is_the_usual_one_in_the_end() {
        let (found, drift) = run(trembling(300).chain(trembling(3_000).map(|value| value + 3.0)));
        assert!(
            found[0] < 330 && *found.last().unwrap() < 2_000,
            "{found:?}"
        );
        assert!((drift.mean - 13.0).abs() < 0.2, "{drift:?}");
    }
}
