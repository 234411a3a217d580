//! The same value again and again, from a sensor that normally varies. What is normal is
//! learnt from the sensor itself.

use serde::{Deserialize, Serialize};

use super::{Check, Finding, Verdict};
use crate::model::Level;

/// Section `detect.stuck`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StuckConfig {
    /// Whether it is looked for.
    pub enabled: bool,
    /// Equal readings in a row, at least.
    pub readings: u32,
    /// A sensor varies when at least this share of its readings differ from the one before.
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

impl StuckConfig {
    pub(super) fn checks(&self) -> [Check; 2] {
        [
            Check::share("stuck.varies", self.varies),
            Check::new("stuck.readings", self.readings >= 2, "must be at least 2"),
        ]
    }
}

/// Weight of the newest reading in the share of changes.
const SHARE_WEIGHT: f64 = 0.01;
/// Weight of the newest run in the mean length of runs.
const RUN_WEIGHT: f64 = 0.1;
/// How unlikely a run must be, judged by the sensor's own runs: -ln of the probability.
const UNLIKELY: f64 = 13.815_510_557_964_274; // 1e-6
/// A run is critical at so many times the readings that raise an alert.
const CRITICAL: u32 = 10;

/// What was learnt from the previous readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stuck {
    /// Readings in a row that equal the one before.
    pub(crate) run: u32,
    /// Share of readings that differ from the one before.
    pub(crate) varies: f64,
    /// Mean length of runs. It makes a value that stays for a moment normal for a sensor
    /// that is coarse or at the end of its range.
    pub(crate) usual: f64,
}

impl Default for Stuck {
    fn default() -> Self {
        Self {
            run: 0,
            varies: 1.0,
            usual: 1.0,
        }
    }
}

impl Stuck {
    /// `number` counts the readings so far with this one, which is not the first.
    pub(super) fn look(&mut self, rules: &StuckConfig, number: u32, same: bool) -> Verdict {
        if same {
            self.run = self.run.saturating_add(1);
            if number > rules.warm_up && self.is_unusual(rules) {
                let critical = self.run >= rules.readings.saturating_mul(CRITICAL);
                return Verdict::Beyond(Finding {
                    level: Level::critical_if(critical),
                    limit: f64::from(rules.readings),
                    above: false,
                });
            }
        } else {
            if self.run > 0 && !(number > rules.warm_up && self.is_unusual(rules)) {
                self.usual += RUN_WEIGHT * (f64::from(self.run) - self.usual);
            }
            self.run = 0;
        }
        let alike = 1.0 / f64::from(number - 1);
        let changed = if same { 0.0 } else { 1.0 };
        self.varies += SHARE_WEIGHT.max(alike) * (changed - self.varies);
        Verdict::Normal
    }

    fn is_unusual(&self, rules: &StuckConfig) -> bool {
        // A run of n repetitions has the probability p^n, where p is how often a run
        // continues: 1 - 1 / mean for runs of that mean length.
        self.run + 1 >= rules.readings
            && self.varies >= rules.varies
            && f64::from(self.run) * -(1.0 - 1.0 / self.usual).ln() >= UNLIKELY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the readings that are found, of a log of whether each is equal to
    /// the one before.
    fn run(same: impl IntoIterator<Item = bool>) -> Vec<u32> {
        let rules = StuckConfig::default();
        let mut stuck = Stuck::default();
        let looks = (2..).zip(same);
        let found =
            looks.filter(|(number, same)| stuck.look(&rules, *number, *same) != Verdict::Normal);
        found.map(|(number, _)| number).collect()
    }

    #[test]
    fn a_sensor_that_varies_is_stuck_after_ten_equal_readings() {
        let log = [false; 200].into_iter().chain([true; 12]).chain([false]);
        // 2 to 201 differ; 202 is the second of the same value.
        assert_eq!(run(log), [210, 211, 212, 213]);
    }

    #[test]
    fn a_switch_is_never_stuck() {
        let log = (0..2_000).map(|n| n % 10 != 0).chain([true; 200]);
        assert_eq!(run(log), [0_u32; 0]);
    }

    #[test]
    fn runs_that_are_usual_for_a_sensor_are_normal() {
        let often = (0..2_000).map(|n| n % 20 < 3).chain([true; 100]);
        let found = run(often);
        assert!(found[0] > 2_001 + 30, "{found:?}");
    }
}
