//! Both ends of a subscription: what the subscriber reads from, and what the broker's task
//! fetches for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use iot_core::partition::TopicPartition;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::budget::{Budget, Held};
use crate::clock::Stamp;
use crate::error::{FetchError, SubscriptionError};
use crate::observer::{Answer, Observer, Replica};
use crate::protocol::fetch::{Diverging, FetchedPartition, Position};
use crate::protocol::metadata::TopicId;
use crate::records::{Batch, Fetched};
use crate::start::Start;

/// How long a subscription that waits for a fetch keeps the memory of its last batch: under load
/// the next fetch needs it at once, and memory from the system has to be cleared.
const KEEP: Duration = Duration::from_millis(100);

/// Fetches that wait for the subscriber, besides the one that it reads.
pub(crate) const AHEAD: usize = 2;

/// Why a cursor ended.
#[derive(Debug, Clone, Copy)]
enum Ended {
    OutOfRange(i64),
    Truncated {
        offset: i64,
        read: i32,
        found: Diverging,
    },
    AnotherLog {
        expected: TopicId,
        found: TopicId,
    },
}

impl From<Ended> for SubscriptionError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::OutOfRange(offset) => Self::OffsetOutOfRange(offset),
            Ended::Truncated {
                offset,
                read,
                found: Diverging { epoch, end_offset },
            } => Self::Truncated {
                offset,
                read,
                epoch,
                end: end_offset,
            },
            Ended::AnotherLog { expected, found } => Self::AnotherLog { expected, found },
        }
    }
}

/// Reads one partition in order, from the offset that was subscribed to. Dropping it ends the
/// fetching.
#[derive(Debug)]
pub struct Subscription {
    deliveries: mpsc::Receiver<Buffered>,
    current: Option<Buffered>,
    batch: Batch,
    /// The memory of `batch`.
    held: Option<Held>,
    shared: Arc<Shared>,
}

/// What both ends know.
#[derive(Debug)]
struct Shared {
    observer: Arc<dyn Observer>,
    budget: Budget,
    /// Records that are fetched and not read yet.
    buffered: AtomicUsize,
    topic_id: Mutex<Option<TopicId>>,
    /// Set before the cursor is dropped.
    ended: OnceLock<Ended>,
}

impl Shared {
    fn topic_id(&self) -> MutexGuard<'_, Option<TopicId>> {
        self.topic_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fetch on its way to the subscriber; its records count as buffered for as long as it
/// is there.
#[derive(Debug)]
struct Buffered {
    fetched: Fetched,
    shared: Arc<Shared>,
    _held: Held,
}

impl Buffered {
    fn new(fetched: Fetched, shared: Arc<Shared>) -> Self {
        let records = fetched.records();
        shared.buffered.fetch_add(records, Ordering::Relaxed);
        shared.observer.buffered(records);
        let held = shared.budget.add(fetched.size());
        Self {
            fetched,
            shared,
            _held: held,
        }
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        let records = self.fetched.records();
        self.shared.buffered.fetch_sub(records, Ordering::Relaxed);
        self.shared.observer.released(records);
    }
}

impl Subscription {
    /// The next batch. It may have no records and only move the offset, as after an aborted
    /// transaction. Waits for as long as it takes, also while no broker can be reached, or until
    /// [`Settings::budget`](crate::Settings::budget) has room for the batch. Cancel safe.
    ///
    /// # Errors
    /// The partition can't be read further. All later calls fail too.
    pub async fn next(&mut self) -> Result<&Batch, SubscriptionError> {
        self.batch.clear();
        if let Some(held) = &mut self.held {
            held.end_batch(self.batch.memory());
        }
        loop {
            if let Some(current) = self.current.as_mut()
                && !current.fetched.is_done()
            {
                let mut room = current.fetched.room();
                loop {
                    let mut held = self.shared.budget.batch(room).await;
                    let next = current.fetched.next(&mut self.batch, room);
                    match next.map_err(SubscriptionError::Corrupt)? {
                        None => {
                            held.set(self.batch.memory());
                            self.held = Some(held);
                            self.shared.observer.succeeded();
                            return Ok(&self.batch);
                        }
                        Some(needed) => {
                            (self.batch, self.held) = (Batch::default(), None);
                            room = needed;
                        }
                    }
                }
            }
            // Its records count as buffered until they are read.
            self.current = None;
            match self.delivery().await {
                Some(buffered) => self.current = Some(buffered),
                None => {
                    let ended = self.shared.ended.get().copied();
                    return Err(ended.map_or(SubscriptionError::Stopped, Into::into));
                }
            }
        }
    }

    /// The next fetch; `None` when the subscription has ended. Cancel safe.
    async fn delivery(&mut self) -> Option<Buffered> {
        if let Ok(delivery) = timeout(KEEP, self.deliveries.recv()).await {
            return delivery;
        }
        // Others may need the memory while nothing arrives.
        (self.batch, self.held) = (Batch::default(), None);
        self.deliveries.recv().await
    }

    /// Id of the topic that is read: that of [`Start`], or of the first lookup of the
    /// partition's leader that tells one. `None` before it, and where brokers do not tell
    /// (before Kafka 2.8). A subscription never continues in a topic of another id. Where
    /// brokers have Fetch 13 (Kafka 3.1) they see to it; otherwise another id is noticed when the
    /// leader is looked up: after each failure, and once a minute.
    #[must_use]
    pub fn topic_id(&self) -> Option<TopicId> {
        *self.shared.topic_id()
    }
}

/// The fetching end of a subscription. Whichever task holds it fetches for it: there is one
/// at a time.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) partition: TopicPartition,
    /// Next offset to fetch.
    pub(crate) offset: i64,
    /// Id of the topic that is read, once it is known.
    pub(crate) topic_id: Option<TopicId>,
    /// Leader epoch of the last record before `offset`; -1 for unknown.
    pub(crate) last_epoch: i32,
    /// Of the leader that it is fetched from; -1 for unknown.
    pub(crate) leader_epoch: i32,
    /// The newest leader epoch that is known; -1 for none.
    pub(crate) newest_epoch: i32,
    /// A replica that the leader wants asked instead of itself.
    pub(crate) preferred: Option<i32>,
    /// Whether it has just failed.
    pub(crate) failed: bool,
    /// Whether the current fetch is for it.
    pub(crate) in_flight: bool,
    /// Number of the last fetch that was for it.
    pub(crate) last_fetch: u64,
    deliveries: mpsc::Sender<Buffered>,
    shared: Arc<Shared>,
}

/// Makes both ends.
pub(crate) fn subscription(
    partition: TopicPartition,
    start: Start,
    observer: Arc<dyn Observer>,
    budget: Budget,
) -> (Subscription, Cursor) {
    let (sender, deliveries) = mpsc::channel(AHEAD);
    let shared = Arc::new(Shared {
        observer,
        budget,
        buffered: AtomicUsize::new(0),
        topic_id: Mutex::new(start.topic_id),
        ended: OnceLock::new(),
    });
    let subscription = Subscription {
        deliveries,
        current: None,
        batch: Batch::default(),
        held: None,
        shared: shared.clone(),
    };
    let cursor = Cursor {
        partition,
        offset: start.offset,
        topic_id: start.topic_id,
        last_epoch: start.last_epoch.unwrap_or(-1),
        leader_epoch: -1,
        newest_epoch: start.newest_epoch(),
        preferred: None,
        failed: false,
        in_flight: false,
        last_fetch: 0,
        deliveries: sender,
        shared,
    };
    (subscription, cursor)
}

impl Cursor {
    /// Topic and number of the partition, in the order that cursors are sorted by.
    pub(crate) fn key(&self) -> (&str, i32) {
        self.partition.parts()
    }

    /// Whether the subscriber is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.deliveries.is_closed()
    }

    /// Whether the subscriber takes one more fetch. Without a fetch that waits for it, it does
    /// even if the budget is exhausted, because its batch may be the only one that can free room.
    pub(crate) fn has_room(&self) -> bool {
        match self.deliveries.capacity() {
            0 => false,
            AHEAD => true,
            _ => !self.shared.budget.is_exhausted(),
        }
    }

    /// Waits until the subscriber takes one more fetch, or is gone.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.shared.budget.freed();
            if self.has_room() || self.is_over() {
                return;
            }
            if self.deliveries.capacity() == 0 {
                let _ = self.deliveries.reserve().await;
            } else {
                // Whatever it waits for also ends when the subscriber takes a fetch.
                freed.await;
            }
        }
    }

    pub(crate) fn report_paused(&self) {
        self.shared.observer.paused(!self.has_room());
    }

    /// Takes the id that a lookup found, unless it is unknown. It never changes after that.
    pub(crate) fn set_topic_id(&mut self, id: Option<TopicId>) {
        self.topic_id = self.topic_id.or(id);
        *self.shared.topic_id() = self.topic_id;
    }

    /// From now on it is fetched from the leader of this epoch; -1 for unknown.
    pub(crate) fn led_by(&mut self, epoch: i32) {
        self.leader_epoch = epoch;
        self.newest_epoch = self.newest_epoch.max(epoch);
    }

    /// Offset, topic and epochs of its next fetch; cursors of a partition that are equal in this
    /// share a fetch.
    pub(crate) fn place(&self) -> (i64, Option<TopicId>, [i32; 2]) {
        let epochs = [self.leader_epoch, self.last_epoch];
        (self.offset, self.topic_id, epochs)
    }

    /// What a request for it says.
    pub(crate) fn position(&self) -> Position<'_> {
        Position {
            topic: &self.partition.topic,
            topic_id: self.topic_id,
            partition: self.partition.partition,
            leader_epoch: self.leader_epoch,
            offset: self.offset,
            last_epoch: self.last_epoch,
        }
    }

    /// Takes what a fetch brought, which was sent and has arrived at these times.
    pub(crate) fn receive(
        &mut self,
        response: &FetchedPartition<'_>,
        (sent, arrived): (Stamp, Stamp),
    ) {
        let observer = &self.shared.observer;
        observer.end(response.end);
        observer.answered(&Answer {
            sent,
            arrived,
            end: response.end,
            replica: match self.preferred {
                None => Replica::Leader,
                Some(_) => Replica::Follower,
            },
            leader_epoch: (self.leader_epoch >= 0).then_some(self.leader_epoch),
        });
        // While something waits, it may be corrupt: then nothing is being read.
        if response.records.is_empty() && self.shared.buffered.load(Ordering::Relaxed) == 0 {
            observer.succeeded();
        }
        let aborted = response.aborted.clone();
        if let Some(mut fetched) = Fetched::new(response.records, self.offset, aborted) {
            fetched.set_topic_id(self.topic_id);
            let (next, epoch) = (fetched.end(), fetched.last_epoch());
            let buffered = Buffered::new(fetched, self.shared.clone());
            if self.deliveries.try_send(buffered).is_ok() {
                self.offset = next;
                self.last_epoch = epoch;
                self.newest_epoch = self.newest_epoch.max(epoch);
            }
        }
    }

    /// Ends the subscription: its offset is not in the log.
    pub(crate) fn out_of_range(self) {
        let offset = self.offset;
        self.end(Ended::OutOfRange(offset));
    }

    /// Ends the subscription: the log no longer has what was read.
    pub(crate) fn end_truncated(self, found: Diverging) {
        let (offset, read) = (self.offset, self.last_epoch);
        self.end(Ended::Truncated {
            offset,
            read,
            found,
        });
    }

    /// Ends the subscription: its topic has that id now.
    pub(crate) fn end_other_log(self, found: TopicId) {
        if let Some(expected) = self.topic_id {
            self.end(Ended::AnotherLog { expected, found });
        }
    }

    /// The subscriber learns of it after what it has not read yet.
    fn end(self, ended: Ended) {
        // A cursor ends once.
        let _ = self.shared.ended.set(ended);
    }

    pub(crate) fn fail(&mut self, error: &FetchError) {
        (self.failed, self.preferred) = (true, None);
        tracing::debug!(partition = %self.partition, %error, "fetch failed; looking up the leader");
        self.shared.observer.failed(error);
    }
}
