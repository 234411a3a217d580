//! Takes the work of a thread in portions.
//!
//! A broker writes every message by itself. Whoever waits for the socket is
//! woken for each one, and that costs more than the message. So while messages
//! come fast a thread naps before it waits, and then finds what came meanwhile,
//! all at once. An [`Alarm`] ends the nap.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

const NAP: Duration = Duration::from_millis(1);

/// How fast messages come for one of those who share a thread.
#[derive(Debug)]
pub(crate) struct Pace {
    busy: Arc<AtomicUsize>,
    is_busy: bool,
    received_at: Instant,
}

impl Pace {
    pub(crate) fn new(busy: Arc<AtomicUsize>) -> Self {
        Self {
            busy,
            is_busy: false,
            received_at: Instant::now(),
        }
    }

    /// A message came at `now`.
    pub(crate) fn received(&mut self, now: Instant) {
        self.set_busy(self.idle(now) < NAP);
        self.received_at = now;
    }

    /// How long none has come.
    fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.received_at)
    }

    /// Naps no more if there was nothing to find.
    pub(crate) fn rest(&mut self, now: Instant) {
        if self.idle(now) > NAP {
            self.set_busy(false);
        }
    }

    fn set_busy(&mut self, is_busy: bool) {
        if is_busy == self.is_busy {
            return;
        }
        self.is_busy = is_busy;
        match is_busy {
            true => self.busy.fetch_add(1, Ordering::Relaxed),
            false => self.busy.fetch_sub(1, Ordering::Relaxed),
        };
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.set_busy(false);
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

/// A runtime for one thread, which naps while somebody is `busy`.
pub(crate) fn runtime(busy: Arc<AtomicUsize>) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || {
            if busy.load(Ordering::Relaxed) > 0 {
                std::thread::park_timeout(NAP);
            }
        })
        .build()
}
