//! The limits of a sensor, with hysteresis: a value that moves around a limit makes one
//! alert, not many.

use serde::{Deserialize, Serialize};

use super::{Check, Finding, Verdict};
use crate::catalogue::Limits;
use crate::model::Level;

/// Section `detect.threshold`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThresholdConfig {
    /// Whether it is looked for.
    pub enabled: bool,
    /// How far a value must be back inside to clear an alert, as a share of the limit.
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

impl ThresholdConfig {
    pub(super) fn checks(&self) -> [Check; 1] {
        [Check::share("threshold.band", self.band)]
    }
}

/// An alert is critical when the value is beyond the limit by more than this share of it.
const CRITICAL: f64 = 0.2;

/// Compares a value with the limits. `band` is how far it must be back inside, as a share
/// of the limit; `side` is whether an active alert is about a value above its limit, or
/// `None` without an active alert.
pub(crate) fn look(limits: Limits, band: f64, side: Option<bool>, value: f64) -> Verdict {
    let Limits { above, below, .. } = limits;
    if value > above {
        return beyond(above, value - above, true);
    }
    if value < below {
        return beyond(below, below - value, false);
    }
    let near = match side {
        Some(true) => above - value < band * above.abs(),
        Some(false) => value - below < band * below.abs(),
        None => false,
    };
    if near { Verdict::Near } else { Verdict::Normal }
}

/// A value beyond a limit that has not raised an alert yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pending {
    /// Event time of the first of the readings in the log, or record time where that is less.
    pub(crate) since: i64,
    /// Whether the value is above the limit.
    pub(crate) above: bool,
}

/// Holds back a verdict that would raise an alert, until the value has been beyond the limit for
/// `min_duration`. `at` is the event time of the reading, or its record time where that is less: a
/// clock that is ahead must not end the wait. `side` is that of an active alert.
pub(crate) fn hold(
    pending: &mut Option<Pending>,
    min_duration: i64,
    side: Option<bool>,
    verdict: Verdict,
    at: i64,
) -> Verdict {
    let before = pending.take();
    let Verdict::Beyond(finding) = verdict else {
        return verdict;
    };
    if side == Some(finding.above) {
        return verdict;
    }
    let before = before.filter(|before| before.above == finding.above);
    // Never earlier: when a reading whose clock was ahead gives way to an older one, time goes back,
    // perhaps to before a reading that was inside.
    let since = before.map_or(at, |before| before.since);
    if at.saturating_sub(since) >= min_duration {
        return verdict;
    }
    *pending = Some(Pending {
        since,
        above: finding.above,
    });
    Verdict::Normal
}

fn beyond(limit: f64, distance: f64, above: bool) -> Verdict {
    Verdict::Beyond(Finding {
        level: Level::critical_if(distance > CRITICAL * limit.abs()),
        limit,
        above,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Normal => "normal",
            Verdict::Near => "near",
            Verdict::Beyond(finding) if finding.level == Level::Critical => "critical",
            Verdict::Beyond(_) => "warning",
        }
    }

    #[test]
    fn values_are_beyond_near_or_normal() {
        let limits = Limits {
            above: 50.0,
            below: 20.0,
            min_duration: 0,
        };
        let look = |side, value| name(look(limits, 0.02, side, value));
        let hot = [60.1, 60.0, 50.1, 50.0, 49.1, 49.0, 20.1];
        assert_eq!(
            hot.map(|value| look(Some(true), value)),
            [
                "critical", "warning", "warning", "near", "near", "normal", "normal"
            ]
        );
        let dry = [15.9, 19.9, 20.0, 20.3, 20.5, 49.9];
        assert_eq!(
            dry.map(|value| look(Some(false), value)),
            ["critical", "warning", "near", "near", "normal", "normal"]
        );
        assert_eq!([20.0, 50.0].map(|value| look(None, value)), ["normal"; 2]);
    }

    #[test]
    fn where_there_is_no_limit_nothing_is_near_it() {
        for side in [None, Some(true), Some(false)] {
            for (band, value) in [(0.0, 1e100), (0.5, -1e100), (0.0, f64::NAN)] {
                assert_eq!(look(Limits::NONE, band, side, value), Verdict::Normal);
            }
        }
    }
}
