//! The owner of one assigned partition. It loads the state, reads the log from the stored
//! offset, and runs the pipeline until the partition is revoked.

pub(crate) mod load;
mod metrics;
mod takeover;

use std::sync::Arc;
use std::time::Duration;

use kafka_fetch::{Start, SubscriptionError};
use tokio::time::Instant;

use crate::follower::{Continued, Followers, Left};
use crate::kafka::fetch::{Observed, retry_after};
use crate::kafka::group::{Commit, Inbox};
use crate::kafka::metrics::RebalanceKind;
use crate::live::{Partial, Source};
use crate::pipeline::{Pipeline, ReloadReason};
use crate::shared::Shared;
use crate::writer::{Outlets, Writer};
pub(crate) use metrics::OwnerMetrics;
use takeover::Takeover;

/// Deadline for the last step after the partition was revoked; shorter than the thread of
/// the group waits for it.
const FINISH: Duration = Duration::from_secs(8);

/// Why an owner stopped reading.
enum End {
    Stopped,
    Reload,
}

/// Owns a partition until it is revoked.
pub(crate) async fn run(
    shared: Arc<Shared>,
    outlets: Arc<Outlets>,
    followers: Followers,
    inbox: Inbox,
) {
    outlets.record_times.check(&inbox.partition.topic);
    let (tenure, follower) = followers.take(&inbox.partition).await;
    let takeover = Takeover::new(follower, !shared.config.role.serves());
    let mut owner = Owner {
        partial: Partial::new(&shared.hub, &inbox.partition),
        shared,
        outlets,
        inbox,
        applied: None,
        truncated_at: None,
        is_reset: false,
    };
    let left = owner.run(takeover).await;
    // What shows the partition next tells more.
    owner.partial.tell(None).await;
    tenure.release(left);
}

struct Owner {
    shared: Arc<Shared>,
    outlets: Arc<Outlets>,
    inbox: Inbox,
    partial: Partial,
    /// The last offset that this owner has stored, or found in the store.
    applied: Option<i64>,
    /// A stored offset up to which the log no longer has the records.
    truncated_at: Option<i64>,
    /// Whether the state was begun again, which clients do not know yet.
    is_reset: bool,
}

impl Owner {
    /// Returns what stays when the partition is revoked.
    async fn run(&mut self, mut takeover: Takeover) -> Left {
        loop {
            if !takeover.is_followed() && !takeover.is_shown() {
                self.partial.tell(Some(Partial::LOADING)).await;
            }
            let Ok((mut pipeline, start)) = self.load().await else {
                return takeover.end(None).await;
            };
            // The owner before may not have committed its last step, and there may be none for
            // long.
            let commit = Commit {
                partition: self.inbox.partition.clone(),
                offset: pipeline.stored_offset(),
            };
            let _ = self.outlets.commits.send(commit).await;
            if std::mem::take(&mut self.is_reset) {
                takeover.forget().await;
            }
            let end = self.work(&mut pipeline, start, &mut takeover).await;
            self.applied = Some(pipeline.stored_offset());
            takeover.ended(&mut pipeline);
            match end {
                End::Stopped => {
                    let is_stored = pipeline.is_stored();
                    let (fold, place) = pipeline.into_parts();
                    return takeover
                        .end(is_stored.then_some(Continued { fold, place }))
                        .await;
                }
                End::Reload => {
                    self.inbox.progress.load();
                    if !takeover.is_followed() {
                        self.partial.tell(Some(Partial::LOADING)).await;
                    }
                }
            }
        }
    }

    /// Reads the partition from the stored offset.
    async fn work(
        &mut self,
        pipeline: &mut Pipeline<Writer>,
        start: Start,
        takeover: &mut Takeover,
    ) -> End {
        let (partition, progress) = (&self.inbox.partition, &self.inbox.progress);
        let (source, mut asked) = Source::new(takeover.marks().as_deref());
        let metrics = &self.shared.metrics.kafka;
        let observed = Observed::new(progress, &source.marks, metrics);
        let fetcher = &self.shared.fetcher;
        let mut records = fetcher.subscribe(partition.clone(), start, observed);
        if self.applied.is_none() {
            let took = self.inbox.assigned_at.elapsed();
            metrics.rebalance_took(RebalanceKind::Assigned, took);
        }
        // When to load the state again, which also asks for the ends of the log.
        let mut reload_at = None;
        let mut is_behind = true;
        loop {
            let is_at_end = progress.is_at_end();
            takeover.turn_to(pipeline, &source, progress).await;
            is_behind &= !is_at_end;
            if !takeover.is_followed() {
                let is_frozen = !pipeline.is_shown() && takeover.is_shown();
                let is_shown = pipeline.is_shown() || is_frozen;
                let reason = Partial::reason(progress, is_shown, is_behind || is_frozen);
                self.partial.tell(reason).await;
            }
            if self.inbox.stop.is_cancelled() {
                self.finish(pipeline).await;
                return End::Stopped;
            }
            // At random: many questions must not keep records waiting, nor the reverse.
            let done = tokio::select! {
                () = self.inbox.stop.cancelled() => Ok(()),
                Some(question) = asked.recv() => {
                    pipeline.answer(question);
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
                            // What is shown may be of records that are gone.
                            self.is_reset = true;
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
    async fn finish(&self, pipeline: &mut Pipeline<Writer>) {
        match tokio::time::timeout(FINISH, pipeline.settle()).await {
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
pub(crate) mod tests;
