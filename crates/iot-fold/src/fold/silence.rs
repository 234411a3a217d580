//! Raises and clears the alerts of devices that have fallen silent.

use super::{Event, Fold, Folded};
use crate::LATEST;
use crate::alert::AlertState;
use crate::detect::Finding;
use crate::layout;
use crate::model::{AlertKind, Level};

/// Silent devices that one record can reveal, the following ones the others: what a
/// record changes is stored in one step, and a step has an end.
pub(super) const MOST_REVEALED: usize = 16;

impl Fold {
    /// A device is heard: if it was silent, that is over.
    pub(super) fn hear(&mut self, at: usize, event: &Event<'_>, folded: &mut Folded) {
        // A time that can't be would be the partition's for ever.
        let recorded = event.recorded.filter(|at| (0..=LATEST).contains(at));
        let Some(now) = self.watch.hear(at, event.offset, recorded) else {
            return;
        };
        let state = &mut self.devices[at].state;
        let last = state.heard.replace(now);
        let silence = state.silence.as_deref_mut();
        if let (Some(silence), Some(last)) = (silence.filter(|s| s.is_active()), last) {
            silence.clear(now.moment(last));
            folded.cleared[AlertKind::Silence as usize] += 1;
            self.alerts.extend(state.describe_silence(&self.origin));
        }
    }

    /// Raises the alerts of devices that are silent by the time of the newest record.
    pub(super) fn reveal(&mut self, folded: &mut Folded) {
        for _ in 0..MOST_REVEALED {
            let Some((at, now)) = self.watch.next_silent() else {
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
            self.alerts.extend(state.describe_silence(&self.origin));
            self.changed_bytes += layout::ALERT_BYTES;
            self.save(at);
        }
    }
}
