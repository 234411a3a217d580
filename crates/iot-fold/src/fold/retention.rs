//! Removes devices that have sent nothing for longer than the retention.

use super::tracked::Tracked;
use super::{Fold, Folded, write_key};
use crate::layout::{REMOVED_BYTES, device_key};
use crate::log_time::LogPosition;
use crate::model::{Alert, ClearReason};
use crate::state::DeviceState;

/// The most devices that one record removes; the next records remove the others. The changes
/// of a record are stored in one step, which must stay small.
pub(super) const MOST_REMOVED: usize = 16;

impl Fold {
    /// Removes the devices that are gone at the time of the newest record.
    pub(super) fn retire(&mut self, folded: &mut Folded) {
        for _ in 0..MOST_REMOVED {
            let Some((at, now)) = self.watch.pop_gone() else {
                return;
            };
            self.remove(at, now, folded);
        }
    }

    /// Removes a device with its open windows, and clears its alerts: nothing else would.
    fn remove(&mut self, at: usize, now: LogPosition, folded: &mut Folded) {
        let removed = std::mem::replace(&mut self.devices[at], Tracked::vacant());
        self.vacant.push(at);
        let key = removed.state.key.clone();
        write_key(&mut self.lookup, &key.tenant, &key.project, &key.device);
        self.index.remove(self.lookup.as_str());
        // Rarely: only if it changed since the last step.
        if removed.unsaved {
            self.unsaved.retain(|changed| *changed != at);
        }
        for alert in cleared(removed.state, now, &self.origin) {
            folded.cleared[alert.kind as usize] += 1;
            self.tell(now.offset, alert);
        }
        folded.removed += 1;
        self.changed_bytes += REMOVED_BYTES + self.lookup.len();
        self.removed.push(device_key(&key));
        self.show_removed(at, now.offset, key);
    }
}

/// The active alerts of a device that is removed, as they are cleared.
fn cleared(mut state: DeviceState, now: LogPosition, origin: &str) -> Vec<Alert> {
    let moment = now.moment(state.heard.unwrap_or(now));
    let mut active = Vec::new();
    for sensor in &state.sensors {
        let alerts = sensor.alerts.iter().filter(|alert| alert.is_active());
        active.extend(alerts.map(|alert| {
            let mut alert = *alert;
            let value = alert.value;
            alert.clear(moment);
            alert.value = value;
            state.describe_alert(sensor, &alert, origin)
        }));
    }
    if state.is_silent() {
        if let Some(silence) = state.silence.as_deref_mut() {
            silence.clear(moment);
        }
        active.extend(state.describe_silence(origin));
    }
    for alert in &mut active {
        alert.reason = Some(ClearReason::DeviceRemoved);
        alert.message = format!(
            "the device was removed after {} s without a message",
            moment.value
        );
    }
    active
}
