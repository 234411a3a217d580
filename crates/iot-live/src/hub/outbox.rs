//! The frames that wait for one client, in order and bounded in bytes. Nobody waits for a client:
//! one that does not read in time is told to go.

use bytes::Bytes;

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
pub struct Outbox(());

/// The client's end.
#[derive(Debug)]
pub struct Frames(());

/// Makes both ends of a queue of at most `limit` bytes.
pub fn outbox(limit: usize) -> (Outbox, Frames) {
    let _ = limit;
    (Outbox(()), Frames(()))
}

impl Outbox {
    /// Puts a frame behind the others. If it does not fit, the queue ends with [`Close::Slow`].
    /// Returns whether the client still reads.
    pub fn push(&self, frame: Bytes) -> bool {
        let _ = frame;
        todo!()
    }

    /// Ends the queue.
    pub fn close(&self, close: Close) {
        let _ = close;
        todo!()
    }
}

impl Frames {
    /// All frames that wait, at least one; waits for it. `Err` when no further one comes. Cancel
    /// safe.
    pub async fn take(&mut self) -> Result<Vec<Bytes>, Close> {
        todo!()
    }
}
