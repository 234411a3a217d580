//! The frames that wait for one client, in order and bounded in bytes. Nobody waits for a client:
//! one that does not read in time is told to go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Why the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The client could not keep up (3008).
    Slow,
    /// The service stops (3001).
    Shutdown,
}

/// The hub's end: it never waits.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

/// The client's end.
#[derive(Debug)]
pub struct Frames(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    queue: Mutex<Queue>,
    /// There is a frame more, or no further one comes.
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: Vec<Bytes>,
    /// Bytes of the frames that wait.
    waiting: usize,
    /// Bytes of the frames that were taken last, and may still be on their way to the socket.
    taken: usize,
    closed: Option<Close>,
    /// Nobody takes any.
    is_abandoned: bool,
}

/// Makes both ends of a queue of at most `limit` bytes. One frame fits whatever its size when no
/// other waits.
pub fn outbox(limit: usize) -> (Outbox, Frames) {
    let shared = Arc::new(Shared {
        limit,
        queue: Mutex::default(),
        filled: Notify::new(),
    });
    (Outbox(shared.clone()), Frames(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fits(&self, queue: &Queue, bytes: usize) -> bool {
        queue.frames.is_empty() || queue.taken + queue.waiting + bytes <= self.limit
    }
}

impl Queue {
    fn takes_frames(&self) -> bool {
        self.closed.is_none() && !self.is_abandoned
    }
}

impl Outbox {
    /// Puts a frame behind the others. If it does not fit, the queue ends with [`Close::Slow`].
    /// Returns whether the client still reads.
    pub fn push(&self, frame: Bytes) -> bool {
        let mut queue = self.0.lock();
        if !queue.takes_frames() {
            return false;
        }
        let fits = self.0.fits(&queue, frame.len());
        if fits {
            queue.waiting += frame.len();
            queue.frames.push(frame);
        } else {
            (queue.frames, queue.waiting) = (Vec::new(), 0);
            queue.closed = Some(Close::Slow);
        }
        drop(queue);
        self.0.filled.notify_one();
        fits
    }

    /// Puts a frame behind the others if it fits. Returns whether it did.
    pub fn offer(&self, frame: &Bytes) -> bool {
        let mut queue = self.0.lock();
        let fits = queue.takes_frames() && self.0.fits(&queue, frame.len());
        if fits {
            queue.waiting += frame.len();
            queue.frames.push(frame.clone());
            drop(queue);
            self.0.filled.notify_one();
        }
        fits
    }

    /// Puts a short frame behind the others, whatever waits: it ends a subscription, after which
    /// nothing of it comes.
    pub fn push_last(&self, frame: Bytes) {
        let mut queue = self.0.lock();
        if queue.takes_frames() {
            queue.waiting += frame.len();
            queue.frames.push(frame);
            drop(queue);
            self.0.filled.notify_one();
        }
    }

    /// Whether no further frame reaches the client.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.0.lock().takes_frames()
    }

    /// Whether a frame of so many bytes fits now.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.0.fits(&self.0.lock(), bytes)
    }

    /// Bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting
    }

    /// Ends the queue. What waits is still sent.
    pub fn close(&self, close: Close) {
        self.0.lock().closed.get_or_insert(close);
        self.0.filled.notify_one();
    }
}

impl Frames {
    /// All frames that wait, at least one; waits for it. `Err` when no further one comes. Cancel
    /// safe. The frames before count as sent.
    ///
    /// # Errors
    /// Why no further frame comes.
    pub async fn take(&mut self) -> Result<Vec<Bytes>, Close> {
        loop {
            {
                let mut queue = self.0.lock();
                queue.taken = 0;
                if !queue.frames.is_empty() {
                    queue.taken = std::mem::take(&mut queue.waiting);
                    return Ok(std::mem::take(&mut queue.frames));
                }
                if let Some(close) = queue.closed {
                    return Err(close);
                }
            }
            self.0.filled.notified().await;
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // What waits for nobody needs no memory either.
        *self.0.lock() = Queue {
            is_abandoned: true,
            ..Queue::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> Bytes {
        vec![b'x'; bytes].into()
    }

    #[tokio::test]
    async fn frames_come_in_order_and_then_the_end() {
        let (outbox, mut frames) = outbox(100);
        assert!(outbox.push("a".into()) && outbox.push("b".into()));
        outbox.close(Close::Shutdown);
        assert!(!outbox.push("c".into()));
        assert_eq!(frames.take().await, Ok(vec!["a".into(), "b".into()]));
        assert_eq!(frames.take().await, Err(Close::Shutdown));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_costs_the_limit_and_one_frame() {
        let (outbox, mut frames) = outbox(100);
        // No matter how large, a single one fits.
        assert!(outbox.push(frame(300)));
        assert_eq!(frames.take().await.unwrap().len(), 1);
        assert!(outbox.push(frame(1)), "beside the one that is being sent");
        assert!(!outbox.has_room(1));
        assert!(!outbox.push(frame(1)));
        assert_eq!(frames.take().await, Err(Close::Slow));
    }

    #[tokio::test]
    async fn sent_frames_make_room() {
        let (outbox, mut frames) = outbox(100);
        for _ in 0..10 {
            assert!(outbox.push(frame(40)) && outbox.push(frame(40)));
            assert!(!outbox.has_room(40));
            assert_eq!(frames.take().await.unwrap().len(), 2);
            // The next call means that they are sent.
            let waits = tokio::time::timeout(std::time::Duration::ZERO, frames.take());
            assert!(waits.await.is_err());
        }
    }

    #[tokio::test]
    async fn frames_for_a_disconnected_client_are_dropped() {
        let (outbox, frames) = outbox(100);
        assert!(outbox.push(frame(10)));
        drop(frames);
        assert!(!outbox.push(frame(1)));
        assert_eq!(outbox.waiting(), 0);
    }
}
