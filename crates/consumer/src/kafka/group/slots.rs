//! The assigned partitions as the group's thread sees them: what is on the way
//! to their owners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use iot_service::health::Component;
use rdkafka::message::BorrowedMessage;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::StartOwner;
use crate::kafka::context::Partition;
use crate::kafka::ends::LogEnds;
use crate::kafka::progress::{Gauge, Lag, Progress};
use crate::kafka::statistics::Statistics;
use crate::record::Batch;

/// Batches that wait in the channel of an owner.
const CHANNEL: usize = 4;
/// A batch is handed over when it has this many records, or nothing more waits.
pub(crate) const BATCH: usize = 500;
/// Beyond this a partition is paused. Pausing throws away what librdkafka has
/// fetched ahead, so it must be worth it.
const HELD_RECORDS: usize = 5_000;
const HELD_BYTES: usize = 8 << 20;

/// After so long in a phase statistics are about that phase: they come once a second,
/// and are of a moment before.
const SETTLED: Duration = Duration::from_secs(3);

/// What the owner of a partition gets.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) partition: Partition,
    pub(crate) batches: mpsc::Receiver<Batch>,
    /// Put the state away and end.
    pub(crate) stop: CancellationToken,
    /// Load the state again.
    pub(crate) reload: Arc<Notify>,
    /// Next offset to process, for the lag.
    pub(crate) progress: Arc<Progress>,
    /// Takes empty batches back, for their memory.
    pub(crate) spares: mpsc::Sender<Batch>,
}

/// Whether a partition is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its owner loads the state.
    Loading,
    /// Its owner takes messages.
    Reading,
}

/// One assigned partition.
#[derive(Debug)]
pub(super) struct Slot {
    phase: Phase,
    /// When the phase began, or went on after a pause.
    since: Instant,
    /// Whether librdkafka fetches it.
    fetched: bool,
    paused: bool,
    outbox: Batch,
    batches: mpsc::Sender<Batch>,
    spares: mpsc::Receiver<Batch>,
    stop: CancellationToken,
    reload: Arc<Notify>,
    progress: Arc<Progress>,
    gauge: Gauge,
    /// Records handed over and not processed yet.
    queued: Arc<AtomicUsize>,
    owner: JoinHandle<()>,
}

impl Slot {
    pub(super) fn generation(&self) -> u64 {
        self.outbox.generation
    }

    pub(super) fn accept(&mut self, message: &BorrowedMessage<'_>) {
        if self.phase == Phase::Reading {
            self.outbox.push(message);
            if self.outbox.len() >= BATCH {
                self.send();
            }
        }
    }

    /// Nothing is taken until the owner has loaded.
    pub(super) fn hold(&mut self, generation: u64) {
        self.phase = Phase::Loading;
        self.since = Instant::now();
        self.paused = false;
        self.outbox = Batch::new(generation);
    }

    pub(super) fn read(&mut self) {
        self.phase = Phase::Reading;
        self.since = Instant::now();
    }

    /// How long it has been in this phase.
    pub(super) fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether it is in librdkafka's assignment.
    pub(super) fn is_fetched(&self) -> bool {
        self.fetched
    }

    pub(super) fn set_fetched(&mut self, fetched: bool) {
        self.fetched = fetched;
    }

    /// Whether it is fetched as fast as it comes.
    fn is_flowing(&self) -> bool {
        self.phase == Phase::Reading && !self.paused
    }

    /// Whether everything that was taken of it is processed, as statistics have it.
    fn is_drained(&self) -> bool {
        let queued = self.queued.load(Ordering::Relaxed);
        queued == 0 && self.outbox.is_empty() && self.since.elapsed() > SETTLED
    }

    /// Records that wait for the owner or are with it.
    fn waiting(&self) -> usize {
        self.queued.load(Ordering::Relaxed) + self.outbox.uncounted()
    }

    /// Asks the owner to end.
    pub(super) fn stop(self) -> JoinHandle<()> {
        self.stop.cancel();
        self.owner
    }

    /// Hands the batch over if there is room; `false` if there isn't.
    fn send(&mut self) -> bool {
        if self.outbox.is_empty() {
            return true;
        }
        match self.batches.try_reserve() {
            Ok(place) => {
                let mut next = self.spares.try_recv().unwrap_or_default();
                next.generation = self.outbox.generation;
                self.outbox.count_in(&self.queued);
                place.send(std::mem::replace(&mut self.outbox, next));
                true
            }
            Err(TrySendError::Full(())) => false,
            // The owner has died; check_owners says so.
            Err(TrySendError::Closed(())) => true,
        }
    }
}

/// All assigned partitions. Sorted rather than hashed: each message looks its own up
/// among few.
#[derive(Debug, Default)]
pub(super) struct Slots(BTreeMap<String, BTreeMap<i32, Slot>>);

/// What delivering asks of the consumer.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) pause: Vec<Partition>,
    pub(super) resume: Vec<Partition>,
}

impl Slots {
    pub(super) fn add(&mut self, partition: Partition, start_owner: &StartOwner) {
        let (sender, batches) = mpsc::channel(CHANNEL);
        let (give_back, spares) = mpsc::channel(CHANNEL);
        let (stop, reload) = (CancellationToken::new(), Arc::new(Notify::new()));
        let progress = Arc::new(Progress::default());
        let inbox = Inbox {
            partition: partition.clone(),
            batches,
            stop: stop.clone(),
            reload: reload.clone(),
            progress: progress.clone(),
            spares: give_back,
        };
        let slot = Slot {
            phase: Phase::Loading,
            since: Instant::now(),
            fetched: false,
            paused: false,
            outbox: Batch::new(0),
            batches: sender,
            spares,
            stop,
            reload,
            progress,
            gauge: Gauge::default(),
            queued: Arc::default(),
            owner: start_owner(inbox),
        };
        self.0
            .entry(partition.0)
            .or_default()
            .insert(partition.1, slot);
    }

    pub(super) fn remove(&mut self, (topic, partition): &Partition) -> Option<Slot> {
        self.0.get_mut(topic)?.remove(partition)
    }

    pub(super) fn get(&mut self, topic: &str, partition: i32) -> Option<&mut Slot> {
        self.0.get_mut(topic)?.get_mut(&partition)
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.each()
            .map(|(topic, partition, _)| (topic.to_owned(), partition))
            .collect()
    }

    pub(super) fn reload_all(&self) {
        for (.., slot) in self
            .each()
            .filter(|(.., slot)| slot.phase == Phase::Reading)
        {
            slot.reload.notify_one();
        }
    }

    /// A partition that is not read for longer than that.
    pub(super) fn stuck(&self, longest: Duration) -> Option<(&str, i32)> {
        let stuck = |slot: &Slot| slot.phase == Phase::Loading && slot.since.elapsed() > longest;
        let mut found = self.each().filter(|(.., slot)| stuck(slot));
        found.next().map(|(topic, partition, _)| (topic, partition))
    }

    /// Hands over what owners have room for.
    pub(super) fn deliver(&mut self) -> Flow {
        let mut flow = Flow::default();
        for (topic, partitions) in &mut self.0 {
            for (partition, slot) in partitions {
                let sent = slot.send();
                let full = slot.outbox.len() >= HELD_RECORDS || slot.outbox.bytes() >= HELD_BYTES;
                if slot.paused && sent {
                    slot.paused = false;
                    slot.since = Instant::now();
                    flow.resume.push((topic.clone(), *partition));
                } else if !slot.paused && !sent && full {
                    slot.paused = true;
                    flow.pause.push((topic.clone(), *partition));
                }
            }
        }
        flow
    }

    pub(super) fn any_paused(&self) -> bool {
        self.each()
            .any(|(.., slot)| slot.paused || !slot.outbox.is_empty())
    }

    pub(super) fn paused(&self) -> usize {
        self.each().filter(|(.., slot)| slot.paused).count()
    }

    /// Records that wait for owners or are with them.
    pub(super) fn waiting(&self) -> usize {
        self.each().map(|(.., slot)| slot.waiting()).sum()
    }

    /// Those of them in partitions that are not paused.
    pub(super) fn moving(&self) -> usize {
        let moving = self.each().filter(|(.., slot)| !slot.paused);
        moving.map(|(.., slot)| slot.waiting()).sum()
    }

    /// Those of which librdkafka doesn't learn where the log ends.
    pub(super) fn not_fetched(&self) -> Vec<Partition> {
        let all = self.each().filter(|(.., slot)| !slot.is_flowing());
        all.map(|(topic, partition, _)| (topic.to_owned(), partition))
            .collect()
    }

    /// How far behind partitions are at `now` (milliseconds since the epoch), where
    /// it is known. `ends` are those of logs that are not fetched.
    pub(super) fn lags<'s>(
        &'s mut self,
        statistics: &'s Statistics,
        ends: &'s LogEnds,
        now: i64,
    ) -> impl Iterator<Item = (&'s str, i32, Lag)> {
        let slots = self.0.iter_mut().flat_map(|(topic, partitions)| {
            let slots = partitions.iter_mut();
            slots.map(move |(partition, slot)| (topic.as_str(), *partition, slot))
        });
        slots.filter_map(move |(topic, partition, slot)| {
            let mut end = statistics.end(topic, partition);
            // Just after a pause librdkafka may still have the end of before.
            if !slot.is_flowing() || slot.since.elapsed() <= SETTLED {
                end = end.max(ends.get(&(topic.to_owned(), partition)).copied());
            } else if slot.is_drained() && statistics.is_at_end(topic, partition) {
                end = slot.progress.position();
            }
            let end = end?;
            let queued = slot.queued.load(Ordering::Relaxed);
            let lag = slot.gauge.measure(&slot.progress, end, queued, now)?;
            Some((topic, partition, lag))
        })
    }

    /// An owner never ends by itself.
    pub(super) fn check_owners(&self, health: &Component) {
        for (topic, partition, _) in self.each().filter(|(.., slot)| slot.owner.is_finished()) {
            health.failed(format!(
                "the owner of {topic}, partition {partition} has died"
            ));
        }
    }

    fn each(&self) -> impl Iterator<Item = (&str, i32, &Slot)> {
        self.0.iter().flat_map(|(topic, partitions)| {
            partitions
                .iter()
                .map(move |(partition, slot)| (topic.as_str(), *partition, slot))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lag in messages when the owner is at 5, by the statistics the log ends at 7
    /// and is fetched up to there, and it is asked for 20.
    async fn lag(change: impl FnOnce(&mut Slot)) -> i64 {
        let (inboxes, taken) = std::sync::mpsc::channel();
        let start_owner: StartOwner = Box::new(move |inbox| {
            inboxes.send(inbox).unwrap();
            tokio::spawn(async {})
        });
        let partition = ("t".to_owned(), 0);
        let mut slots = Slots::default();
        slots.add(partition.clone(), &start_owner);
        taken.recv().unwrap().progress.reach(5);
        let slot = slots.get("t", 0).unwrap();
        slot.read();
        change(slot);
        let json = r#"{"topics": {"t": {"partitions": {"0":
            {"hi_offset": 7, "ls_offset": 7, "next_offset": 7, "fetchq_cnt": 0}}}}}"#;
        let statistics = Statistics::parse(json.as_bytes()).unwrap();
        let ends = LogEnds::from([(partition, 20)]);
        let mut lags = slots.lags(&statistics, &ends, 0);
        lags.next().unwrap().2.messages
    }

    #[tokio::test]
    async fn of_a_partition_that_is_not_fetched_kafka_says_where_it_ends() {
        assert_eq!(lag(|_| ()).await, 15, "just begun");
        assert_eq!(lag(|slot| slot.paused = true).await, 15);
        assert_eq!(lag(|slot| slot.hold(1)).await, 15);
    }

    #[tokio::test]
    async fn what_is_no_message_at_the_end_is_no_lag() {
        let settled = |slot: &mut Slot| {
            slot.since = slot.since.checked_sub(2 * SETTLED).unwrap();
        };
        assert_eq!(lag(settled).await, 0);
        let queued = lag(|slot| {
            settled(slot);
            slot.queued.store(1, Ordering::Relaxed);
        });
        assert_eq!(queued.await, 2);
    }
}
