//! The life of an alert: a detector raises it with a reading that is not normal, further
//! such readings are counted into it, and the first normal one clears it.

use std::sync::Arc;

use crate::catalogue::Limits;
use crate::detect::{Finding, Verdict};
use crate::kind::{AlertKind, Mentioned};
use crate::model::{Alert, AlertStatus, DeviceKey, Level, Place};

/// Repeats are pushed to clients at most once in so many milliseconds of event time.
const REPEAT: i64 = 1_000;

/// The last alert of a kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AlertState {
    pub(crate) kind: AlertKind,
    pub(crate) status: AlertStatus,
    /// The most severe level since it was raised.
    pub(crate) level: Level,
    /// Offset of the record that raised it; a part of the id.
    pub(crate) offset: i64,
    pub(crate) value: f64,
    pub(crate) above: bool,
    pub(crate) limit: f64,
    pub(crate) timestamp: i64,
    pub(crate) raised_at: i64,
    pub(crate) count: u64,
    /// Time of the last change that was pushed to clients.
    pub(crate) told_at: i64,
}

/// A value, its time, and the offset of its record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) value: f64,
}

/// How a reading changes an alert of its sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    /// Not at all.
    None,
    /// It raises one.
    Raised,
    /// It repeats one, and is pushed to clients: it is more severe, or the last push was
    /// long ago.
    Repeated,
    /// It repeats one; nothing is pushed to clients yet.
    Suppressed,
    /// It clears one.
    Cleared,
}

/// Updates the alert of a kind with what a detector has decided about a reading.
pub(crate) fn observe(
    alerts: &mut Vec<AlertState>,
    kind: AlertKind,
    verdict: Verdict,
    moment: Moment,
) -> Transition {
    let known = alerts.iter_mut().find(|alert| alert.kind == kind);
    match (known, verdict) {
        (_, Verdict::Near) | (None, Verdict::Normal) => Transition::None,
        (Some(alert), Verdict::Normal) if alert.is_active() => {
            alert.clear(moment);
            Transition::Cleared
        }
        (Some(_), Verdict::Normal) => Transition::None,
        (Some(alert), Verdict::Beyond(finding)) if alert.is_active() => {
            alert.repeat(finding.level, moment)
        }
        (Some(alert), Verdict::Beyond(finding)) => {
            *alert = AlertState::new(kind, finding, moment);
            Transition::Raised
        }
        (None, Verdict::Beyond(finding)) => {
            // Most sensors have at most one: without this the list would reserve room for four.
            alerts.reserve_exact(1);
            alerts.push(AlertState::new(kind, finding, moment));
            Transition::Raised
        }
    }
}

/// Whether the active alert of a threshold is about a value above its limit; `None` without
/// an active one.
pub(crate) fn side(alerts: &[AlertState]) -> Option<bool> {
    let of_threshold = |alert: &&AlertState| alert.kind == AlertKind::Threshold;
    let mut active = alerts
        .iter()
        .filter(of_threshold)
        .filter(|alert| alert.is_active());
    active.next().map(|alert| alert.above)
}

/// Sets the limit of an active alert of a threshold to the present one, if there is one.
pub(crate) fn measure_by(alerts: &mut [AlertState], limits: Limits) {
    for alert in alerts.iter_mut().filter(|alert| alert.is_active()) {
        let limit = if alert.above {
            limits.above
        } else {
            limits.below
        };
        if alert.kind == AlertKind::Threshold && limit.is_finite() {
            alert.limit = limit;
        }
    }
}

impl AlertState {
    pub(crate) fn new(kind: AlertKind, finding: Finding, moment: Moment) -> Self {
        Self {
            kind,
            status: AlertStatus::Raised,
            level: finding.level,
            offset: moment.offset,
            value: moment.value,
            above: finding.above,
            limit: finding.limit,
            timestamp: moment.timestamp,
            raised_at: moment.timestamp,
            count: 1,
            told_at: moment.timestamp,
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.status == AlertStatus::Raised
    }

    pub(crate) fn clear(&mut self, moment: Moment) {
        self.status = AlertStatus::Cleared;
        self.value = moment.value;
        self.timestamp = moment.timestamp;
        self.told_at = moment.timestamp;
    }

    fn repeat(&mut self, level: Level, moment: Moment) -> Transition {
        let worse = level > self.level;
        self.level = self.level.max(level);
        self.value = moment.value;
        self.timestamp = moment.timestamp;
        self.count += 1;
        // The time of a reading from a clock that was ahead must not delay the next ones.
        let went_back = moment.timestamp < self.told_at;
        if worse || went_back || moment.timestamp.saturating_sub(self.told_at) >= REPEAT {
            self.told_at = moment.timestamp;
            Transition::Repeated
        } else {
            Transition::Suppressed
        }
    }

    /// The alert as clients see it; `origin` is `<topic>:<partition>`.
    pub(crate) fn describe(
        &self,
        origin: &str,
        key: &DeviceKey,
        location: Option<&Arc<Place>>,
        sensor: &Arc<str>,
        unit: Option<&str>,
    ) -> Alert {
        let of = if self.kind.is_of_device() {
            &format!("{}/{}/{}", key.tenant, key.project, key.device)
        } else {
            &**sensor
        };
        Alert {
            id: format!("{origin}:{}:{of}:{}", self.offset, self.kind.label()).into(),
            key: key.clone(),
            location: location.cloned(),
            sensor: sensor.clone(),
            kind: self.kind,
            level: self.level,
            state: self.status,
            value: self.value,
            limit: self.limit,
            message: self.kind.message(&Mentioned {
                is_active: self.is_active(),
                sensor,
                unit,
                value: self.value,
                limit: self.limit,
                above: self.above,
            }),
            reason: None,
            timestamp: self.timestamp,
            raised_at: self.raised_at,
            count: self.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::threshold;

    fn run(values: &[(i64, f64)]) -> (Vec<Transition>, Vec<AlertState>) {
        let (mut alerts, mut seen) = (Vec::new(), Vec::new());
        let limits = Limits {
            above: 50.0,
            ..Limits::NONE
        };
        for (timestamp, value) in values.iter().copied() {
            let verdict = threshold::look(limits, 0.02, side(&alerts), value);
            let moment = Moment {
                offset: timestamp,
                timestamp,
                value,
            };
            seen.push(observe(&mut alerts, AlertKind::Threshold, verdict, moment));
        }
        (seen, alerts)
    }

    #[test]
    fn an_alert_is_raised_repeated_and_cleared() {
        let (seen, alerts) = run(&[
            (0, 49.0),
            (500, 49.5),
            (1_000, 51.0),
            (1_500, 52.0),
            (2_000, 53.0),
            (2_100, 61.0),
            (2_200, 49.5),
            (3_000, 49.0),
            (4_000, 20.0),
        ]);
        use Transition::*;
        assert_eq!(
            seen,
            [
                None, None, Raised, Suppressed, Repeated, Repeated, None, Cleared, None
            ]
        );
        let [alert] = alerts[..] else {
            panic!("{alerts:?}")
        };
        assert_eq!(alert.offset, 1_000);
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
    fn a_second_alert_replaces_the_first() {
        let (_, alerts) = run(&[(0, 51.0), (1, 10.0), (2, 51.0)]);
        assert_eq!((alerts.len(), alerts[0].offset, alerts[0].count), (1, 2, 1));
    }

    #[test]
    fn each_kind_has_its_own_alert() {
        let (_, mut alerts) = run(&[(0, 51.0)]);
        let finding = Finding {
            level: Level::Warning,
            limit: 40.0,
            above: true,
        };
        let moment = Moment {
            offset: 1,
            timestamp: 1,
            value: 51.0,
        };
        let mut look = |verdict| observe(&mut alerts, AlertKind::Spike, verdict, moment);
        assert_eq!(look(Verdict::Beyond(finding)), Transition::Raised);
        assert_eq!(look(Verdict::Normal), Transition::Cleared);
        assert!(alerts[0].is_active());
        assert_eq!(alerts.len(), 2);
    }

    #[test]
    fn the_message_says_what_happened() {
        let key = DeviceKey {
            tenant: "t".into(),
            project: "p".into(),
            device: "d".into(),
        };
        let told = |values: &[(i64, f64)]| {
            let alert = run(values).1[0];
            let sensor = "temperature".into();
            alert.describe("topic:3", &key, None, &sensor, Some("celsius"))
        };
        let raised = told(&[(7, 63.204)]);
        assert_eq!(raised.message, "temperature 63.2 celsius is above 50");
        assert_eq!(&*raised.id, "topic:3:7:temperature:threshold");
        assert_eq!(
            told(&[(0, 63.2), (1, 41.0)]).message,
            "temperature 41 celsius is no longer above 50"
        );
    }
}
