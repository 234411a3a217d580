//! The session's clock, and when the session wakes up.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use super::Pipeline;

/// How often delivery reports are taken while several topics have records in flight: the alarm
/// rings only once every record is reported, so that a slow topic would delay the others.
const POLL: Duration = Duration::from_millis(2);
/// The same while one topic has: only the records of its slow partitions are late.
const SLOW_POLL: Duration = Duration::from_millis(20);

/// The time, read once for all events that are processed together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    /// Milliseconds since the Unix epoch.
    pub(super) millis: i64,
}

impl Now {
    pub(super) fn get() -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            instant: Instant::now(),
            millis: since_epoch.map_or(0, |elapsed| elapsed.as_millis() as i64),
        }
    }
}

impl Pipeline {
    /// When to look for delivery reports, unless all arrive before.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        match self.topics.in_flight() {
            0 => None,
            1 => Some(self.now.instant + SLOW_POLL),
            _ => Some(self.now.instant + POLL),
        }
    }

    /// Requests a sleep until the next batch or poll is due. While the broker may be waiting for
    /// acknowledgements the request ends at once.
    pub(super) fn idle(&self) {
        let now = self.now.instant;
        let due = if self.window_limit.is_suspected() {
            // Overrides longer sleeps of other sessions on this thread. While messages arrive
            // fast, `Pace` still sleeps for a millisecond.
            Some(now)
        } else {
            self.topics
                .next_due()
                .into_iter()
                .chain(self.next_poll())
                .min()
        };
        self.pace.idle(now, due);
    }
}

/// Waits until `due`, or forever without one.
pub(super) async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
