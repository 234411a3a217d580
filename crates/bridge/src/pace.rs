//! Takes the work of a thread in portions.
//!
//! A broker writes every message by itself. Whoever waits for the socket is
//! woken for each one, and that costs more than the message. So a thread naps
//! before it waits, and then finds what came meanwhile, all at once: for a
//! moment while messages come fast, else until there is something to do with
//! those that are there. An [`Alarm`] ends the nap.

use std::cell::Cell;
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A nap while messages come faster than one each.
const NAP: Duration = Duration::from_millis(1);
/// The longest nap of those who wait for a point in time.
const LONG_NAP: Duration = Duration::from_millis(10);

thread_local! {
    /// Until when this thread may nap before it waits.
    static NAP_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Has this thread nap until then, before it waits the next time. The shortest
/// nap that is asked for holds.
fn nap_until(until: Instant) {
    let earlier = NAP_UNTIL.get().filter(|earlier| *earlier < until);
    NAP_UNTIL.set(earlier.or(Some(until)));
}

/// How fast messages come for one of those who share a thread.
#[derive(Debug)]
pub(crate) struct Pace {
    before: Instant,
    received_at: Instant,
    /// How many came then.
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

    /// A message came at `now`.
    pub(crate) fn received(&mut self, now: Instant) {
        if now != self.received_at {
            (self.before, self.received_at, self.count) = (self.received_at, now, 0);
        }
        self.count = self.count.saturating_add(1);
    }

    /// There is nothing to do before `due` but to take messages, and nothing at
    /// all if there is no `due`.
    pub(crate) fn rest(&self, now: Instant, due: Option<Instant>) {
        let fast = now == self.received_at && now - self.before < NAP * self.count;
        match due {
            _ if fast => nap_until(now + NAP),
            Some(due) => nap_until(due.min(now + LONG_NAP)),
            None => {}
        }
    }
}

/// Wakes one who waits on the thread that made it, from another thread.
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

    /// Waits until it rings, if it has not since the last time.
    pub(crate) async fn rung(&self) {
        self.rung.notified().await;
    }
}

/// A runtime for one thread, which naps when it is asked to.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(|| {
            if let Some(until) = NAP_UNTIL.take() {
                std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
            }
        })
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The nap after so many messages at once, so long after the last ones.
    fn nap(pause: Duration, messages: usize, due: Option<Duration>) -> Option<Duration> {
        let mut pace = Pace::new();
        let now = pace.received_at + pause;
        for _ in 0..messages {
            pace.received(now);
        }
        pace.rest(now, due.map(|due| now + due));
        NAP_UNTIL.take().map(|until| until - now)
    }

    #[test]
    fn it_naps_for_a_moment_while_messages_come_fast_on_average() {
        assert_eq!(nap(5 * MS, 6, None), Some(NAP));
        assert_eq!(nap(5 * MS, 5, None), None);
        assert_eq!(nap(5 * MS, 6, Some(8 * MS)), Some(NAP));
    }

    #[test]
    fn else_it_naps_until_something_is_due() {
        assert_eq!(nap(5 * MS, 1, Some(8 * MS)), Some(8 * MS));
        assert_eq!(nap(5 * MS, 0, Some(8 * MS)), Some(8 * MS));
        assert_eq!(nap(5 * MS, 1, Some(60_000 * MS)), Some(LONG_NAP));
    }

    #[test]
    fn the_shortest_nap_asked_for_holds() {
        let now = Instant::now();
        for millis in [9, 3, 7] {
            nap_until(now + millis * MS);
        }
        assert_eq!(NAP_UNTIL.take(), Some(now + 3 * MS));
        assert_eq!(NAP_UNTIL.take(), None, "asked for once");
    }
}
