//! Compares the alerts of thresholds, for sensors whose thresholds are given.

use super::super::fold::Crossing;
use super::super::layout::StoredDetection;
use super::super::model::{ThresholdAlert, Waiting};
use super::{Comparison, Kept};

impl Comparison<'_> {
    /// Compares the alert of a sensor's thresholds and the value that waits to raise one, which an
    /// earlier version does not store.
    pub(super) fn threshold(
        &mut self,
        key: &str,
        sensor: &str,
        expected: &Crossing,
        found: Option<&StoredDetection>,
    ) {
        let Some(found) = found.filter(|_| self.kept == Kept::Whole) else {
            // Deleted records may have raised it.
            self.report.not_comparable += 1;
            return;
        };
        self.report.values_compared += 1;
        let of = |part: &str| format!("{sensor} threshold {part}");
        let fields = ThresholdAlert::fields;
        let alerts = (
            fields(expected.alert.as_ref()),
            fields(found.alert.as_ref()),
        );
        self.fields(key, &of("alert"), &alerts.0, &alerts.1);
        let fields = Waiting::fields;
        let waiting = (fields(expected.waiting), fields(found.waiting));
        self.fields(key, &of("wait"), &waiting.0, &waiting.1);
    }
}
