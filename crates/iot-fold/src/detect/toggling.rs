//! A switch that changes too often: changes among the last readings of a sensor that has
//! two values.

use serde::{Deserialize, Serialize};

use super::{Check, Finding, Verdict};
use crate::model::Level;

/// Section `detect.toggling`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TogglingConfig {
    /// Whether it is looked for.
    pub enabled: bool,
    /// Changes among the last readings.
    pub changes: u32,
    /// How many readings that are.
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

impl TogglingConfig {
    pub(super) fn checks(&self) -> [Check; 2] {
        [
            Check::new(
                "toggling.readings",
                (2..=32).contains(&self.readings),
                "must be 2 to 32",
            ),
            Check::new(
                "toggling.changes",
                (1..=self.readings).contains(&self.changes),
                "must be at least 1 and at most detect.toggling.readings",
            ),
        ]
    }
}

/// The last 32 readings, the newest in the lowest bit: 1 if it differs from the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Toggling {
    pub(crate) changes: u32,
}

impl Toggling {
    pub(super) fn look(&mut self, rules: &TogglingConfig, same: bool) -> Verdict {
        self.changes = self.changes << 1 | u32::from(!same);
        let looked_at = u32::MAX >> (32 - rules.readings.clamp(1, 32));
        let changes = (self.changes & looked_at).count_ones();
        if changes >= rules.changes {
            Verdict::Beyond(Finding {
                level: Level::critical_if(changes >= rules.readings),
                limit: f64::from(rules.changes),
                above: true,
            })
        } else if changes > rules.changes / 2 {
            Verdict::Near
        } else {
            Verdict::Normal
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_changes_among_the_last_readings() {
        let rules = TogglingConfig {
            enabled: true,
            changes: 4,
            readings: 6,
        };
        let mut toggling = Toggling::default();
        let mut look = |same| match toggling.look(&rules, same) {
            Verdict::Normal => 'n',
            Verdict::Near => '~',
            Verdict::Beyond(finding) if finding.level == Level::Critical => 'C',
            Verdict::Beyond(_) => 'W',
        };
        let log = "cccccc......c";
        let seen: String = log.chars().map(|sign| look(sign == '.')).collect();
        assert_eq!(seen, "nn~WWCWW~nnnn");
    }
}
