//! What record times decide: the time of a partition, and which event times are ahead.

use std::collections::VecDeque;

use super::super::model::Moment;

/// Later record times do not count for the time of a partition: the end of 2099.
const LAST_TIME: i64 = 4_102_444_799_999;
/// A message whose event time is further than this from its record time is ahead of it.
const MAY_BE_AHEAD: i64 = 1_000;
/// The time of a partition is the fourth greatest of its last 16 record times.
const RECENT: usize = 16;
const FOURTH: usize = 4;

/// Time and number of a message, and whether its clock was ahead of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    pub(crate) moment: Moment,
    pub(crate) ahead: bool,
}

impl Timing {
    /// That of a message with this record time, which is negative if the record has none.
    pub(super) fn new(moment: Moment, recorded: i64) -> Self {
        let lead = moment.timestamp.saturating_sub(recorded);
        Self {
            moment,
            ahead: recorded >= 0 && lead > MAY_BE_AHEAD,
        }
    }

    /// Whether it becomes the newest after `before`.
    pub(super) fn follows(self, before: Option<Self>) -> bool {
        let Some(before) = before else { return true };
        let repairs = before.ahead && !self.ahead;
        repairs || before.moment <= self.moment
    }

    /// The event time that counts for the watermark.
    pub(super) fn progress(self, recorded: i64) -> i64 {
        if recorded < 0 || recorded > self.moment.timestamp {
            self.moment.timestamp
        } else {
            recorded
        }
    }
}

/// The time of a partition.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct PartitionTime {
    /// The last record times, the newest last.
    pub(in super::super) recent: VecDeque<i64>,
    /// The time, from the first record that has one.
    pub(in super::super) time: Option<i64>,
    /// Offset of the last message since then.
    pub(in super::super) offset: i64,
    /// The time in which devices grow old: one record adds at most half of the retention.
    pub(super) age: i64,
}

impl PartitionTime {
    /// Takes the next message, and returns whether the partition has a time.
    pub(super) fn take(&mut self, offset: i64, recorded: i64, retention: Option<i64>) -> bool {
        if (0..=LAST_TIME).contains(&recorded) {
            self.recent.push_back(recorded);
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
            let mut ordered = Vec::from_iter(self.recent.iter().copied());
            ordered.sort_unstable();
            let before = self.time;
            if ordered.len() <= FOURTH {
                self.time = ordered.first().copied();
                self.age = self.time.unwrap_or_default();
            } else {
                let fourth = ordered.get(ordered.len() - FOURTH).copied();
                self.time = before.max(fourth);
                let passed = self.time.zip(before).map_or(0, |(now, then)| now - then);
                self.age += retention.map_or(passed, |retention| passed.min(retention / 2));
            }
        }
        if self.time.is_some() {
            self.offset = offset;
        }
        self.time.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(records: impl IntoIterator<Item = i64>) -> Option<i64> {
        let mut partition = PartitionTime::default();
        for (offset, recorded) in (0..).zip(records) {
            partition.take(offset, recorded, None);
        }
        partition.time
    }

    #[test]
    fn the_fourth_greatest_of_the_last_record_times_is_the_time_of_the_partition() {
        assert_eq!(time([-1, LAST_TIME + 1]), None);
        assert_eq!(time([LAST_TIME, -1, 7]), Some(7));
        assert_eq!(time([5, 6, 7, 8]), Some(5));
        assert_eq!(time([5, 6, 7, 8, 9]), Some(6));
        assert_eq!(time([5, 6, 7, 8, LAST_TIME, LAST_TIME, LAST_TIME]), Some(8));
        // It never goes back, and forgets what is more than 16 records ago.
        assert_eq!(time((1..30).chain(std::iter::repeat_n(3, 40))), Some(26));
        let once_far = [LAST_TIME; 3].into_iter().chain(10..26);
        assert_eq!(time(once_far.chain([30, 31, 32, 33])), Some(30));
    }

    #[test]
    fn one_record_adds_at_most_half_of_the_retention_to_the_age() {
        let mut partition = PartitionTime::default();
        for (offset, recorded) in (0..).zip([9, 5, 6, 7, 100, 100, 100, 101]) {
            partition.take(offset, recorded, Some(41));
        }
        // From 5 to 6, 7 and 9, and to 100.
        assert_eq!((partition.time, partition.age), (Some(100), 9 + 20));
    }

    #[test]
    fn a_partition_without_a_time_has_no_last_message() {
        let mut partition = PartitionTime::default();
        assert!(!partition.take(3, -1, None));
        assert!(partition.take(4, 100, None) && partition.take(5, -1, None));
        assert_eq!((partition.offset, partition.time), (5, Some(100)));
    }
}
