//! The owner of one assigned partition. It loads the state, reads the log from the stored
//! offset, and runs the pipeline until the partition is revoked.

mod load;
mod metrics;

use std::sync::Arc;
use std::time::Duration;

use iot_live::hub::{Hub, Marks, Question};
use kafka_fetch::{Budget, Fetcher, Start, SubscriptionError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::ConsumerConfig;
use crate::dead_letter::DeadLetters;
use crate::kafka::fetch::Observed;
use crate::kafka::group::{Commit, Inbox};
use crate::kafka::metrics::RebalanceKind;
use crate::kafka::record_times::RecordTimes;
use crate::live;
use crate::metrics::Metrics;
use crate::outputs::Outputs;
use crate::pipeline::{Pipeline, ReloadReason};
use crate::readiness::SharedReadiness;
use crate::store::Keeper;
use crate::webhook::Webhook;
pub(crate) use metrics::OwnerMetrics;

/// Deadline for the last step after the partition was revoked; shorter than the thread of
/// the group waits for it.
const FINISH: Duration = Duration::from_secs(8);

/// What all owners share.
pub(crate) struct Shared {
    pub(crate) config: ConsumerConfig,
    pub(crate) store: Arc<Keeper>,
    pub(crate) hub: Hub,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) record_times: RecordTimes,
    pub(crate) outputs: Outputs,
    pub(crate) webhook: Webhook,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) fetcher: Fetcher,
    pub(crate) budget: Budget,
    pub(crate) commits: mpsc::Sender<Commit>,
    /// Of the stored state.
    pub(crate) state: SharedReadiness,
}

/// Why an owner stopped reading.
enum End {
    Stopped,
    Reload,
}

/// How long to wait before a partition that cannot be read is tried again. Another log is
/// recognised by loading the state again; a corrupt batch takes somebody to repair it.
fn retry_after(error: &SubscriptionError) -> Duration {
    Duration::from_secs(match error {
        SubscriptionError::OffsetOutOfRange(_)
        | SubscriptionError::Truncated { .. }
        | SubscriptionError::AnotherLog { .. } => 1,
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
        truncated_at: None,
        is_reset: false,
        marks: Arc::default(),
    };
    // Shows the partition while its state is loaded again.
    let mut shown = None;
    while let Ok((mut pipeline, start)) = owner.load().await {
        // The owner before may not have committed its last step, and there may be none for long.
        let commit = Commit {
            partition: owner.inbox.partition.clone(),
            offset: pipeline.stored_offset(),
        };
        let _ = owner.shared.commits.send(commit).await;
        let (questions, asked) = mpsc::channel(live::QUESTIONS);
        if std::mem::take(&mut owner.is_reset) {
            // Nothing that was shown holds any more.
            shown = None;
        }
        let (partition, marks) = (&owner.inbox.partition, owner.marks.clone());
        let known = (pipeline.fold(), pipeline.next());
        let feed = live::open(&owner.shared.hub, partition, known, marks, questions).await;
        pipeline.show(feed);
        // The feed before goes when the next is there.
        drop(shown.take());
        let end = owner.work(&mut pipeline, start, asked).await;
        owner.applied = Some(pipeline.stored_offset());
        shown = pipeline.hide();
        match end {
            End::Stopped => return,
            End::Reload => owner.inbox.progress.load(),
        }
    }
}

struct Owner {
    shared: Arc<Shared>,
    inbox: Inbox,
    /// The last offset that this owner has stored, or found in the store.
    applied: Option<i64>,
    /// A stored offset up to which the log no longer has the records.
    truncated_at: Option<i64>,
    /// Whether the state was begun again, which clients do not know yet.
    is_reset: bool,
    /// When the partition was fetched, for positions of clients.
    marks: Arc<Marks>,
}

impl Owner {
    /// Reads the partition from the stored offset.
    async fn work(
        &mut self,
        pipeline: &mut Pipeline,
        start: Start,
        mut asked: mpsc::Receiver<Question>,
    ) -> End {
        let (partition, progress) = (&self.inbox.partition, &self.inbox.progress);
        let observed = Arc::new(Observed {
            progress: progress.clone(),
            errors: self.shared.metrics.kafka.fetch_errors.clone(),
            marks: self.marks.clone(),
        });
        let fetcher = &self.shared.fetcher;
        let mut records = fetcher.subscribe(partition.clone(), start, observed);
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
                    let by = (&self.shared.store, &self.shared.metrics.owner);
                    live::answer(question, pipeline.fold(), partition, by);
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
                        if matches!(unreadable, SubscriptionError::Truncated { .. }) {
                            // What was read since the last step may be what is gone.
                            if pipeline.is_stored() {
                                self.truncated_at = Some(pipeline.stored_offset());
                            }
                            return End::Reload;
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
