//! How far a partition has been processed, and its lag.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kafka_fetch::LogEnd;

/// The value is not known yet.
const UNKNOWN: i64 = -1;

/// Progress of a partition, written by its owner and by the fetcher, read by the group's
/// thread.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Next offset to process.
    position: AtomicI64,
    /// Kafka's time of the oldest record being processed, milliseconds.
    oldest: AtomicI64,
    /// High watermark of the log at the last fetch.
    end: AtomicI64,
    held: Mutex<Option<Held>>,
    /// Records that are fetched and not processed.
    waiting: AtomicUsize,
    /// There are so many of them that fetching is paused.
    full: AtomicBool,
    standing: Mutex<Standing>,
}

/// Records that wait for the end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// The last stable offset: where the oldest open transaction begins.
    pub(super) offset: i64,
    /// When it was first seen to stand still there.
    pub(super) since: Instant,
    /// The same by the wall clock.
    pub(super) at: Timestamp,
}

/// Whether a partition is being read.
#[derive(Debug)]
struct Standing {
    is_read: bool,
    /// Since when.
    since: Instant,
    /// Why it is not read.
    trouble: Option<String>,
}

impl Standing {
    /// It is no longer read. Keeps the time if it already was not.
    fn stop(&mut self) {
        if self.is_read {
            (self.is_read, self.since) = (false, Instant::now());
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            position: AtomicI64::new(UNKNOWN),
            oldest: AtomicI64::new(UNKNOWN),
            end: AtomicI64::new(UNKNOWN),
            held: Mutex::default(),
            waiting: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            standing: Mutex::new(Standing {
                is_read: false,
                since: Instant::now(),
                trouble: None,
            }),
        }
    }
}

impl Progress {
    /// Its state is being loaded, after which it is read from another offset.
    pub(crate) fn load(&self) {
        self.end.store(UNKNOWN, Ordering::Relaxed);
        *self.transaction() = None;
        self.set_full(false);
        self.standing().stop();
    }

    /// Everything before `offset` is processed.
    pub(crate) fn reach(&self, offset: i64) {
        self.position.store(offset, Ordering::Relaxed);
    }

    /// Records from that time of Kafka on, milliseconds, are being processed.
    pub(crate) fn begin(&self, recorded: Option<i64>) {
        let recorded = recorded.unwrap_or(UNKNOWN);
        self.oldest.store(recorded, Ordering::Relaxed);
    }

    /// The log ends there.
    pub(crate) fn ends_at(&self, end: LogEnd) {
        self.end.store(end.high_watermark, Ordering::Relaxed);
        let offset = end.last_stable_offset;
        let mut held = self.transaction();
        if offset >= end.high_watermark {
            *held = None;
        } else if held.is_none_or(|held| held.offset != offset) {
            // Transactions that end move the offset, even if another one is always open.
            *held = Some(Held {
                offset,
                since: Instant::now(),
                at: Timestamp::now(),
            });
        }
    }

    /// What holds records back, as of the last fetch; `None` without an open transaction.
    pub(super) fn held(&self) -> Option<Held> {
        *self.transaction()
    }

    fn transaction(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is being read; earlier trouble is over.
    pub(super) fn set_read(&self) {
        let mut standing = self.standing();
        if !standing.is_read {
            *standing = Standing {
                is_read: true,
                since: Instant::now(),
                trouble: None,
            };
        }
    }

    /// It can't be read; returns whether the reason is new.
    pub(crate) fn troubled(&self, reason: String) -> bool {
        let mut standing = self.standing();
        standing.stop();
        let before = standing.trouble.replace(reason);
        before != standing.trouble
    }

    /// For how long it has not been read, and why if that is known; `None` if it is read.
    pub(crate) fn not_read(&self) -> Option<(Duration, Option<String>)> {
        let standing = self.standing();
        (!standing.is_read).then(|| (standing.since.elapsed(), standing.trouble.clone()))
    }

    /// Next offset to process, once it is known.
    pub(crate) fn position(&self) -> Option<i64> {
        known(&self.position)
    }

    /// Whether everything that could be read at the last fetch is processed.
    pub(crate) fn is_at_end(&self) -> bool {
        let (Some(position), Some(end)) = (self.position(), self.end()) else {
            return false;
        };
        position >= self.held().map_or(end, |held| held.offset)
    }

    /// How far the log goes beyond what is processed, in offsets; 0 as long as its end is not known.
    pub(crate) fn behind(&self) -> i64 {
        let (position, end) = (self.position(), self.end());
        let behind = position.zip(end).map(|(position, end)| end - position);
        behind.unwrap_or(0).max(0)
    }

    /// The high watermark: the lag counts to it, because records of an open transaction are
    /// in the log and not processed.
    pub(crate) fn end(&self) -> Option<i64> {
        known(&self.end)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// So many more records are fetched.
    pub(super) fn buffered(&self, records: usize) {
        self.waiting.fetch_add(records, Ordering::Relaxed);
    }

    /// So many of them are processed, or dropped.
    pub(super) fn released(&self, records: usize) {
        self.waiting.fetch_sub(records, Ordering::Relaxed);
    }

    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    fn oldest(&self) -> Option<i64> {
        known(&self.oldest)
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn known(value: &AtomicI64) -> Option<i64> {
    let value = value.load(Ordering::Relaxed);
    (value != UNKNOWN).then_some(value)
}

/// Lag of a partition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lag {
    /// Records that are not processed.
    pub(crate) messages: i64,
    /// Age of the oldest of them in Kafka, seconds.
    pub(crate) seconds: f64,
}

/// Measures the lag of one partition repeatedly.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// End of the log, and the time in milliseconds, when it was last caught up with or first
    /// seen.
    seen: Option<(i64, i64)>,
}

impl Gauge {
    /// The lag at `now` (milliseconds since the epoch), when the log ends at `end`.
    /// `None` before the first offset is known.
    ///
    /// The times of records that are not fetched are unknown: their age counts from when
    /// they were first seen.
    pub(crate) fn measure(&mut self, progress: &Progress, end: i64, now: i64) -> Option<Lag> {
        let position = progress.position()?;
        let messages = (end - position).max(0);
        if messages == 0 {
            self.seen = None;
            return Some(Lag {
                messages: 0,
                seconds: 0.0,
            });
        }
        // Records up to the end seen then are processed; the others are newer.
        let seen = self.seen.filter(|(end, _)| position < *end);
        let (_, seen) = *self.seen.insert(seen.unwrap_or((end, now)));
        let oldest = progress.oldest().filter(|_| progress.waiting() > 0);
        let millis = (now - oldest.unwrap_or(seen)).max(0);
        Some(Lag {
            messages,
            seconds: millis as f64 / 1e3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_lasts_over_every_attempt_until_the_partition_is_read() {
        let progress = Progress::default();
        let first = progress.standing().since;
        for is_first in [true, false, false] {
            progress.load();
            assert_eq!(progress.troubled("damage".into()), is_first);
        }
        let (_, reason) = progress.not_read().unwrap();
        assert_eq!(
            (progress.standing().since, reason),
            (first, Some("damage".into()))
        );
        progress.set_read();
        assert_eq!(progress.not_read(), None);
        progress.load();
        assert_eq!(progress.not_read().unwrap().1, None, "that trouble is over");
        assert!(progress.standing().since > first);
    }

    fn end(high_watermark: i64, last_stable_offset: i64) -> LogEnd {
        LogEnd {
            high_watermark,
            last_stable_offset,
        }
    }

    #[test]
    fn the_end_is_that_of_what_can_be_read() {
        let progress = Progress::default();
        progress.reach(90);
        assert!(!progress.is_at_end(), "the end is not known");
        progress.ends_at(end(91, 91));
        assert!(!progress.is_at_end());
        progress.ends_at(end(100, 90));
        assert!(progress.is_at_end(), "the others wait for a transaction");
        progress.ends_at(end(90, 90));
        assert!(progress.is_at_end());
        progress.load();
        assert!(!progress.is_at_end());
    }

    #[test]
    fn records_behind_an_open_transaction_are_lag() {
        let (progress, mut gauge) = (Progress::default(), Gauge::default());
        progress.reach(90);
        progress.ends_at(end(100, 90));
        let lag = gauge.measure(&progress, progress.end().unwrap(), 0);
        assert_eq!(lag.map(|lag| lag.messages), Some(10));
    }

    #[test]
    fn a_transaction_holds_records_while_the_last_stable_offset_stands_still() {
        let progress = Progress::default();
        progress.ends_at(end(90, 90));
        assert_eq!(progress.held(), None);
        progress.ends_at(end(91, 90));
        let first = progress.held().unwrap();
        assert_eq!(first.offset, 90);
        progress.ends_at(end(200, 90));
        assert_eq!(progress.held(), Some(first), "the same transaction");
        progress.ends_at(end(200, 150));
        let next = progress.held().unwrap();
        assert_eq!(next.offset, 150);
        assert!(next.since > first.since, "another transaction");
        progress.load();
        assert_eq!(progress.held(), None);
        progress.ends_at(end(200, 150));
        progress.ends_at(end(200, 200));
        assert_eq!(progress.held(), None);
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_record_not_processed() {
        let (progress, mut gauge) = (Progress::default(), Gauge::default());
        let mut measure = |end, queued, now| {
            progress.buffered(queued);
            let lag = gauge.measure(&progress, end, now);
            progress.released(queued);
            lag.map(|lag| (lag.messages, lag.seconds))
        };
        assert_eq!(measure(10, 0, 0), None, "the position is unknown");
        progress.reach(10);
        assert_eq!(measure(10, 0, 1_000_000), Some((0, 0.0)));
        // Records have just arrived: their age is not known.
        progress.begin(Some(5));
        assert_eq!(measure(15, 0, 2_000_000), Some((5, 0.0)));
        assert_eq!(measure(15, 0, 2_001_500), Some((5, 1.5)));
        progress.begin(Some(1_990_000));
        assert_eq!(measure(15, 5, 2_002_000), Some((5, 12.0)));
        // Never caught up when it is measured, and yet not far behind.
        progress.reach(15);
        assert_eq!(measure(20, 0, 2_002_500), Some((5, 0.0)));
        progress.reach(20);
        assert_eq!(measure(25, 0, 2_003_500), Some((5, 0.0)));
        progress.reach(15);
        assert_eq!(measure(15, 0, 2_003_000), Some((0, 0.0)));
        assert_eq!(measure(16, 0, 9_000_000), Some((1, 0.0)));
    }
}
