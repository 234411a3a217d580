//! Compares the stored time of a partition.

use super::super::fold::PartitionTime;
use super::super::layout::{self, Unreadable};
use super::super::model::FieldValue;
use super::super::report::Kind;
use super::super::store::Snapshot;
use super::{Comparison, Kept, last_offset};

impl Comparison<'_> {
    /// Compares the time of the partition.
    pub(super) fn time(&mut self, expected: &PartitionTime, snapshot: &Snapshot) {
        let (key, stored) = (layout::TIME_FIELD, &snapshot.live);
        let value = stored.get(key).map(Vec::as_slice);
        // State that an earlier version wrote has none.
        let is_earlier = || !stored.values().any(|device| layout::is_with_time(device));
        let (time, found) = match (expected.time, value.map(layout::time)) {
            (None, None) => return,
            (Some(_), None) if is_earlier() => return,
            (Some(_), None) => return self.find(Kind::Missing, key, "", "a value", "none"),
            (_, Some(Err(Unreadable(why)))) => {
                return self.find(Kind::Difference, key, "", "a value", &why);
            }
            (None, Some(Ok(_))) if self.kept != Kept::Whole => {
                self.report.not_comparable += 1;
                return;
            }
            (None, Some(Ok(_))) => return self.find(Kind::Extra, key, "", "none", "a value"),
            (Some(time), Some(Ok(found))) => (time, found),
        };
        self.report.values_compared += 1;
        // Times before these may be unknown, to either side.
        let (ours, theirs) = (&expected.recent, &found.recent);
        let common = match (found.taken_over, self.kept) {
            (true, Kept::Whole) => theirs.len(),
            (_, Kept::After(_)) => ours.len().min(theirs.len()),
            (false, Kept::Whole) => ours.len().max(theirs.len()),
        };
        let last = |times: &mut dyn DoubleEndedIterator<Item = &i64>| {
            let last: Vec<_> = times.rev().take(common).map(i64::to_string).collect();
            [("record times", FieldValue::Text(last.join(" ")))]
        };
        let (ours, theirs) = (last(&mut ours.iter()), last(&mut theirs.iter()));
        self.fields(key, "", &ours, &theirs);
        let (ours, theirs) = (
            last_offset(Some(expected.offset)),
            last_offset(Some(found.offset)),
        );
        self.fields(key, "", &ours, &theirs);
        // Of records that are unknown to one side, one may have been later.
        if self.kept == Kept::Whole && !found.taken_over {
            let field = |time| [("time", FieldValue::Signed(time))];
            self.fields(key, "", &field(time), &field(found.time));
        }
    }
}
