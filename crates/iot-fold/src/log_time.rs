//! The time of a partition, by its records.

use std::collections::VecDeque;

/// How many record times are kept.
const KEPT: usize = 16;
/// Which of them is the time of the partition, counted from the greatest: three records from
/// the future do not move it.
const RANK: usize = 4;

/// Offset and times of a partition at a message. Each device's last one is stored with the
/// device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogPosition {
    /// Offset of the message.
    pub(crate) offset: i64,
    /// The partition's time, in milliseconds since the epoch.
    pub(crate) recorded: i64,
    /// Like `recorded`, but one record advances it by at most half the allowed silence, so
    /// that an outage of the whole partition does not report every device at once. Half,
    /// because a device that sends at least that often then stays within the allowed silence
    /// at the first record after the outage.
    pub(crate) clock: i64,
    /// The same for the retention of devices, in place of the allowed silence.
    pub(crate) age: i64,
}

/// By how much one record advances the clocks of a position at most, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxSteps {
    pub(crate) clock: i64,
    pub(crate) age: i64,
}

/// The time of a partition: the fourth greatest of its last 16 record times, or the least
/// while there are fewer than four. From then on it never goes back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogTime {
    /// The position at the newest message.
    pub(crate) now: LogPosition,
    /// The last record times, in the order of the log.
    pub(crate) times: VecDeque<i64>,
    /// Whether record times before `times` are unknown: state of an earlier version has no times, and its
    /// partition time was the highest record time.
    pub(crate) is_taken_over: bool,
}

impl LogTime {
    /// That of a partition whose first record time this is.
    pub(crate) fn new(offset: i64, recorded: i64) -> Self {
        let now = LogPosition {
            offset,
            recorded,
            clock: recorded,
            age: recorded,
        };
        Self {
            now,
            times: [recorded].into(),
            is_taken_over: false,
        }
    }

    /// That of a partition of which only the position is known.
    pub(crate) fn taken_over(now: LogPosition) -> Self {
        Self {
            now,
            times: VecDeque::new(),
            is_taken_over: true,
        }
    }

    /// The most record times that are kept.
    pub(crate) const MOST: usize = KEPT;

    /// Advances to the next message.
    pub(crate) fn advance(&mut self, offset: i64, recorded: Option<i64>, most: MaxSteps) {
        self.now.offset = offset;
        let Some(recorded) = recorded else { return };
        let is_full = self.times.len() == KEPT;
        let dropped = if is_full {
            self.times.pop_front()
        } else {
            None
        };
        self.times.push_back(recorded);
        if dropped == Some(recorded) {
            // The same times as before, as for most records of a busy partition.
            return;
        }
        let count = self.times.len();
        let time = self.ranked(RANK.min(count));
        let now = &mut self.now;
        if !self.is_taken_over && count <= RANK {
            (now.recorded, now.clock, now.age) = (time, time, time);
        } else if count >= RANK && time >= now.recorded {
            let step = time.saturating_sub(now.recorded);
            now.clock = now.clock.saturating_add(step.min(most.clock));
            now.age = now.age.saturating_add(step.min(most.age));
            now.recorded = time;
            self.is_taken_over &= count < KEPT;
        }
    }

    /// The record time of that rank, counted from the greatest, which has rank 1. Called for
    /// every record.
    fn ranked(&self, rank: usize) -> i64 {
        let mut greatest = [i64::MIN; RANK];
        // The newest first: the older ones are rarely among the greatest then.
        for &time in self.times.iter().rev() {
            if time > greatest[RANK - 1] {
                let at = greatest.partition_point(|greater| *greater >= time);
                greatest[at..].rotate_right(1);
                greatest[at] = time;
            }
        }
        greatest[rank - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(records: &[i64]) -> Vec<i64> {
        let mut log = LogTime::new(0, records[0]);
        let later = (1..).zip(&records[1..]).map(|(offset, at)| {
            let most = MaxSteps {
                clock: i64::MAX,
                age: i64::MAX,
            };
            log.advance(offset, Some(*at), most);
            let now = log.now;
            assert_eq!(
                (now.offset, now.clock, now.age),
                (offset, now.recorded, now.recorded)
            );
            log.now.recorded
        });
        later.collect()
    }

    #[test]
    fn three_records_from_the_future_do_not_move_the_time() {
        let far = 1_000_000;
        assert_eq!(times(&[10, 11, 12, 13, 14, 15]), [10, 10, 10, 11, 12]);
        assert_eq!(
            times(&[10, 11, 12, 13, far, far, far, 14]),
            [10, 10, 10, 11, 12, 13, 14]
        );
        assert_eq!(times(&[far, 11, 12, 13, 14]), [11, 11, 11, 12]);
    }

    #[test]
    fn it_is_the_fourth_greatest_of_the_last_16_also_of_times_that_repeat() {
        // 30 records of each time, with an earlier one after each six.
        let records = (0..300).map(|at| if at % 7 == 6 { at / 60 } else { at / 30 + 5 });
        let records: Vec<_> = records.collect();
        let mut time = i64::MIN;
        let expected = (3..records.len()).map(|last| {
            let mut kept = records[(last + 1).saturating_sub(KEPT)..=last].to_vec();
            kept.sort_unstable();
            time = time.max(kept[kept.len() - RANK]);
            time
        });
        assert_eq!(times(&records)[2..], expected.collect::<Vec<_>>());
    }

    #[test]
    fn the_last_times_are_kept_in_the_order_of_the_log() {
        let (mut log, mut kept) = (LogTime::new(0, 7), vec![7]);
        for offset in 1..60 {
            let recorded = [7, 7, 9, 7][offset as usize % 4];
            let most = MaxSteps { clock: 1, age: 1 };
            log.advance(offset, Some(recorded), most);
            kept.push(recorded);
            assert_eq!(log.times, &kept[kept.len().saturating_sub(KEPT)..]);
            assert_eq!(log.now.offset, offset);
        }
    }

    #[test]
    fn it_never_goes_back() {
        let mut records = vec![10, 20, 30, 40, 50, 60, 70];
        records.extend([5; 20]);
        assert_eq!(times(&records).last(), Some(&40));
        records.extend([80, 81, 82, 83]);
        assert_eq!(times(&records).last(), Some(&80));
    }

    #[test]
    fn what_was_taken_over_stays_until_the_records_have_passed_it() {
        let position = LogPosition {
            offset: 7,
            recorded: 100,
            clock: 90,
            age: 80,
        };
        let most = MaxSteps { clock: 5, age: 0 };
        let mut log = LogTime::taken_over(position);
        for (offset, at) in (8..).zip([95, 101, 102, 103]) {
            log.advance(offset, Some(at), most);
            assert_eq!((log.now.recorded, log.now.clock), (100, 90), "{at}");
        }
        for (offset, at) in (12..24).zip(104..) {
            assert!(log.is_taken_over, "{at}");
            log.advance(offset, Some(at), most);
        }
        let now = log.now;
        assert_eq!((now.recorded, now.clock, now.age), (112, 102, 80));
        assert!(!log.is_taken_over);
    }
}
