//! Keeps the marks of a partition: which offsets were committed at which times.

use std::sync::{Arc, Mutex, PoisonError};

use iot_live::hub::{Mark, Marks};
use kafka_fetch::{Answer, Replica};

/// Adds answers to fetches to [`Marks`], and ends those that can't be compared with what follows.
#[derive(Debug)]
pub(crate) struct MarkKeeper {
    marks: Arc<Marks>,
    /// Number of steps of the clock, and leader epoch of the last mark.
    last: Mutex<Option<(u64, Option<i32>)>>,
}

impl MarkKeeper {
    pub(crate) fn new(marks: Arc<Marks>) -> Self {
        Self {
            marks,
            last: Mutex::default(),
        }
    }

    /// Goes on after another one of the same log, from a copy: both may get answers for a while.
    pub(crate) fn after(before: Option<&Self>) -> Self {
        let Some(before) = before else {
            return Self::new(Arc::default());
        };
        let last = before.last.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            marks: Arc::new(before.marks.copied()),
            last: Mutex::new(*last),
        }
    }

    /// What it has kept.
    pub(crate) fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    pub(crate) fn answered(&self, answer: &Answer) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // A follower replica lags by an unknown time.
        let is_usable =
            answer.replica == Replica::Leader && answer.sent.steps == answer.arrived.steps;
        let now = is_usable.then_some((answer.sent.steps, answer.leader_epoch));
        if now.is_none() || *last != now {
            self.marks.clear();
        }
        *last = now;
        if now.is_some() {
            self.marks.add(Mark {
                sent: answer.sent.micros,
                arrived: answer.arrived.micros,
                end: answer.end.last_stable_offset,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use kafka_fetch::{LogEnd, Stamp};

    use super::*;

    fn answer(at: i64, end: i64) -> Answer {
        let stamp = |micros| Stamp { micros, steps: 0 };
        Answer {
            sent: stamp(at),
            arrived: stamp(at + 10),
            end: LogEnd {
                high_watermark: end + 5,
                last_stable_offset: end,
            },
            replica: Replica::Leader,
            leader_epoch: Some(3),
        }
    }

    #[test]
    fn marks_go_on_after_a_partition_has_changed_hands() {
        let before = MarkKeeper::after(None);
        before.answered(&answer(100, 7));
        let after = MarkKeeper::after(Some(&before));
        after.answered(&answer(200, 9));
        assert_eq!(after.marks().offset_at(110), Some(7));
        assert_eq!(after.marks().frontier(9), Some(200));
        // They are two.
        assert_eq!(before.marks().frontier(9), Some(100));
        let mut other = answer(300, 11);
        other.leader_epoch = Some(4);
        let after = MarkKeeper::after(Some(&after));
        after.answered(&other);
        assert_eq!(after.marks().offset_at(110), None);
    }

    #[test]
    fn marks_last_until_the_leader_the_clock_or_the_replica_changes() {
        type Change = fn(&mut Answer);
        let changes: [(Change, bool); 4] = [
            (|answer| answer.leader_epoch = Some(4), true),
            (
                |answer| {
                    answer.sent.steps = 1;
                    answer.arrived.steps = 1;
                },
                true,
            ),
            // The clock was set between sending and arrival.
            (|answer| answer.arrived.steps = 1, false),
            (|answer| answer.replica = Replica::Follower, false),
        ];
        for (number, (change, is_kept)) in changes.into_iter().enumerate() {
            let marks = Arc::<Marks>::default();
            let keeper = MarkKeeper::new(marks.clone());
            keeper.answered(&answer(100, 7));
            keeper.answered(&answer(200, 9));
            let known = [marks.frontier(8), marks.frontier(9), marks.offset_at(110)];
            assert_eq!(known, [Some(100), Some(200), Some(7)]);
            let mut changed = answer(300, 11);
            change(&mut changed);
            keeper.answered(&changed);
            let expected = is_kept.then_some(300);
            assert_eq!(marks.frontier(10), None, "{number}");
            assert_eq!(marks.frontier(11), expected, "{number}");
            let offset = marks.offset_at(400);
            assert_eq!(offset, is_kept.then_some(11), "{number}");
        }
    }
}
