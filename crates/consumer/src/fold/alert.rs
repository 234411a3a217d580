//! Threshold alerts: raised when a value crosses the limit of its sensor,
//! repeats folded in, cleared when a newer value is within the limit again.

use std::sync::Arc;

use iot_core::sensor::Threshold;

use crate::model::{Alert, AlertKind, AlertStatus, DeviceKey, Level, Place};

/// Repeats are told at most once in this many milliseconds of event time.
const REPEAT: i64 = 1_000;
/// Beyond the limit by more than this share of it, an alert is critical.
const CRITICAL: f64 = 0.2;

/// The last alert of a sensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AlertState {
    pub(crate) id: Arc<str>,
    pub(crate) status: AlertStatus,
    /// The worst since it was raised.
    pub(crate) level: Level,
    pub(crate) value: f64,
    pub(crate) above: bool,
    pub(crate) limit: f64,
    pub(crate) timestamp: i64,
    pub(crate) raised_at: i64,
    pub(crate) count: u64,
    /// Time of the last change that was told.
    pub(crate) told_at: i64,
}

/// What a value does to the alert of its sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    /// Nothing, and there is none.
    None,
    /// A new alert.
    Raised,
    /// Worse than before, or time to tell how often it repeated.
    Repeated,
    /// One more, not worth telling yet.
    Folded,
    /// Over.
    Cleared,
}

/// Takes the newest value of a sensor into its alert. `id` names a new alert.
pub(crate) fn observe(
    alert: &mut Option<AlertState>,
    threshold: Threshold,
    timestamp: i64,
    value: f64,
    id: impl FnOnce() -> Arc<str>,
) -> Transition {
    let active = alert
        .as_mut()
        .filter(|alert| alert.status == AlertStatus::Raised);
    match (active, threshold.is_crossed_by(value)) {
        (None, false) => Transition::None,
        (Some(active), true) => active.repeat(level(threshold, value), timestamp, value),
        (Some(active), false) => {
            active.status = AlertStatus::Cleared;
            active.value = value;
            active.timestamp = timestamp;
            active.told_at = timestamp;
            Transition::Cleared
        }
        (None, true) => {
            *alert = Some(AlertState {
                id: id(),
                status: AlertStatus::Raised,
                level: level(threshold, value),
                value,
                above: matches!(threshold, Threshold::Above(_)),
                limit: threshold.limit(),
                timestamp,
                raised_at: timestamp,
                count: 1,
                told_at: timestamp,
            });
            Transition::Raised
        }
    }
}

fn level(threshold: Threshold, value: f64) -> Level {
    let beyond = (value - threshold.limit()).abs();
    if beyond > CRITICAL * threshold.limit().abs() {
        Level::Critical
    } else {
        Level::Warning
    }
}

impl AlertState {
    fn repeat(&mut self, level: Level, timestamp: i64, value: f64) -> Transition {
        let worse = level > self.level;
        self.level = self.level.max(level);
        self.value = value;
        self.timestamp = timestamp;
        self.count += 1;
        if worse || timestamp.saturating_sub(self.told_at) >= REPEAT {
            self.told_at = timestamp;
            Transition::Repeated
        } else {
            Transition::Folded
        }
    }

    /// The alert as clients see it.
    pub(crate) fn describe(
        &self,
        key: &DeviceKey,
        location: Option<&Arc<Place>>,
        sensor: &Arc<str>,
        unit: Option<&str>,
    ) -> Alert {
        let side = if self.above { "above" } else { "below" };
        let value = (self.value * 100.0).round() / 100.0;
        let unit = unit.map(|unit| format!(" {unit}")).unwrap_or_default();
        let message = match self.status {
            AlertStatus::Raised => format!("{sensor} {value}{unit} is {side} {}", self.limit),
            AlertStatus::Cleared => {
                format!("{sensor} {value}{unit} is no longer {side} {}", self.limit)
            }
        };
        Alert {
            id: self.id.clone(),
            key: key.clone(),
            location: location.cloned(),
            sensor: sensor.clone(),
            kind: AlertKind::Threshold,
            level: self.level,
            state: self.status,
            value: self.value,
            limit: self.limit,
            message,
            timestamp: self.timestamp,
            raised_at: self.raised_at,
            count: self.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOT: Threshold = Threshold::Above(50.0);

    fn run(values: &[(i64, f64)]) -> (Vec<Transition>, Option<AlertState>) {
        let mut alert = None;
        let mut seen = Vec::new();
        for (at, value) in values {
            seen.push(observe(&mut alert, HOT, *at, *value, || {
                format!("id-{at}").into()
            }));
        }
        (seen, alert)
    }

    #[test]
    fn is_raised_folded_and_cleared() {
        let (seen, alert) = run(&[
            (0, 49.0),
            (1_000, 51.0),
            (1_500, 52.0),
            (2_000, 53.0),
            (2_100, 61.0),
            (3_000, 50.0),
            (4_000, 20.0),
        ]);
        use Transition::*;
        assert_eq!(
            seen,
            [None, Raised, Folded, Repeated, Repeated, Cleared, None]
        );
        let alert = alert.unwrap();
        assert_eq!(&*alert.id, "id-1000");
        assert_eq!(
            (alert.count, alert.raised_at, alert.timestamp),
            (4, 1_000, 3_000)
        );
        assert_eq!(
            (alert.level, alert.status),
            (Level::Critical, AlertStatus::Cleared)
        );
    }

    #[test]
    fn a_second_alert_has_its_own_id() {
        let (_, alert) = run(&[(0, 51.0), (1, 10.0), (2, 51.0)]);
        let alert = alert.unwrap();
        assert_eq!((&*alert.id, alert.count), ("id-2", 1));
    }

    #[test]
    fn says_what_happened() {
        let key = DeviceKey {
            tenant: "t".into(),
            project: "p".into(),
            device: "d".into(),
        };
        let text = |values: &[(i64, f64)]| {
            let alert = run(values).1.unwrap();
            alert
                .describe(&key, None, &"temperature".into(), Some("celsius"))
                .message
        };
        assert_eq!(text(&[(0, 63.204)]), "temperature 63.2 celsius is above 50");
        assert_eq!(
            text(&[(0, 63.2), (1, 41.0)]),
            "temperature 41 celsius is no longer above 50"
        );
    }
}
