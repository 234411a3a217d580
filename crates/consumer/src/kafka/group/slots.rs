//! The assigned partitions as the group's thread sees them.

use iot_core::partition::TopicPartition;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iot_service::health::Component;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::StartOwner;
use crate::kafka::ends::LogEnds;
use crate::kafka::progress::{Gauge, Lag, Progress};

/// What the owner of a partition starts with.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) partition: TopicPartition,
    /// Cancelled when the owner has to store its state and end.
    pub(crate) stop: CancellationToken,
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
            progress: progress.clone(),
            assigned_at: Instant::now(),
        };
        let slot = Slot {
            stop,
            progress,
            gauge: Gauge::default(),
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
    use super::*;

    /// The lag in messages when the owner is at 5, and the log ends at 7 by the last fetch and
    /// at 20 by the last look-up.
    async fn lag(change: impl FnOnce(&Progress)) -> i64 {
        let (inboxes, taken) = std::sync::mpsc::channel();
        let start_owner: StartOwner = Box::new(move |inbox| {
            inboxes.send(inbox).unwrap();
            tokio::spawn(async {})
        });
        let partition = TopicPartition::new("t", 0);
        let mut slots = Slots::default();
        slots.add(partition.clone(), &start_owner);
        let progress = taken.recv().unwrap().progress;
        progress.reach(5);
        progress.ends_at(7);
        progress.set_read();
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
}
