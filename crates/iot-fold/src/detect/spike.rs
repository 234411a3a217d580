//! A reading far from what the previous ones predict: the z-score of the error of a
//! forecast, which is an exponentially weighted moving average (Roberts, Technometrics 1,
//! 1959).

use serde::{Deserialize, Serialize};

use super::{Check, Finding, Verdict};
use crate::model::Level;

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
    /// So many in a row are a new level and no spike.
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

impl SpikeConfig {
    pub(super) fn checks(&self) -> [Check; 3] {
        [
            Check::weight("spike.weight", self.weight),
            Check::positive("spike.limit", self.limit),
            Check::new(
                "spike.settle",
                (1..=255).contains(&self.settle),
                "must be 1 to 255",
            ),
        ]
    }
}

/// Weight of the newest squared error in the variance: about a hundred readings make a
/// variance that is accurate to a seventh.
const VARIANCE_WEIGHT: f64 = 0.02;
/// A spike is critical at so many times the limit.
const CRITICAL: f64 = 2.0;

/// What was learnt from the previous readings.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Spike {
    /// The forecast.
    pub(crate) mean: f64,
    /// Mean square of its errors.
    pub(crate) variance: f64,
    /// Readings beyond the limit in a row.
    pub(crate) beyond: u8,
}

impl Spike {
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
        rules: &SpikeConfig,
        number: u32,
        step: f64,
        value: f64,
    ) -> Verdict {
        let error = value - self.mean;
        // No forecast is more accurate than the resolution of the sensor.
        let variance = self.variance.max(step * step);
        let limit = rules.limit * rules.limit * variance;
        let square = error * error;
        if number > rules.warm_up && square > limit {
            self.beyond = self.beyond.saturating_add(1);
            if u32::from(self.beyond) < rules.settle {
                let above = error > 0.0;
                let room = if above { limit.sqrt() } else { -limit.sqrt() };
                return Verdict::Beyond(Finding {
                    level: Level::critical_if(square > CRITICAL * CRITICAL * limit),
                    limit: self.mean + room,
                    above,
                });
            }
            // A new level: the readings on the way there say nothing about its variance.
            (self.mean, self.beyond) = (value, 0);
            return Verdict::Normal;
        }
        self.beyond = 0;
        // The first readings have equal weights, as in a plain mean.
        let alike = 1.0 / f64::from(number);
        self.mean += rules.weight.max(alike) * error;
        let alike = 1.0 / f64::from(number - 1);
        self.variance += VARIANCE_WEIGHT.max(alike) * (square - self.variance);
        Verdict::Normal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(values: impl IntoIterator<Item = f64>) -> Vec<bool> {
        let rules = SpikeConfig {
            warm_up: 20,
            settle: 3,
            ..SpikeConfig::default()
        };
        let mut spike = Spike::new(10.0);
        let looks = values.into_iter().zip(2..).map(|(value, number)| {
            matches!(spike.look(&rules, number, 0.1, value), Verdict::Beyond(_))
        });
        looks.collect()
    }

    fn trembling(count: usize) -> impl Iterator<Item = f64> {
        [10.0, 10.5, 9.5].into_iter().cycle().take(count)
    }

    #[test]
    fn one_reading_far_away_is_found_and_not_learnt_from() {
        let values = trembling(30)
            .chain([30.0])
            .chain(trembling(30))
            .chain([30.0]);
        let found: Vec<_> = (0..).zip(run(values)).filter(|(_, found)| *found).collect();
        assert_eq!(found, [(30, true), (61, true)]);
    }

    #[test]
    fn a_new_level_is_accepted_after_a_while() {
        let values = trembling(30).chain(trembling(10).map(|value| value + 20.0));
        assert_eq!(run(values)[30..], [vec![true; 2], vec![false; 8]].concat());
    }

    #[test]
    fn nothing_is_said_while_learning_or_within_the_resolution() {
        assert!(!run([10.0, 50.0, 10.0]).contains(&true));
        assert!(!run([10.0; 30].into_iter().chain([10.4])).contains(&true));
    }
}
