//! Takes the work of a thread in portions.
//!
//! A broker writes every message by itself. Whoever waits for the socket is
//! woken for each one, and that costs more than the message. So a thread on
//! which messages are on their way naps before it waits, and then finds what
//! came meanwhile, all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const NAP: Duration = Duration::from_millis(1);

/// Whether one of those who share a thread is busy.
#[derive(Debug)]
pub(crate) struct Pace {
    busy: Arc<AtomicUsize>,
    is_busy: bool,
}

impl Pace {
    pub(crate) fn new(busy: Arc<AtomicUsize>) -> Self {
        Self {
            busy,
            is_busy: false,
        }
    }

    pub(crate) fn set_busy(&mut self, is_busy: bool) {
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

/// A runtime for one thread, which naps while somebody is `busy`.
pub(crate) fn runtime(busy: Arc<AtomicUsize>) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || {
            if busy.load(Ordering::Relaxed) > 0 {
                std::thread::sleep(NAP);
            }
        })
        .build()
}
