//! Raises and clears the alerts of devices that have fallen silent.

use super::{Event, Fold, Folded};
use crate::LATEST;
use crate::alert::AlertState;
use crate::detect::Finding;
use crate::kind::AlertKind;
use crate::layout;
use crate::log_time::LogPosition;
use crate::model::Level;
use crate::watch::Heard;

/// The most devices that one record can make silent; the next records get the others. The
/// changes of a record are stored in one step, which must stay small.
pub(super) const MOST_REVEALED: usize = 16;

impl Fold {
    /// Notes that a device has sent a message, which ends its silence.
    pub(super) fn hear(&mut self, at: usize, event: &Event<'_>, folded: &mut Folded) {
        // An impossible time would stay the highest one permanently.
        let recorded = event.recorded.filter(|at| (0..=LATEST).contains(at));
        let Some(Heard { now, fell }) = self.watch.hear(at, event.offset, recorded) else {
            return;
        };
        self.mark_time_unsaved();
        if fell {
            self.lower(now);
        }
        let state = &mut self.devices[at].state;
        let last = state.heard.replace(now);
        let silence = state.silence.as_deref_mut();
        if let (Some(silence), Some(last)) = (silence.filter(|s| s.is_active()), last) {
            silence.clear(now.moment(last));
            folded.cleared[AlertKind::Silence as usize] += 1;
            if let Some(alert) = state.describe_silence(&self.origin) {
                self.tell(event.offset, alert);
            }
        }
    }

    /// Brings the last positions of devices down to a time that went back. Only the first four
    /// records with a time can make it go back, so they are few.
    fn lower(&mut self, now: LogPosition) {
        for at in 0..self.devices.len() {
            let heard = self.devices[at].state.heard.as_mut();
            if let Some(heard) = heard.filter(|heard| heard.recorded > now.recorded) {
                let offset = heard.offset;
                *heard = LogPosition { offset, ..now };
                self.mark_unsaved(at);
            }
        }
    }

    /// Raises alerts for the devices that are silent at the time of the newest record.
    pub(super) fn reveal(&mut self, folded: &mut Folded) {
        for _ in 0..MOST_REVEALED {
            let Some((at, now)) = self.watch.pop_silent() else {
                return;
            };
            let state = &mut self.devices[at].state;
            let finding = Finding {
                level: Level::Warning,
                limit: self.rules.silence.unwrap_or_default() as f64 / 1_000.0,
                above: true,
            };
            let moment = now.moment(state.heard.unwrap_or(now));
            let silence = AlertState::new(AlertKind::Silence, finding, moment);
            state.silence = Some(Box::new(silence));
            folded.raised[AlertKind::Silence as usize] += 1;
            if let Some(alert) = state.describe_silence(&self.origin) {
                self.tell(now.offset, alert);
            }
            self.changed_bytes += layout::ALERT_BYTES;
            self.mark_unsaved(at);
        }
    }
}
