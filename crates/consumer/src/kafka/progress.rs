//! How far a partition has been processed, and how far behind that is.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Nothing is known yet.
const UNKNOWN: i64 = -1;

/// What is known of a partition: by its owner, by who fetches it, for the group's thread.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Next offset to process.
    position: AtomicI64,
    /// Kafka's time of the oldest record in processing, milliseconds.
    oldest: AtomicI64,
    /// Where the log ended when it was last fetched.
    end: AtomicI64,
    /// Records that are fetched and not processed yet.
    waiting: AtomicUsize,
    /// So many of them that no more are fetched.
    full: AtomicBool,
    standing: Mutex<Standing>,
}

/// Whether a partition is read.
#[derive(Debug)]
struct Standing {
    is_read: bool,
    /// Since when.
    since: Instant,
    /// What keeps it from being read.
    trouble: Option<String>,
}

impl Standing {
    /// It is not read any more; if it was not before, that began earlier.
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
    /// Its state is being loaded, and after that it is to be read from another offset.
    pub(crate) fn load(&self) {
        self.end.store(UNKNOWN, Ordering::Relaxed);
        self.set_full(false);
        self.standing().stop();
    }

    /// Everything before `offset` is processed.
    pub(crate) fn reach(&self, offset: i64) {
        self.position.store(offset, Ordering::Relaxed);
    }

    /// Records from that Kafka time on, in milliseconds, are being processed.
    pub(crate) fn begin(&self, recorded: Option<i64>) {
        let recorded = recorded.unwrap_or(UNKNOWN);
        self.oldest.store(recorded, Ordering::Relaxed);
    }

    /// The log ends at that offset.
    pub(super) fn ends_at(&self, end: i64) {
        self.end.store(end, Ordering::Relaxed);
    }

    /// It is read, whatever there was before.
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

    /// It can't be read; says whether that is news.
    pub(crate) fn troubled(&self, reason: String) -> bool {
        let mut standing = self.standing();
        standing.stop();
        let before = standing.trouble.replace(reason);
        before != standing.trouble
    }

    /// How long it has not been read, and why if that is known; none if it is read.
    pub(super) fn not_read(&self) -> Option<(Duration, Option<String>)> {
        let standing = self.standing();
        (!standing.is_read).then(|| (standing.since.elapsed(), standing.trouble.clone()))
    }

    /// Next offset to process, once it is known.
    pub(crate) fn position(&self) -> Option<i64> {
        known(&self.position)
    }

    pub(super) fn end(&self) -> Option<i64> {
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

/// How far behind a partition is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lag {
    /// Records not processed yet.
    pub(crate) messages: i64,
    /// How long the oldest of them has been in Kafka, seconds.
    pub(crate) seconds: f64,
}

/// Measures the lag of one partition time and again.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// The end of the log when it was last caught up with, or first seen, and when
    /// that was, milliseconds.
    seen: Option<(i64, i64)>,
}

impl Gauge {
    /// The lag at `now` (milliseconds since the epoch), when the log ends at `end`.
    /// None before the first offset is known.
    ///
    /// Of records that are still in Kafka only the end is known, not their times:
    /// their age is counted from when it was first seen that there are some.
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
        // What was there then is processed: what is there now has come since.
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
    fn trouble_lasts_from_its_begin_over_every_try_until_something_is_read() {
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

    #[test]
    fn lag_is_the_age_of_the_oldest_record_not_processed() {
        let (progress, mut gauge) = (Progress::default(), Gauge::default());
        let mut measure = |end, queued, now| {
            progress.buffered(queued);
            let lag = gauge.measure(&progress, end, now);
            progress.released(queued);
            lag.map(|lag| (lag.messages, lag.seconds))
        };
        assert_eq!(measure(10, 0, 0), None, "nobody knows where it is");
        progress.reach(10);
        assert_eq!(measure(10, 0, 1_000_000), Some((0, 0.0)));
        // Records have just come: how old they are is not known yet.
        progress.begin(Some(5));
        assert_eq!(measure(15, 0, 2_000_000), Some((5, 0.0)));
        assert_eq!(measure(15, 0, 2_001_500), Some((5, 1.5)));
        progress.begin(Some(1_990_000));
        assert_eq!(measure(15, 5, 2_002_000), Some((5, 12.0)));
        // Never caught up when it was looked at, and yet not far behind.
        progress.reach(15);
        assert_eq!(measure(20, 0, 2_002_500), Some((5, 0.0)));
        progress.reach(20);
        assert_eq!(measure(25, 0, 2_003_500), Some((5, 0.0)));
        progress.reach(15);
        assert_eq!(measure(15, 0, 2_003_000), Some((0, 0.0)));
        assert_eq!(measure(16, 0, 9_000_000), Some((1, 0.0)));
    }
}
