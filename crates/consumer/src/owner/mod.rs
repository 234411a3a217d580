//! The owner of one assigned partition. It loads the state, reads the log from the stored
//! offset, and runs the pipeline until the partition is revoked.

mod metrics;

use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_fold::{Changes, DeviceKey, DeviceWindows, Fold};
use iot_kafka::lookup::Watermarks;
use iot_service::Backoff;
use iot_service::health::Component;
use kafka_fetch::{Budget, Fetcher, SubscriptionError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::config::{ConsumerConfig, From, Missing};
use crate::dead_letter::DeadLetters;
use crate::hub::Hub;
use crate::kafka;
use crate::kafka::fetch::Observed;
use crate::kafka::group::{Commit, Inbox};
use crate::kafka::lookups::Lookups;
use crate::kafka::metrics::RebalanceKind;
use crate::kafka::record_times::RecordTimes;
use crate::metrics::Metrics;
use crate::outputs::Outputs;
use crate::pipeline::{Pipeline, ReloadReason};
use crate::store::{Keeper, Step, Stored, Unloaded, Unstored};
use crate::webhook::Webhook;
pub(crate) use metrics::OwnerMetrics;

/// Deadline for a question to Kafka.
const WATERMARKS: Duration = Duration::from_secs(5);
/// Deadline for the last step after the partition was revoked; shorter than the thread of
/// the group waits for it.
const FINISH: Duration = Duration::from_secs(8);
/// The most questions that wait for an owner.
const QUESTIONS: usize = 64;

/// What all owners share.
pub(crate) struct Shared {
    pub(crate) config: ConsumerConfig,
    pub(crate) store: Arc<Keeper>,
    pub(crate) hub: Hub,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) lookups: Lookups,
    pub(crate) record_times: RecordTimes,
    pub(crate) outputs: Outputs,
    pub(crate) webhook: Webhook,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) fetcher: Fetcher,
    pub(crate) budget: Budget,
    pub(crate) commits: mpsc::Sender<Commit>,
    pub(crate) health: Component,
}

/// Asks an owner for the windows of a device.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) key: DeviceKey,
    /// Length of the windows, in milliseconds.
    pub(crate) size: i64,
    pub(crate) answer: oneshot::Sender<Option<OwnedWindows>>,
}

/// The windows of a device, and the partition whose state they are.
#[derive(Debug)]
pub(crate) struct OwnedWindows {
    pub(crate) partition: TopicPartition,
    pub(crate) windows: DeviceWindows,
}

/// Why an owner stopped reading.
enum End {
    Stopped,
    Reload,
}

/// Why there is no state.
enum NoState {
    Stopped,
    /// It is reported in `/readyz`, and only a restart helps.
    Failed,
}

/// Where to start reading.
#[derive(Debug, PartialEq, Eq)]
enum Begin {
    /// At this offset; so many earlier records were deleted before they were read.
    At { offset: i64, lost: i64 },
    /// The stored offset is beyond the end of the log, which is therefore another log.
    BeyondEnd,
}

/// The offset to start at when nothing is stored.
fn first(log: Watermarks, from: From) -> i64 {
    match from {
        From::Earliest => log.low,
        From::Latest => log.high,
    }
}

fn begin(stored: i64, Watermarks { low, high }: Watermarks) -> Begin {
    if stored > high {
        return Begin::BeyondEnd;
    }
    Begin::At {
        offset: stored.max(low),
        lost: (low - stored).max(0),
    }
}

/// How long to wait before a partition that cannot be read is tried again. A truncated log
/// is recognised by loading the state again; a corrupt batch takes somebody to repair it.
fn retry_after(error: &SubscriptionError) -> Duration {
    Duration::from_secs(match error {
        SubscriptionError::OffsetOutOfRange(_) => 1,
        SubscriptionError::Corrupt(_) | SubscriptionError::Stopped => 10,
    })
}

/// Owns a partition until it is revoked.
pub(crate) async fn run(shared: Arc<Shared>, inbox: Inbox) {
    shared.record_times.check(&inbox.partition.topic);
    let mut owner = Owner {
        shared,
        inbox,
        applied: None,
    };
    while let Ok(mut pipeline) = owner.load().await {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let hub = &owner.shared.hub;
        let held = hub.held(&owner.inbox.partition, questions.clone());
        hub.owned(&owner.inbox.partition, pipeline.fold().all(), questions)
            .await;
        let end = owner.work(&mut pipeline, asked).await;
        owner.applied = Some(pipeline.stored_offset());
        drop(held);
        match end {
            End::Stopped => return,
            End::Reload => owner.inbox.progress.load(),
        }
    }
    // Keep the partition without reading it: another consumer would fail the same way.
    owner.inbox.stop.cancelled().await;
}

struct Owner {
    shared: Arc<Shared>,
    inbox: Inbox,
    /// The last offset that this owner has stored, or found in the store.
    applied: Option<i64>,
}

impl Owner {
    /// Loads offset and state, which belong to the same step.
    async fn load(&self) -> Result<Pipeline, NoState> {
        let (topic, partition) = self.inbox.partition.parts();
        let (stored, at, watermarks) = self.stored().await?;
        let rules = self.shared.config.fold_rules();
        let fold = Fold::restore(rules, topic, partition, &stored.entries)
            .map_err(|error| self.unusable(&error.to_string()))?;
        let offset = match begin(at, watermarks) {
            Begin::At { offset, lost: 0 } => offset,
            Begin::At { offset, lost } => {
                self.shared
                    .metrics
                    .owner
                    .lost_records
                    .inc_by(lost.unsigned_abs());
                tracing::error!(
                    topic,
                    partition,
                    stored = at,
                    begin = offset,
                    lost,
                    "records were deleted before they were read; continuing from the start of the log"
                );
                offset
            }
            Begin::BeyondEnd => return Err(self.beyond_end(at, watermarks.high)),
        };
        tracing::info!(
            topic,
            partition,
            offset,
            values = stored.entries.len(),
            "state loaded"
        );
        Ok(Pipeline::new(
            self.shared.clone(),
            self.inbox.partition.clone(),
            fold,
            at,
            offset,
            self.inbox.progress.clone(),
            self.inbox.stop.clone(),
        ))
    }

    /// Asks for the stored state and offset, and then for the ends of the log. The order
    /// matters: the previous owner may still be storing, and its offset may be beyond an end
    /// that was read earlier.
    async fn stored(&self) -> Result<(Stored, i64, Watermarks), NoState> {
        loop {
            let stored = self.read().await?;
            let watermarks = self.watermarks().await?;
            if let Some(at) = stored.offset {
                return Ok((stored, at, watermarks));
            }
            self.store_begin(watermarks).await?;
        }
    }

    /// Stores the offset to start at when the store has nothing about the partition. Without
    /// it `latest` would start at the end again after a rebalance, and skip the records in
    /// between.
    async fn store_begin(&self, watermarks: Watermarks) -> Result<(), NoState> {
        let (topic, partition) = self.inbox.partition.parts();
        let mut from = self.shared.config.kafka.from;
        if let Some(before) = self.known_before().await? {
            if self.shared.config.store.missing == Missing::Refuse {
                return Err(self.missing(before));
            }
            from = From::Earliest;
            self.shared.metrics.owner.rebuilds.inc();
            tracing::error!(
                topic,
                partition,
                before,
                begin = watermarks.low,
                "the state is gone from the store; rebuilding it from the earliest record that is \
                 still kept"
            );
        }
        let step = Step {
            partition: &self.inbox.partition,
            from: None,
            to: first(watermarks, from),
            changes: &Changes::default(),
        };
        match self.shared.store.apply(&step, &self.inbox.stop).await {
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
        self.ask_kafka("what the group has committed", || {
            let (config, partition) = (
                self.shared.config.kafka.clone(),
                self.inbox.partition.clone(),
            );
            move || kafka::committed(&config, &partition, WATERMARKS)
        })
        .await
    }

    /// The first and the next offset of the log.
    async fn watermarks(&self) -> Result<Watermarks, NoState> {
        self.ask_kafka("what the log holds", || {
            let partition = self.inbox.partition.clone();
            let lookups = self.shared.lookups.clone();
            move || Ok(lookups.watermarks(&partition, WATERMARKS)?)
        })
        .await
    }

    /// Asks on another thread, again and again until Kafka answers.
    async fn ask_kafka<T, F>(&self, what: &str, question: impl Fn() -> F) -> Result<T, NoState>
    where
        T: Send + 'static,
        F: FnOnce() -> anyhow::Result<T> + Send + 'static,
    {
        let (topic, partition) = self.inbox.partition.parts();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let answer = tokio::select! {
                () = self.inbox.stop.cancelled() => return Err(NoState::Stopped),
                answer = tokio::task::spawn_blocking(question()) => answer,
            };
            match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    tracing::warn!(topic, partition, %error, what, "no answer from Kafka; retrying");
                }
                Err(error) => {
                    tracing::warn!(topic, partition, %error, what, "asking Kafka failed; retrying");
                }
            }
            tokio::select! {
                () = self.inbox.stop.cancelled() => return Err(NoState::Stopped),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    fn missing(&self, before: i64) -> NoState {
        let (topic, partition) = self.inbox.partition.parts();
        self.shared.health.failed(format!(
            "the state of {topic}, partition {partition} is gone from the store, though it was \
             applied up to offset {before}: restore it, or set store.missing: rebuild to read \
             the topic again from the earliest record that is still kept"
        ));
        NoState::Failed
    }

    fn unusable(&self, reason: &str) -> NoState {
        let (topic, partition) = self.inbox.partition.parts();
        self.shared.health.failed(format!(
            "the stored state of {topic}, partition {partition} can't be read ({reason}): \
             run the version that wrote it, or an empty store to read the topic again"
        ));
        NoState::Failed
    }

    fn beyond_end(&self, stored: i64, end: i64) -> NoState {
        let (topic, partition) = self.inbox.partition.parts();
        self.shared.health.failed(format!(
            "the store has applied {topic}, partition {partition} up to offset {stored}, but the \
             log ends at {end}: the topic was deleted and created again, or it belongs to another cluster. Give this \
             cluster its own store, or clear the state of that topic"
        ));
        NoState::Failed
    }

    /// Reads the partition from the stored offset.
    async fn work(&self, pipeline: &mut Pipeline, mut asked: mpsc::Receiver<Question>) -> End {
        let (partition, progress) = (&self.inbox.partition, &self.inbox.progress);
        let observed = Arc::new(Observed {
            progress: progress.clone(),
            errors: self.shared.metrics.kafka.fetch_errors.clone(),
        });
        let fetcher = &self.shared.fetcher;
        let mut records = fetcher.subscribe(partition.clone(), pipeline.next(), observed);
        if self.applied.is_none() {
            let took = self.inbox.assigned_at.elapsed();
            let metrics = &self.shared.metrics.kafka;
            metrics.rebalance_took(RebalanceKind::Assigned, took);
        }
        // When to load the state again, which also asks for the ends of the log.
        let mut reload_at = None;
        loop {
            if self.inbox.stop.is_cancelled() {
                self.finish(pipeline).await;
                return End::Stopped;
            }
            // At random: many questions must not keep records waiting, nor the reverse.
            let done = tokio::select! {
                () = self.inbox.stop.cancelled() => Ok(()),
                Some(question) = asked.recv() => {
                    if question.answer.is_closed() {
                        continue;
                    }
                    // The client may leave in between.
                    let windows = pipeline.fold().windows(&question.key, question.size);
                    let partition = self.inbox.partition.clone();
                    let _ = question.answer.send(
                        windows.map(|windows| OwnedWindows { partition, windows }),
                    );
                    Ok(())
                }
                () = tokio::time::sleep_until(pipeline.wakes_at()) => pipeline.wake().await,
                batch = records.next(), if reload_at.is_none() => match batch {
                    Ok(batch) => pipeline.process(batch).await,
                    Err(unreadable) => {
                        let (topic, partition) = partition.parts();
                        if progress.troubled(unreadable.to_string()) {
                            tracing::error!(topic, partition, %unreadable, "cannot read the partition; retrying");
                        }
                        reload_at = Some(Instant::now() + retry_after(&unreadable));
                        Ok(())
                    }
                },
                () = tokio::time::sleep_until(reload_at.unwrap_or_else(Instant::now)),
                    if reload_at.is_some() => {
                    self.finish(pipeline).await;
                    return End::Reload;
                }
            };
            match done {
                Ok(()) => {}
                Err(reason @ ReloadReason::Stopped) => {
                    self.report(&reason);
                    return End::Stopped;
                }
                Err(reason) => {
                    self.report(&reason);
                    return End::Reload;
                }
            }
        }
    }

    /// Stores the last step. The next owner reads again what is not processed, and what
    /// cannot be stored in time.
    async fn finish(&self, pipeline: &mut Pipeline) {
        match tokio::time::timeout(FINISH, pipeline.store_step()).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => self.report(&reason),
            Err(_) => {
                let (topic, partition) = self.inbox.partition.parts();
                tracing::warn!(
                    topic,
                    partition,
                    "the last state was not stored in time; the next owner reads those records again"
                );
            }
        }
    }

    fn report(&self, reason: &ReloadReason) {
        let (topic, partition) = self.inbox.partition.parts();
        match reason {
            ReloadReason::Conflict(conflict) => {
                tracing::error!(topic, partition, %conflict, "state not stored; loading it again");
            }
            ReloadReason::DeadLetter(error) => {
                tracing::error!(
                    topic,
                    partition,
                    %error,
                    "a dead letter may not have been written; loading the state again"
                );
            }
            ReloadReason::Stopped => {
                tracing::warn!(
                    topic,
                    partition,
                    "the store is not available: the last state is left to the next owner, who \
                     reads those records again"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
