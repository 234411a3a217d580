//! What a subscriber can watch besides the records.

use std::fmt;

use crate::clock::Stamp;
use crate::error::FetchError;

/// Where a log ends, as of one fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// Offset after the last replicated record, whether its transaction is open or not.
    pub high_watermark: i64,
    /// Offset of the first record of the oldest open transaction, before which committed
    /// records end; without one, or if the broker does not tell it, the high watermark.
    pub last_stable_offset: i64,
}

/// Which replica of a partition answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replica {
    /// The leader.
    Leader,
    /// Another one, which the leader prefers for this client (`client.rack`). It may lag.
    Follower,
}

/// An answer to a fetch, with or without records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// When the request was sent.
    pub sent: Stamp,
    /// When the answer had arrived.
    pub arrived: Stamp,
    /// Where the log ended in between.
    pub end: LogEnd,
    /// Who answered.
    pub replica: Replica,
    /// Epoch of the leader that was asked, or whose replica was; `None` if it is not known.
    pub leader_epoch: Option<i32>,
}

/// Watches the fetching of one subscription, for lag, metrics and readiness.
///
/// Calls come from the tasks of the fetcher and from
/// [`Subscription::next`](crate::Subscription::next), some for each fetch, none for a record.
/// They must not block. After the subscription is dropped there may be one last round of
/// them, and [`released`](Observer::released) once its fetches are dropped.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A fetch answered: the log ends there now.
    fn end(&self, _end: LogEnd) {}

    /// A fetch answered: this is called after [`end`](Self::end), and before its records can be
    /// read.
    fn answered(&self, _answer: &Answer) {}

    /// A batch is handed out, or there was nothing to fetch: earlier failures are over.
    fn succeeded(&self) {}

    /// A fetch or the lookup of the leader failed. It is retried.
    fn failed(&self, _error: &FetchError) {}

    /// Whether the subscription is left out of the next fetch because it has enough to read.
    /// Called before each fetch.
    fn paused(&self, _paused: bool) {}

    /// So many records are fetched and wait to be read. The number is that of the batches'
    /// headers, so it counts aborted records too.
    fn buffered(&self, _records: usize) {}

    /// So many of them are read, or dropped.
    fn released(&self, _records: usize) {}
}

/// Watches nothing.
impl Observer for () {}
