//! One bound for the bytes of a process that wait: fetches, decompressed batches, and what the
//! program adds.
//!
//! Only a batch that is about to be decompressed waits for room, and a subscription that waits has
//! no decompressed batch. So every decompressed batch can be finished, and its room becomes free:
//! there is no deadlock. Everything else is there already when it is counted, and is counted in any
//! case.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, oneshot};

/// Bytes that may wait in a process. Clones are the same budget.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    total: usize,
    state: Mutex<State>,
    freed: Arc<Notify>,
    /// Gets the number of bytes that are held, after each change.
    report: Box<dyn Fn(usize) + Send + Sync>,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    /// Decompressed batches.
    batches: usize,
    /// Batches that wait for room, in their order, so that a large one is not overtaken for ever.
    waiting: VecDeque<Waiting>,
}

/// A batch that waits for room.
#[derive(Debug)]
struct Waiting {
    bytes: usize,
    granted: oneshot::Sender<Held>,
}

/// Lets those behind a wait pass when it ends, also when it is cancelled.
struct Next<'b>(&'b Budget);

impl Drop for Next<'_> {
    fn drop(&mut self) {
        self.0.grant();
    }
}

/// Bytes of a [`Budget`], until it is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
    is_batch: bool,
}

impl Budget {
    /// A budget of `total` bytes. `report` is called with the bytes held after each change, and
    /// must not block.
    #[must_use]
    pub fn new(total: usize, report: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            total,
            state: Mutex::default(),
            freed: Arc::default(),
            report: Box::new(report),
        }))
    }

    /// Adds bytes that are there already, even beyond the total.
    #[must_use]
    pub fn add(&self, bytes: usize) -> Held {
        let mut held = Held {
            budget: self.clone(),
            bytes: 0,
            is_batch: false,
        };
        held.set(bytes);
        held
    }

    /// Whether the total is reached.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.state().held >= self.0.total
    }

    /// Waits for room for a batch. If no other is decompressed there is always room, so that a
    /// batch beyond the total is decompressed alone. Cancel safe.
    pub(crate) async fn batch(&self, bytes: usize) -> Held {
        let granted = match self.take_or_wait(bytes) {
            Ok(held) => return held,
            Err(granted) => granted,
        };
        let _next = Next(self);
        granted
            .await
            .expect("it is in the queue until it is granted room")
    }

    /// Takes room, or queues for it.
    fn take_or_wait(&self, bytes: usize) -> Result<Held, oneshot::Receiver<Held>> {
        let mut state = self.state();
        if state.waiting.is_empty() && self.has_room(&state, bytes) {
            return Ok(self.hold(state, bytes));
        }
        let (sender, granted) = oneshot::channel();
        let waiting = Waiting {
            bytes,
            granted: sender,
        };
        state.waiting.push_back(waiting);
        Err(granted)
    }

    fn has_room(&self, state: &State, bytes: usize) -> bool {
        state.batches == 0 || state.held.saturating_add(bytes) <= self.0.total
    }

    fn hold(&self, mut state: MutexGuard<'_, State>, bytes: usize) -> Held {
        state.batches += 1;
        state.held += bytes;
        (self.0.report)(state.held);
        drop(state);
        Held {
            budget: self.clone(),
            bytes,
            is_batch: true,
        }
    }

    /// Gives room to those who wait for it. They have it from here on, not from when their tasks
    /// run: behind a queue that moves only as fast as tasks are scheduled, all would run one
    /// after the other.
    fn grant(&self) {
        loop {
            let mut state = self.state();
            match state.waiting.front() {
                Some(next) if next.granted.is_closed() || self.has_room(&state, next.bytes) => {}
                _ => return,
            }
            if let Some(next) = state.waiting.pop_front()
                && !next.granted.is_closed()
            {
                // Cancelled meanwhile, it is freed again.
                let _ = next.granted.send(self.hold(state, next.bytes));
            }
        }
    }

    /// Ends once bytes are freed after this call.
    pub(crate) fn freed(&self) -> std::pin::Pin<Box<OwnedNotified>> {
        let mut freed = Box::pin(self.0.freed.clone().notified_owned());
        freed.as_mut().enable();
        freed
    }

    /// Tells everyone who waits that there may be room.
    fn notify(&self) {
        self.grant();
        self.0.freed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("total", &self.0.total)
            .field("state", &*self.state())
            .finish_non_exhaustive()
    }
}

impl Held {
    /// Corrects how many bytes there are.
    pub(crate) fn set(&mut self, bytes: usize) {
        let mut state = self.budget.state();
        state.held = state.held - self.bytes + bytes;
        (self.budget.0.report)(state.held);
        drop(state);
        let is_less = bytes < std::mem::replace(&mut self.bytes, bytes);
        if is_less {
            self.budget.notify();
        }
    }

    /// The batch is read; so many bytes of its memory are kept.
    pub(crate) fn end_batch(&mut self, bytes: usize) {
        if std::mem::take(&mut self.is_batch) {
            self.budget.state().batches -= 1;
            self.set(bytes);
            // Also if no byte is freed, another batch may have its turn.
            self.budget.notify();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end_batch(0);
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;

    use super::*;

    fn budget(total: usize) -> (Budget, Arc<AtomicUsize>) {
        let held = Arc::new(AtomicUsize::new(0));
        let reported = held.clone();
        let report = move |bytes| reported.store(bytes, Ordering::Relaxed);
        (Budget::new(total, report), held)
    }

    #[test]
    fn batches_wait_for_room_in_their_order() {
        let (budget, held) = budget(100);
        let first = budget.batch(60).now_or_never().unwrap();
        let mut large = Box::pin(budget.batch(50));
        let mut small = Box::pin(budget.batch(10));
        assert!(large.as_mut().now_or_never().is_none());
        // There would be room, and then the large one might wait for ever.
        assert!(small.as_mut().now_or_never().is_none());
        drop(first);
        let large = large.now_or_never().unwrap();
        let small = small.now_or_never().unwrap();
        assert_eq!(held.load(Ordering::Relaxed), 60);
        drop((large, small));
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }

    /// A lock that is handed from task to task lets only one of them run at a time.
    #[test]
    fn room_is_granted_before_the_task_that_waits_for_it_runs() {
        let (budget, held) = budget(100);
        let first = budget.batch(60).now_or_never().unwrap();
        let mut waiting = Box::pin(budget.batch(50));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert_eq!(held.load(Ordering::Relaxed), 50);
        let other = budget.batch(20).now_or_never();
        assert!(other.is_some());
        let mut third = Box::pin(budget.batch(40));
        assert!(third.as_mut().now_or_never().is_none());
        // What was granted and not taken is free again.
        drop(waiting);
        assert!(third.now_or_never().is_some());
        drop(other);
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_batch_beyond_the_total_is_alone() {
        let (budget, held) = budget(100);
        let small = budget.batch(1).now_or_never().unwrap();
        let mut large = Box::pin(budget.batch(1_000));
        assert!(large.as_mut().now_or_never().is_none());
        drop(small);
        let large = large.now_or_never().unwrap();
        assert_eq!(held.load(Ordering::Relaxed), 1_000);
        assert!(budget.batch(1).now_or_never().is_none());
        drop(large);
        assert!(budget.batch(1).now_or_never().is_some());
    }

    #[test]
    fn what_is_there_already_is_counted_and_stops_no_batch_for_ever() {
        let (budget, held) = budget(100);
        let there = budget.add(500);
        assert!(budget.is_exhausted());
        let mut first = budget.batch(50).now_or_never().unwrap();
        assert!(budget.batch(1).now_or_never().is_none());
        first.end_batch(10);
        assert_eq!(held.load(Ordering::Relaxed), 510);
        let second = budget.batch(50).now_or_never().unwrap();
        drop((there, second));
        assert_eq!(held.load(Ordering::Relaxed), 10);
        assert!(!budget.is_exhausted());
    }

    #[test]
    fn a_wait_that_is_cancelled_lets_the_next_one_pass() {
        let (budget, _) = budget(100);
        let first = budget.batch(60).now_or_never().unwrap();
        let mut large = Box::pin(budget.batch(50));
        let mut small = Box::pin(budget.batch(10));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(small.as_mut().now_or_never().is_none());
        drop(large);
        assert!(small.now_or_never().is_some());
        drop(first);
    }
}
