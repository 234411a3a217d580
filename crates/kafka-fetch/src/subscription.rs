//! Both ends of a subscription: what the subscriber reads from, and what the broker's task
//! fetches for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iot_core::partition::TopicPartition;
use tokio::sync::mpsc;

use crate::budget::{Budget, Held};
use crate::error::{FetchError, SubscriptionError};
use crate::observer::Observer;
use crate::protocol::fetch::FetchedPartition;
use crate::protocol::metadata::TopicId;
use crate::records::{Batch, Fetched};

/// Fetches that wait for the subscriber, besides the one that it reads.
pub(crate) const AHEAD: usize = 2;

/// The offset that was asked for is not in the log.
#[derive(Debug)]
struct OutOfRange(i64);

type Delivery = Result<Buffered, OutOfRange>;

/// Reads one partition in order, from the offset that was subscribed to. Dropping it ends the
/// fetching.
#[derive(Debug)]
pub struct Subscription {
    deliveries: mpsc::Receiver<Delivery>,
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
            if self.deliveries.is_empty() {
                // Others may need the memory while nothing arrives.
                (self.batch, self.held) = (Batch::default(), None);
            }
            match self.deliveries.recv().await {
                Some(Ok(buffered)) => self.current = Some(buffered),
                Some(Err(OutOfRange(offset))) => {
                    return Err(SubscriptionError::OffsetOutOfRange(offset));
                }
                None => return Err(SubscriptionError::Stopped),
            }
        }
    }

    /// Id of the topic that is read, as of the last lookup of the partition's leader: when
    /// the subscription began, after each failure, and once a minute. `None` before the
    /// first lookup, and where brokers do not tell (before Kafka 2.8).
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
    /// Of the leader that it is fetched from; -1 for unknown.
    pub(crate) leader_epoch: i32,
    /// A replica that the leader wants asked instead of itself.
    pub(crate) preferred: Option<i32>,
    /// Whether it has just failed.
    pub(crate) failed: bool,
    /// Whether the current fetch is for it.
    pub(crate) in_flight: bool,
    /// Number of the last fetch that was for it.
    pub(crate) last_fetch: u64,
    deliveries: mpsc::Sender<Delivery>,
    shared: Arc<Shared>,
}

/// Makes both ends.
pub(crate) fn subscription(
    partition: TopicPartition,
    offset: i64,
    observer: Arc<dyn Observer>,
    budget: Budget,
) -> (Subscription, Cursor) {
    let (sender, deliveries) = mpsc::channel(AHEAD);
    let shared = Arc::new(Shared {
        observer,
        budget,
        buffered: AtomicUsize::new(0),
        topic_id: Mutex::default(),
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
        offset,
        leader_epoch: -1,
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

    pub(crate) fn set_topic_id(&self, id: Option<TopicId>) {
        *self.shared.topic_id() = id;
    }

    /// Takes what a fetch brought.
    pub(crate) fn receive(&mut self, response: &FetchedPartition<'_>) {
        let observer = &self.shared.observer;
        observer.end(response.end);
        // While something waits, it may be corrupt: then nothing is being read.
        if response.records.is_empty() && self.shared.buffered.load(Ordering::Relaxed) == 0 {
            observer.succeeded();
        }
        let aborted = response.aborted.clone();
        if let Some(fetched) = Fetched::new(response.records, self.offset, aborted) {
            let next = fetched.end();
            let buffered = Buffered::new(fetched, self.shared.clone());
            if self.deliveries.try_send(Ok(buffered)).is_ok() {
                self.offset = next;
            }
        }
    }

    /// Ends the subscription: its offset is not in the log.
    pub(crate) fn out_of_range(self) {
        // There was room, and the subscriber may be gone.
        let _ = self.deliveries.try_send(Err(OutOfRange(self.offset)));
    }

    pub(crate) fn fail(&mut self, error: &FetchError) {
        (self.failed, self.preferred) = (true, None);
        tracing::debug!(partition = %self.partition, %error, "fetch failed; looking up the leader");
        self.shared.observer.failed(error);
    }
}
