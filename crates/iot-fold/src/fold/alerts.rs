//! Raises, repeats and clears the alerts of sensors.

use super::tracked::Tracked;
use super::{Event, Fold, Folded};
use crate::alert::{self, AlertState, Moment, Transition};
use crate::detect::Verdict;
use crate::kind::AlertKind;
use crate::layout;

impl Fold {
    /// Lets detectors look at the newest value of a sensor.
    pub(super) fn detect(
        &mut self,
        at: usize,
        number: usize,
        event: &Event<'_>,
        folded: &mut Folded,
    ) {
        let Tracked { state, marks, .. } = &mut self.devices[at];
        let (sensor, marks) = (&mut state.sensors[number], &marks[number]);
        let side = alert::side(&sensor.alerts);
        let (rules, limits) = (&self.rules.detect, (marks.limits, side));
        let reached = sensor.newest.reaches(event.recorded);
        let verdicts = sensor
            .detectors
            .look(rules, marks.kinds, limits, (sensor.value, reached));
        let is_quiet = verdicts.iter().all(|verdict| *verdict == Verdict::Normal);
        if is_quiet && !sensor.alerts.iter().any(AlertState::is_active) {
            return;
        }
        let moment = Moment {
            offset: event.offset,
            timestamp: sensor.newest.timestamp,
            value: sensor.value,
        };
        alert::measure_by(&mut sensor.alerts, marks.limits);
        for (kind, verdict) in AlertKind::ALL.into_iter().zip(verdicts) {
            if kind == AlertKind::Threshold && verdict.is_beyond_other(side) {
                self.observe((at, number), kind, Verdict::Normal, moment, folded);
            }
            self.observe((at, number), kind, verdict, moment, folded);
        }
    }

    /// Updates an alert of a sensor with what a detector has decided.
    fn observe(
        &mut self,
        (at, number): (usize, usize),
        kind: AlertKind,
        verdict: Verdict,
        moment: Moment,
        folded: &mut Folded,
    ) {
        let state = &mut self.devices[at].state;
        let sensor = &mut state.sensors[number];
        match alert::observe(&mut sensor.alerts, kind, verdict, moment) {
            Transition::None | Transition::Suppressed => return,
            Transition::Raised => {
                folded.raised[kind as usize] += 1;
                self.changed_bytes += layout::ALERT_BYTES;
            }
            Transition::Cleared => folded.cleared[kind as usize] += 1,
            Transition::Repeated => {}
        }
        let sensor = &state.sensors[number];
        let alert = sensor.alerts.iter().find(|alert| alert.kind == kind);
        if let Some(alert) = alert {
            let alert = state.describe_alert(sensor, alert, &self.origin);
            self.tell(moment.offset, alert);
        }
    }
}
