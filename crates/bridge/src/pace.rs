//! Paces a thread: it wakes up once for several events.
//!
//! A broker writes each PUBLISH separately. To wake up for each one costs more CPU
//! than the message does. So the thread sleeps before it waits for events, and then
//! takes everything that has arrived:
//!
//! - while more than one message per millisecond arrives: for 1 ms;
//! - otherwise, if something is due: until then, at most 10 ms;
//! - otherwise: not at all.
//!
//! An [`Alarm`] ends the sleep early.

use std::cell::Cell;
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Sleep while more than one message per millisecond arrives.
const SHORT_SLEEP: Duration = Duration::from_millis(1);
/// The longest sleep until something is due.
const MAX_SLEEP: Duration = Duration::from_millis(10);

thread_local! {
    /// Until when this thread may sleep before it waits for events.
    static SLEEP_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Makes this thread sleep before it waits for events the next time. The earliest
/// of several requests holds.
fn request_sleep(until: Instant) {
    let earlier = SLEEP_UNTIL.get().filter(|earlier| *earlier < until);
    SLEEP_UNTIL.set(earlier.or(Some(until)));
}

/// The message rate of one of the sessions that share a thread.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the messages before those at `received_at` arrived.
    before: Instant,
    received_at: Instant,
    /// How many messages arrived at `received_at`.
    count: u32,
}

impl Pace {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            before: now,
            received_at: now,
            count: 0,
        }
    }

    /// Call when a message arrives at `now`.
    pub(crate) fn received(&mut self, now: Instant) {
        if now != self.received_at {
            (self.before, self.received_at, self.count) = (self.received_at, now, 0);
        }
        self.count = self.count.saturating_add(1);
    }

    /// Call when the session only waits for messages until `due` (`None`:
    /// indefinitely).
    pub(crate) fn idle(&self, now: Instant, due: Option<Instant>) {
        let fast = now == self.received_at && now - self.before < SHORT_SLEEP * self.count;
        match due {
            _ if fast => request_sleep(now + SHORT_SLEEP),
            Some(due) => request_sleep(due.min(now + MAX_SLEEP)),
            None => {}
        }
    }
}

/// Notifies a task on the thread that created the alarm, from another thread, and
/// wakes that thread.
#[derive(Debug)]
pub(crate) struct Alarm {
    rung: Notify,
    thread: Thread,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self {
            rung: Notify::new(),
            thread: std::thread::current(),
        }
    }

    pub(crate) fn ring(&self) {
        self.rung.notify_one();
        self.thread.unpark();
    }

    /// Waits until it rings; returns immediately if it has rung since the last call.
    pub(crate) async fn rung(&self) {
        self.rung.notified().await;
    }
}

/// A runtime for the current thread that sleeps when requested.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(|| {
            // Runs before tokio polls the sockets, so everything that arrives during the
            // sleep is one wake-up.
            if let Some(until) = SLEEP_UNTIL.take() {
                std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
            }
        })
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sleep requested after `messages` arrive together, `pause` after the previous
    /// ones.
    fn sleep(pause: Duration, messages: usize, due: Option<Duration>) -> Option<Duration> {
        let mut pace = Pace::new();
        let now = pace.received_at + pause;
        for _ in 0..messages {
            pace.received(now);
        }
        pace.idle(now, due.map(|due| now + due));
        SLEEP_UNTIL.take().map(|until| until - now)
    }

    #[test]
    fn it_sleeps_briefly_while_more_than_one_message_per_millisecond_arrives() {
        assert_eq!(sleep(5 * MS, 6, None), Some(SHORT_SLEEP));
        assert_eq!(sleep(5 * MS, 5, None), None);
        assert_eq!(sleep(5 * MS, 6, Some(8 * MS)), Some(SHORT_SLEEP));
    }

    #[test]
    fn otherwise_it_sleeps_until_something_is_due() {
        assert_eq!(sleep(5 * MS, 1, Some(8 * MS)), Some(8 * MS));
        assert_eq!(sleep(5 * MS, 0, Some(8 * MS)), Some(8 * MS));
        assert_eq!(sleep(5 * MS, 1, Some(60_000 * MS)), Some(MAX_SLEEP));
    }

    #[test]
    fn the_shortest_requested_sleep_holds() {
        let now = Instant::now();
        for millis in [9, 3, 7] {
            request_sleep(now + millis * MS);
        }
        assert_eq!(SLEEP_UNTIL.take(), Some(now + 3 * MS));
        assert_eq!(SLEEP_UNTIL.take(), None, "a request holds once");
    }
}
