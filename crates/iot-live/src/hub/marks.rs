//! When the records of a partition were fetched: what turns the offsets of many partitions into
//! one position that every replica understands.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most fetches that are remembered: at least 40 seconds of a busy partition, much longer of
/// one whose fetches wait.
const KEPT: usize = 8_192;
/// Of busy partitions one fetch in about so many microseconds is remembered. Positions are as much
/// older at most.
const EVERY: i64 = 10_000;

/// An answer to a fetch. Times are microseconds since the epoch, by this replica's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// When the request was sent: all that was committed before has an offset below `end`.
    pub sent: i64,
    /// When the answer arrived: what was committed later has an offset of at least `end`.
    pub arrived: i64,
    /// The last stable offset.
    pub end: i64,
}

/// The fetches of one partition. The task that fetches adds them, and the hub reads them.
#[derive(Debug, Default)]
pub struct Marks(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// In the order of their arrival.
    marks: VecDeque<Mark>,
}

impl Marks {
    /// Adds an answer.
    pub fn add(&self, mark: Mark) {
        let marks = &mut self.lock().marks;
        // A clock that steps back, or another log: what is known of times holds no longer.
        let newest = marks.back();
        if newest.is_some_and(|last| mark.arrived < last.arrived || mark.end < last.end) {
            marks.clear();
        }
        if let Some(last) = marks.back_mut()
            && last.end == mark.end
        {
            // Nothing was committed in between.
            last.sent = mark.sent;
            return;
        }
        // The newest one stays, and those before it at a distance.
        let before = marks.len().checked_sub(2).map(|before| marks[before]);
        if before.is_some_and(|before| mark.arrived - before.arrived < EVERY) {
            marks.pop_back();
        }
        if marks.len() == KEPT {
            marks.pop_front();
        }
        marks.push_back(mark);
    }

    /// The same, for what goes on from here.
    #[must_use]
    pub fn copied(&self) -> Self {
        let marks = self.lock().marks.clone();
        Self(Mutex::new(Kept { marks }))
    }

    /// Forgets all: the leader's epoch changed, the clock was set, or a follower replica answers.
    pub fn clear(&self) {
        self.lock().marks.clear();
    }

    /// The time before which everything committed is below `reached`, if it is known.
    pub fn frontier(&self, reached: i64) -> Option<i64> {
        let kept = self.lock();
        let known = kept.marks.partition_point(|mark| mark.end <= reached);
        known.checked_sub(1).map(|last| kept.marks[last].sent)
    }

    /// The offset from which everything that was committed after `time` is found; `None` if that
    /// is too long ago.
    pub fn offset_at(&self, time: i64) -> Option<i64> {
        let kept = self.lock();
        let before = kept.marks.partition_point(|mark| mark.arrived <= time);
        before.checked_sub(1).map(|last| kept.marks[last].end)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sent: i64, arrived: i64, end: i64) -> Mark {
        Mark { sent, arrived, end }
    }

    #[test]
    fn fetches_of_nothing_new_are_one_mark_with_exact_answers() {
        let marks = Marks::default();
        marks.add(mark(0, 5, 7));
        for at in 1..1_000_000 {
            marks.add(mark(at * 100_000, at * 100_000 + 5, 8));
        }
        assert_eq!(marks.lock().marks.len(), 2);
        let newest = 999_999 * 100_000;
        let frontiers = [6, 7, 8, 9].map(|reached| marks.frontier(reached));
        assert_eq!(frontiers, [None, Some(0), Some(newest), Some(newest)]);
        let offsets = [4, 5, 100_004, 100_005, newest].map(|time| marks.offset_at(time));
        assert_eq!(offsets, [None, Some(7), Some(7), Some(8), Some(8)]);
    }

    #[test]
    fn busy_fetches_are_thinned_and_the_newest_is_exact() {
        let marks = Marks::default();
        // One a millisecond for ten seconds.
        for at in 1..=10_000 {
            marks.add(mark(at * 1_000, at * 1_000 + 500, at));
            assert_eq!(marks.frontier(at), Some(at * 1_000));
            assert_eq!(marks.offset_at(at * 1_000 + 500), Some(at));
        }
        let kept = marks.lock().marks.len();
        assert!((900..=2_100).contains(&kept), "{kept}");
        for at in 100..=10_000 {
            // Never too new, and little too old.
            let (frontier, offset) = (marks.frontier(at), marks.offset_at(at * 1_000 + 500));
            let exact = at * 1_000;
            let near = |value: i64| (exact - 10_000..=exact).contains(&value);
            assert!(frontier.is_some_and(near), "{at}: {frontier:?}");
            assert!(offset.is_some_and(|offset| near(offset * 1_000)), "{at}");
        }
    }

    #[test]
    fn an_idle_partition_that_gets_busy_keeps_its_position() {
        let marks = Marks::default();
        marks.add(mark(0, 1, 5));
        marks.add(mark(10, 11, 6));
        // Nothing for a minute; then a record that is not processed yet.
        marks.add(mark(60_000_000, 60_500_000, 6));
        marks.add(mark(60_500_001, 60_500_100, 7));
        assert_eq!(marks.frontier(6), Some(60_000_000));
    }
}
