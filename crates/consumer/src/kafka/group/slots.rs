//! The assigned partitions as the group's thread sees them.

use iot_core::partition::TopicPartition;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iot_service::health::Component;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{StartOwner, WriteRight};
use crate::kafka::ends::LogEnds;
use crate::kafka::progress::{Gauge, Held, Lag, Progress};

/// What the owner of a partition starts with.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) partition: TopicPartition,
    /// Cancelled when the owner has to store its state and end.
    pub(crate) stop: CancellationToken,
    pub(crate) right: Arc<WriteRight>,
    /// The owner's progress, for the lag.
    pub(crate) progress: Arc<Progress>,
    pub(crate) assigned_at: Instant,
}

/// One assigned partition.
#[derive(Debug)]
pub(super) struct Slot {
    stop: CancellationToken,
    progress: Arc<Progress>,
    gauge: Gauge,
    /// Offset of the open transaction that was reported.
    reported: Option<i64>,
    owner: JoinHandle<()>,
}

impl Slot {
    /// Tells the owner to end.
    pub(super) fn stop(self) -> JoinHandle<()> {
        self.stop.cancel();
        self.owner
    }

    /// Whether fetches report the end of its log.
    fn is_flowing(&self) -> bool {
        !self.progress.is_full() && self.progress.not_read().is_none()
    }

    /// The open transaction that has held its records back for longer than `longest`, as of the
    /// last fetch; logs each change once.
    fn held_longer(&mut self, of: &TopicPartition, longest: Duration) -> Option<Held> {
        let (topic, partition) = of.parts();
        let held = self.progress.held();
        let held = held.filter(|held| held.since.elapsed() >= longest);
        let offset = held.map(|held| held.offset);
        if self.reported != offset {
            match held {
                Some(Held { offset, at, .. }) => tracing::warn!(
                    topic,
                    partition,
                    offset,
                    since = %at,
                    "an open transaction holds back the records from this offset on; waiting for \
                     its end"
                ),
                None => tracing::info!(topic, partition, "no open transaction holds records back"),
            }
            self.reported = offset;
        }
        held
    }
}

/// All assigned partitions.
#[derive(Debug, Default)]
pub(super) struct Slots(BTreeMap<TopicPartition, Slot>);

impl Slots {
    pub(super) fn add(&mut self, partition: TopicPartition, start_owner: &StartOwner) {
        let (stop, progress) = (CancellationToken::new(), Arc::new(Progress::default()));
        let inbox = Inbox {
            partition: partition.clone(),
            stop: stop.clone(),
            right: Arc::new(WriteRight::new(stop.clone())),
            progress: progress.clone(),
            assigned_at: Instant::now(),
        };
        let slot = Slot {
            stop,
            progress,
            gauge: Gauge::default(),
            reported: None,
            owner: start_owner(inbox),
        };
        self.0.insert(partition, slot);
    }

    pub(super) fn remove(&mut self, partition: &TopicPartition) -> Option<Slot> {
        self.0.remove(partition)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        self.0.keys().cloned().collect()
    }

    /// Why a partition has not been read for longer than that, if there is one.
    pub(super) fn stuck(&self, longest: Duration) -> Option<String> {
        self.0
            .iter()
            .find_map(|(TopicPartition { topic, partition }, slot)| {
                let (since, reason) = slot.progress.not_read()?;
                let unknown = || "its state or the ends of its log are not known yet".to_owned();
                let reason = reason.unwrap_or_else(unknown);
                (since > longest)
                    .then(|| format!("{topic}, partition {partition} is not read: {reason}"))
            })
    }

    /// For how long open transactions have held partitions up, in seconds; 0 without one.
    pub(super) fn open_transactions(&self) -> impl Iterator<Item = (&TopicPartition, f64)> {
        self.0.iter().map(|(partition, slot)| {
            let open = slot.progress.held();
            let open = open.map(|held| held.since.elapsed().as_secs_f64());
            (partition, open.unwrap_or_default())
        })
    }

    /// Which partitions an open transaction has held up for longer than that, if there are any.
    /// The text stays the same while it does.
    pub(super) fn held_up(&mut self, longest: Duration) -> Option<String> {
        let all = self.0.iter_mut();
        let mut held = all.filter_map(|(at, slot)| Some((at, slot.held_longer(at, longest)?)));
        let (TopicPartition { topic, partition }, Held { offset, at, .. }) = held.next()?;
        let since = at.strftime("%FT%TZ");
        let others = match held.count() {
            0 => String::new(),
            others => format!("; {others} more partitions wait in the same way"),
        };
        Some(format!(
            "{topic}, partition {partition}: records from offset {offset} on wait for a \
             transaction that has been open since {since} at the latest: end its producer, or abort \
             it with kafka-transactions.sh{others}"
        ))
    }

    /// How many are not fetched because their owners are behind.
    pub(super) fn full(&self) -> usize {
        self.0
            .values()
            .filter(|slot| slot.progress.is_full())
            .count()
    }

    /// Records that owners have not processed.
    pub(super) fn waiting(&self) -> usize {
        let waiting = |slot: &Slot| slot.progress.waiting();
        self.0.values().map(waiting).sum()
    }

    /// Partitions whose ends of the log no fetch reports.
    pub(super) fn not_flowing(&self) -> Vec<TopicPartition> {
        let all = self.0.iter().filter(|(_, slot)| !slot.is_flowing());
        all.map(|(partition, _)| partition.clone()).collect()
    }

    /// The known lags at `now` (milliseconds since the epoch). `ends` are those of logs that
    /// are not fetched.
    pub(super) fn lags<'s>(
        &'s mut self,
        ends: &'s LogEnds,
        now: i64,
    ) -> impl Iterator<Item = (&'s TopicPartition, Lag)> {
        self.0.iter_mut().filter_map(move |(partition, slot)| {
            let mut end = slot.progress.end();
            if !slot.is_flowing() {
                end = end.max(ends.get(partition).copied());
            }
            let lag = slot.gauge.measure(&slot.progress, end?, now)?;
            Some((partition, lag))
        })
    }

    /// Reports owners that have ended by themselves, which none should.
    pub(super) fn check_owners(&self, health: &Component) {
        let dead = self.0.iter().filter(|(_, slot)| slot.owner.is_finished());
        for (TopicPartition { topic, partition }, _) in dead {
            health.failed(format!(
                "the owner of {topic}, partition {partition} has died"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use kafka_fetch::LogEnd;

    use super::*;

    /// One slot, whose owner is at 5, and its progress.
    fn slot(partition: &TopicPartition) -> (Slots, Arc<Progress>) {
        let (inboxes, taken) = std::sync::mpsc::channel();
        let start_owner: StartOwner = Box::new(move |inbox| {
            inboxes.send(inbox).unwrap();
            tokio::spawn(async {})
        });
        let mut slots = Slots::default();
        slots.add(partition.clone(), &start_owner);
        let progress = taken.recv().unwrap().progress;
        progress.reach(5);
        progress.set_read();
        (slots, progress)
    }

    fn end(high_watermark: i64, last_stable_offset: i64) -> LogEnd {
        LogEnd {
            high_watermark,
            last_stable_offset,
        }
    }

    /// The lag in messages when the owner is at 5, and the log ends at 7 by the last fetch and
    /// at 20 by the last look-up.
    async fn lag(change: impl FnOnce(&Progress)) -> i64 {
        let partition = TopicPartition::new("t", 0);
        let (mut slots, progress) = slot(&partition);
        progress.ends_at(end(7, 7));
        change(&progress);
        let ends = LogEnds::from([(partition, 20)]);
        let mut lags = slots.lags(&ends, 0);
        lags.next().unwrap().1.messages
    }

    #[tokio::test]
    async fn the_lag_of_a_partition_that_is_not_fetched_comes_from_look_ups() {
        assert_eq!(lag(|_| ()).await, 2);
        assert_eq!(lag(Progress::load).await, 15);
        assert_eq!(
            lag(|progress| assert!(progress.troubled("no".into()))).await,
            15
        );
        assert_eq!(lag(|progress| progress.set_full(true)).await, 15);
    }

    #[tokio::test]
    async fn an_open_transaction_is_named_with_the_same_text_while_it_lasts() {
        let partition = TopicPartition::new("device-data", 3);
        let (mut slots, progress) = slot(&partition);
        progress.ends_at(end(7, 7));
        assert_eq!(slots.held_up(Duration::ZERO), None);
        progress.ends_at(end(9, 7));
        let first = slots.held_up(Duration::ZERO).unwrap();
        let start = "device-data, partition 3: records from offset 7 on wait for a transaction \
                     that has been open since 2";
        assert!(first.starts_with(start), "{first}");
        assert_eq!(slots.held_up(Duration::from_secs(3_600)), None, "too short");
        progress.ends_at(end(900, 7));
        assert_eq!(slots.held_up(Duration::ZERO).unwrap(), first);
        assert!(slots.open_transactions().all(|(_, open)| open > 0.0));
        progress.ends_at(end(900, 900));
        assert_eq!(slots.held_up(Duration::ZERO), None);
        assert!(slots.open_transactions().all(|(_, open)| open == 0.0));
    }
}
