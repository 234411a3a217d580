//! The limit of a standard sensor, with hysteresis: a value that trembles around
//! it makes one alert and not many.

use iot_core::sensor::Threshold;

use super::{Finding, Verdict};
use crate::model::Level;

/// Beyond the limit by more than this share of it, an alert is critical.
const CRITICAL: f64 = 0.2;

/// Looks at a value; `band` is how far it has to be back inside, as a share of the
/// limit.
pub(crate) fn look(threshold: Threshold, band: f64, value: f64) -> Verdict {
    let limit = threshold.limit();
    let beyond = match threshold {
        Threshold::Above(_) => value - limit,
        Threshold::Below(_) => limit - value,
    };
    if threshold.is_crossed_by(value) {
        let critical = beyond > CRITICAL * limit.abs();
        Verdict::Beyond(Finding {
            level: if critical {
                Level::Critical
            } else {
                Level::Warning
            },
            limit,
            above: matches!(threshold, Threshold::Above(_)),
        })
    } else if -beyond < band * limit.abs() {
        Verdict::Near
    } else {
        Verdict::Normal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_beyond_near_or_normal() {
        let look = |threshold, value| match look(threshold, 0.02, value) {
            Verdict::Normal => "normal",
            Verdict::Near => "near",
            Verdict::Beyond(finding) if finding.level == Level::Critical => "critical",
            Verdict::Beyond(_) => "warning",
        };
        let hot = Threshold::Above(50.0);
        let seen = [60.1, 60.0, 50.1, 50.0, 49.1, 49.0, 20.0].map(|value| look(hot, value));
        assert_eq!(
            seen,
            [
                "critical", "warning", "warning", "near", "near", "normal", "normal"
            ]
        );
        let dry = Threshold::Below(20.0);
        let seen = [15.9, 19.9, 20.0, 20.3, 20.5].map(|value| look(dry, value));
        assert_eq!(seen, ["critical", "warning", "near", "near", "normal"]);
    }
}
