//! When the records of a partition were fetched: what turns the offsets of many partitions into
//! one position that every replica understands.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most fetches that are remembered: about a minute of one a millisecond, much longer of
/// those that wait.
const KEPT: usize = 65_536;

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
        let mut kept = self.lock();
        // A clock that steps back, or another log: what is known of times holds no longer.
        if kept
            .marks
            .back()
            .is_some_and(|last| mark.arrived < last.arrived || mark.end < last.end)
        {
            kept.marks.clear();
        }
        if kept.marks.len() == KEPT {
            kept.marks.pop_front();
        }
        kept.marks.push_back(mark);
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
