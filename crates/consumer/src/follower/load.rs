//! Loading the state that a follower starts with.

use std::time::Duration;

use iot_fold::Fold;
use iot_service::Backoff;
use kafka_fetch::Start;

use super::Follower;
use super::unwritten::Unwritten;
use super::watcher::{Seen, Watcher};
use crate::owner::load::{Begin, begin, first};
use crate::pipeline::{Pipeline, Place};
use crate::store::{LoadError, LogId, Stored};

type Loaded = (Pipeline<Unwritten>, Start, Watcher);

impl Follower {
    /// Copies offset and state, which belong to the same step, and finds where to read on; retries
    /// until the follower is stopped, which returns nothing.
    pub(super) async fn load(&self) -> Option<Loaded> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let attempts = async {
            loop {
                let reason = match self.try_load().await {
                    Ok(loaded) => return loaded,
                    Err(reason) => reason,
                };
                let (topic, partition) = self.partition.parts();
                if self.status.progress.troubled(reason.clone()) {
                    tracing::warn!(
                        topic,
                        partition,
                        reason = reason.as_str(),
                        "cannot follow the partition yet; retrying"
                    );
                }
                let told = format!("it can't be followed yet: {reason}");
                self.partial.tell(Some(told.into())).await;
                tokio::time::sleep(backoff.next_delay()).await;
            }
        };
        self.stop.run_until_cancelled(attempts).await
    }

    async fn try_load(&self) -> Result<Loaded, String> {
        let (store, fetcher) = (&self.shared.store, &self.shared.fetcher);
        let stored = store.load_once(&self.partition).await;
        let stored = stored.map_err(|error| match error {
            LoadError::Unavailable(error) => error.to_string(),
            LoadError::Unusable(reason) => format!("the stored state can't be read: {reason}"),
        })?;
        if stored.offset.is_none() && store.is_durable() {
            return Err("its owner has not stored any state yet".into());
        }
        let known = Start {
            offset: stored.offset.unwrap_or(0),
            topic_id: stored.log.topic_id,
            last_epoch: stored.log.leader_epoch,
            leader_epoch: None,
        };
        let log = fetcher.log(&self.partition, known).await;
        let log = log.map_err(|error| error.to_string())?;
        let from = self.shared.config.kafka.from;
        let at = stored.offset.unwrap_or_else(|| first(&log, from));
        let (stored, offset, is_whole) = match begin(at, stored.log, &log) {
            Begin::At { offset, lost } => (stored, offset, lost == 0),
            // Nobody else changes what this process keeps in memory.
            _ if !store.is_durable() => (Stored::default(), first(&log, from), true),
            Begin::AnotherLog => {
                return Err(
                    "the topic was deleted and created again; waiting for its owner".into(),
                );
            }
            Begin::BeyondEnd => {
                return Err("the log ends before the stored offset; waiting for its owner".into());
            }
        };
        let (topic, partition) = self.partition.parts();
        let rules = self.shared.config.fold_rules();
        let fold = Fold::restore(rules, topic, partition, &stored.entries)
            .map_err(|error| format!("the stored state can't be read: {error}"))?;
        tracing::info!(
            topic,
            partition,
            offset,
            values = stored.entries.len(),
            "following the partition"
        );
        let log_id = LogId {
            topic_id: stored.log.topic_id.or(log.topic_id),
            ..stored.log
        };
        let start = Start {
            offset,
            topic_id: log_id.topic_id,
            // The record before the offset is not that of the last batch if some were deleted.
            last_epoch: stored.log.leader_epoch.filter(|_| is_whole),
            leader_epoch: log.leader_epoch,
        };
        let place = Place {
            next: offset,
            log: log_id,
        };
        let watcher = self.watcher(Some(Seen::of(&stored)));
        Ok((self.pipeline(fold, place), start, watcher))
    }
}
