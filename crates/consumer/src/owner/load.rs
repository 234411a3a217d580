//! Loading the state of a partition: which log it belongs to, and where reading continues.

use std::time::Duration;

use iot_fold::{Changes, Fold};
use iot_service::Backoff;
use kafka_fetch::{LogState, Start};

use super::Owner;
use crate::config::{From, Missing};
use crate::kafka;
use crate::pipeline::{Pipeline, Place};
use crate::store::{LogId, Replaced, Step, Stored, Unloaded, Unstored};
use crate::writer::Writer;

/// Deadline for a question to Kafka.
const ANSWER: Duration = Duration::from_secs(5);
/// How long to wait before state that cannot be used is loaded again. Somebody has to restore it,
/// or to run another version.
const UNUSABLE: Duration = Duration::from_secs(10);

/// The partition was revoked.
pub(super) struct Stopped;

/// Why there is no state.
enum NoState {
    Stopped,
    /// Somebody has to change the store or its settings; the text says how. A restart does not
    /// help, and no other partition is affected.
    Refused(String),
}

/// Where to start reading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At this offset; so many earlier records were deleted before they were read.
    At { offset: i64, lost: i64 },
    /// The topic was deleted and created again.
    AnotherLog,
    /// The log ends before the stored offset.
    BeyondEnd,
}

/// The offset to start at when nothing is stored.
pub(crate) fn first(log: &LogState, from: From) -> i64 {
    match from {
        From::Earliest => log.start,
        From::Latest => log.end,
    }
}

/// Compares the stored offset and its log with the log that Kafka has. An unknown id is no other
/// one.
pub(crate) fn begin(stored: i64, of: LogId, log: &LogState) -> Begin {
    if let (Some(expected), Some(found)) = (of.topic_id, log.topic_id)
        && expected != found
    {
        return Begin::AnotherLog;
    }
    if stored > log.end {
        return Begin::BeyondEnd;
    }
    Begin::At {
        offset: stored.max(log.start),
        lost: (log.start - stored).max(0),
    }
}

impl Owner {
    /// Loads offset and state, which belong to the same step; retries until the partition is
    /// revoked. Also returns where to read on, and in which log.
    pub(super) async fn load(&mut self) -> Result<(Pipeline<Writer>, Start), Stopped> {
        // Not ready from the first refusal until the state is loaded.
        let mut waiting = None;
        loop {
            let reason = match self.try_load().await {
                Ok(loaded) => return Ok(loaded),
                Err(NoState::Stopped) => return Err(Stopped),
                Err(NoState::Refused(reason)) => reason,
            };
            let waiting = waiting.get_or_insert_with(|| self.shared.state.begin());
            waiting.report(format!("{reason}; retrying"));
            self.inbox.progress.troubled(reason);
            tokio::select! {
                () = self.inbox.stop.cancelled() => return Err(Stopped),
                () = tokio::time::sleep(UNUSABLE) => {}
            }
        }
    }

    async fn try_load(&mut self) -> Result<(Pipeline<Writer>, Start), NoState> {
        let (stored, at, log) = self.stored().await?;
        let (topic, partition) = self.inbox.partition.parts();
        let rules = self.shared.config.fold_rules();
        let fold = Fold::restore(rules, topic, partition, &stored.entries)
            .map_err(|error| self.unusable(&error.to_string()))?;
        let offset = at.max(log.start);
        let lost = offset - at;
        if lost > 0 {
            let lost_records = &self.shared.metrics.owner.lost_records;
            lost_records.inc_by(lost.unsigned_abs());
            tracing::error!(
                topic,
                partition,
                stored = at,
                begin = offset,
                lost,
                "records were deleted before they were read; continuing from the start of the log"
            );
        }
        tracing::info!(
            topic,
            partition,
            offset,
            values = stored.entries.len(),
            topic_id = stored.log.topic_name(),
            "state loaded"
        );
        let start = Start {
            offset,
            topic_id: stored.log.topic_id,
            // The record before the offset is not that of the last batch if some were deleted.
            last_epoch: stored.log.leader_epoch.filter(|_| lost == 0),
            leader_epoch: log.leader_epoch,
        };
        let place = Place {
            next: offset,
            log: stored.log,
        };
        let (outlets, right) = (self.outlets.clone(), self.inbox.right.clone());
        let pipeline = Pipeline::new(
            self.shared.clone(),
            self.inbox.partition.clone(),
            fold,
            place,
            self.inbox.progress.clone(),
            Writer::new(self.shared.clone(), outlets, right, at),
        );
        Ok((pipeline, start))
    }

    /// Asks for the stored state and offset, and then for the log. The order matters: the
    /// previous owner may still be storing, and its offset may be beyond an end that was read
    /// earlier. Begins the state again if it is of another log.
    async fn stored(&mut self) -> Result<(Stored, i64, LogState), NoState> {
        loop {
            let mut stored = self.read().await?;
            let known = Start {
                offset: stored.offset.unwrap_or(0),
                topic_id: stored.log.topic_id,
                last_epoch: stored.log.leader_epoch,
                leader_epoch: None,
            };
            let log = self.log(known).await?;
            let Some(at) = stored.offset else {
                self.store_begin(&log).await?;
                continue;
            };
            match begin(at, stored.log, &log) {
                Begin::AnotherLog => self.begin_again(at, stored.log, &log).await?,
                Begin::BeyondEnd => self.truncated(at, stored.log, &log).await?,
                Begin::At { .. } if self.truncated_at == Some(at) => {
                    self.truncated(at, stored.log, &log).await?;
                }
                Begin::At { .. } if stored.log.topic_id.is_none() && log.topic_id.is_some() => {
                    stored.log.topic_id = log.topic_id;
                    let step = Step {
                        partition: &self.inbox.partition,
                        from: Some(at),
                        to: at,
                        log: stored.log,
                        changes: &Changes::default(),
                    };
                    match self.shared.store.apply(&step, &self.inbox.right).await {
                        Ok(()) => return Ok((stored, at, log)),
                        Err(Unstored::Conflict(_)) => {}
                        Err(Unstored::Stopped) => return Err(NoState::Stopped),
                    }
                }
                Begin::At { .. } => return Ok((stored, at, log)),
            }
        }
    }

    /// The topic was deleted and created again: sets the state aside, and begins at the start of
    /// the new log.
    async fn begin_again(&mut self, at: i64, before: LogId, log: &LogState) -> Result<(), NoState> {
        if self.set_aside(at, before, log).await? {
            self.shared.metrics.owner.replaced_logs.inc();
            let (topic, partition) = self.inbox.partition.parts();
            tracing::error!(
                topic,
                partition,
                before = before.topic_name(),
                now = of(log).topic_name(),
                stored = at,
                begin = log.start,
                "the topic was deleted and created again; its state is set aside (in Redis, for a week), and \
                 the new topic is read from its start"
            );
        }
        Ok(())
    }

    /// The log of the same topic has no longer the records up to the stored offset: state that
    /// depends on them is missing its log, which `store.missing` decides on.
    async fn truncated(&mut self, at: i64, before: LogId, log: &LogState) -> Result<(), NoState> {
        let (topic, partition) = self.inbox.partition.parts();
        if self.shared.config.store.missing == Missing::Refuse {
            self.truncated_at = Some(at);
            return Err(NoState::Refused(format!(
                "the store has applied {topic}, partition {partition} up to offset {at}, but the \
                 log, which ends at {}, no longer has those records: it was truncated, or belongs \
                 to another cluster. Give this cluster its own store, or discard the state of the \
                 topic (iot-consumer state reset, or store.missing: rebuild)",
                log.end
            )));
        }
        if self.set_aside(at, before, log).await? {
            self.shared.metrics.owner.rebuilds.inc();
            let (topic, partition) = self.inbox.partition.parts();
            tracing::error!(
                topic,
                partition,
                stored = at,
                begin = log.start,
                end = log.end,
                "the log was truncated below the stored offset; the state is set aside (in Redis, for a week) \
                 and rebuilt from the earliest record that is still kept"
            );
        }
        Ok(())
    }

    /// Returns whether it was done; if not, another offset is stored: by another consumer, or by an
    /// earlier attempt whose answer was lost.
    async fn set_aside(&mut self, at: i64, before: LogId, log: &LogState) -> Result<bool, NoState> {
        let replaced = Replaced {
            partition: &self.inbox.partition,
            from: at,
            before,
            to: log.start,
            log: of(log),
        };
        let set_aside = self.shared.store.set_aside(&replaced, &self.inbox.right);
        match set_aside.await {
            Ok(()) => {
                (self.is_reset, self.truncated_at) = (true, None);
                Ok(true)
            }
            Err(Unstored::Conflict(_)) => {
                (self.is_reset, self.truncated_at) = (true, None);
                Ok(false)
            }
            Err(Unstored::Stopped) => Err(NoState::Stopped),
        }
    }

    /// Stores the offset to start at when the store has nothing about the partition. Without
    /// it `latest` would start at the end again after a rebalance, and skip the records in
    /// between.
    async fn store_begin(&self, log: &LogState) -> Result<(), NoState> {
        let (topic, partition) = self.inbox.partition.parts();
        let mut from = self.shared.config.kafka.from;
        if let Some(before) = self.known_before().await? {
            if self.shared.config.store.missing == Missing::Refuse {
                return Err(NoState::Refused(format!(
                    "the state of {topic}, partition {partition} is gone from the store, though \
                     it was applied up to offset {before}: restore it, or set store.missing: \
                     rebuild to read the topic again from the earliest record that is still kept"
                )));
            }
            from = From::Earliest;
            self.shared.metrics.owner.rebuilds.inc();
            tracing::error!(
                topic,
                partition,
                before,
                begin = log.start,
                "the state is gone from the store; rebuilding it from the earliest record that is \
                 still kept"
            );
        }
        let step = Step {
            partition: &self.inbox.partition,
            from: None,
            to: first(log, from),
            log: of(log),
            changes: &Changes::default(),
        };
        match self.shared.store.apply(&step, &self.inbox.right).await {
            Ok(()) => Ok(()),
            Err(Unstored::Conflict(conflict)) => {
                tracing::info!(topic, partition, %conflict, "another consumer has started this partition");
                Ok(())
            }
            Err(Unstored::Stopped) => Err(NoState::Stopped),
        }
    }

    async fn read(&self) -> Result<Stored, NoState> {
        let load = self
            .shared
            .store
            .load(&self.inbox.partition, &self.inbox.stop);
        load.await.map_err(|unloaded| match unloaded {
            Unloaded::Unusable(reason) => self.unusable(&reason),
            Unloaded::Stopped => NoState::Stopped,
        })
    }

    /// The offset up to which the partition was applied before its state disappeared; `None`
    /// if it never was. The offset that was committed to Kafka tells a store that was emptied
    /// while no consumer ran from a new one.
    async fn known_before(&self) -> Result<Option<i64>, NoState> {
        if !self.shared.store.is_durable() {
            return Ok(None);
        }
        if self.applied.is_some() {
            return Ok(self.applied);
        }
        let mut backoff = backoff();
        loop {
            let (config, partition) = (
                self.shared.config.kafka.clone(),
                self.inbox.partition.clone(),
            );
            let question = move || kafka::committed(&config, &partition, ANSWER);
            let answer = tokio::select! {
                () = self.inbox.stop.cancelled() => return Err(NoState::Stopped),
                answer = tokio::task::spawn_blocking(question) => answer,
            };
            let reason = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => format!("{error:#}"),
                Err(error) => error.to_string(),
            };
            self.unanswered("what the group has committed", reason);
            self.pause(&mut backoff).await?;
        }
    }

    /// The log that Kafka has now, by an answer that can be believed.
    async fn log(&self, known: Start) -> Result<LogState, NoState> {
        let mut backoff = backoff();
        loop {
            let answer = tokio::select! {
                () = self.inbox.stop.cancelled() => return Err(NoState::Stopped),
                answer = self.shared.fetcher.log(&self.inbox.partition, known) => answer,
            };
            match answer {
                Ok(log) => return Ok(log),
                Err(error) => self.unanswered("what the log holds", error.to_string()),
            }
            self.shared.metrics.kafka.fetch_errors.inc();
            self.pause(&mut backoff).await?;
        }
    }

    /// Reports a question to Kafka that will be repeated; logs a new reason once.
    fn unanswered(&self, what: &str, reason: String) {
        let (topic, partition) = self.inbox.partition.parts();
        if self.inbox.progress.troubled(reason.clone()) {
            tracing::warn!(
                topic,
                partition,
                what,
                reason,
                "no usable answer from Kafka; retrying"
            );
        }
    }

    async fn pause(&self, backoff: &mut Backoff) -> Result<(), NoState> {
        tokio::select! {
            () = self.inbox.stop.cancelled() => Err(NoState::Stopped),
            () = tokio::time::sleep(backoff.next_delay()) => Ok(()),
        }
    }

    fn unusable(&self, reason: &str) -> NoState {
        let (topic, partition) = self.inbox.partition.parts();
        NoState::Refused(format!(
            "the stored state of {topic}, partition {partition} can't be read ({reason}): \
             run the version that wrote it, or an empty store to read the topic again"
        ))
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}

/// The log, before anything of it is read.
fn of(log: &LogState) -> LogId {
    LogId {
        topic_id: log.topic_id,
        leader_epoch: None,
    }
}
