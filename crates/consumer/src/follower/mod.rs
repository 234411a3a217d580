//! Followers. A partition that another member of the group owns is followed: its state is copied
//! from the store at one offset, and then the same fold goes on over the log, without writing
//! anything. The fold is a function of the log alone, so a follower shows what the owner shows.

mod load;
mod metrics;
mod report;
mod status;
mod supervisor;
mod topics;
mod unwritten;
mod watcher;

use std::sync::Arc;

use iot_core::partition::TopicPartition;
use iot_fold::Fold;
use kafka_fetch::{Start, SubscriptionError};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::kafka::fetch::{Observed, retry_after};
use crate::kafka::marks::MarkKeeper;
use crate::live::{Partial, Reason, Source};
use crate::pipeline::{Pipeline, Place};
use crate::shared::Shared;
use crate::showing::Showing;
pub(crate) use metrics::FollowerMetrics;
use metrics::Reload;
use status::Status;
pub(crate) use supervisor::{Followers, Left, Supervisor};
use unwritten::Unwritten;
use watcher::{Seen, Verdict, Watcher};

/// The state of a partition whose owner has ended here.
pub(crate) struct Continued {
    pub(crate) fold: Fold,
    pub(crate) place: Place,
}

/// A follower that runs. It ends when this is dropped, and what it shows with it.
pub(crate) struct Following {
    status: Arc<Status>,
    stop: DropGuard,
    task: JoinHandle<Showing>,
}

impl Following {
    /// Starts it with what is shown so far, and with the state of an owner, if there is one.
    fn start(
        shared: &Arc<Shared>,
        partition: TopicPartition,
        showing: Showing,
        from: Option<Continued>,
    ) -> Self {
        let (status, stop) = (Arc::<Status>::default(), CancellationToken::new());
        let follower = Follower {
            shared: shared.clone(),
            status: status.clone(),
            stop: stop.clone(),
            showing,
            partial: Partial::new(&shared.hub, &partition),
            partition,
            is_reset: false,
        };
        Self {
            status,
            stop: stop.drop_guard(),
            task: tokio::spawn(follower.run(from)),
        }
    }

    /// It shows what comes from the records before this offset; `None` while it shows nothing.
    pub(crate) fn shown(&self) -> Option<i64> {
        self.status.shown()
    }

    /// When its records were fetched.
    pub(crate) fn marks(&self) -> Option<Arc<MarkKeeper>> {
        self.status.marks()
    }

    /// Ends it, and returns what clients see.
    pub(crate) async fn stop(self) -> Showing {
        drop(self.stop);
        // It shows nothing any more if it has died.
        self.task.await.unwrap_or_default()
    }
}

/// Why a follower stopped reading.
enum End {
    Stopped,
    Reload(Reload),
}

struct Follower {
    shared: Arc<Shared>,
    partition: TopicPartition,
    status: Arc<Status>,
    stop: CancellationToken,
    showing: Showing,
    partial: Partial,
    /// Whether what is shown is not of the state that is loaded next.
    is_reset: bool,
}

impl Follower {
    /// Returns what clients see at its end; what shows the partition next tells them more.
    async fn run(mut self, from: Option<Continued>) -> Showing {
        self.follow(from).await;
        self.partial.tell(None).await;
        self.showing
    }

    async fn follow(&mut self, mut from: Option<Continued>) {
        loop {
            if !self.showing.is_shown() {
                self.partial.tell(Some(Partial::LOADING)).await;
            }
            let loaded = match from.take() {
                Some(continued) => Some(self.take_over(continued)),
                None => self.load().await,
            };
            let Some((mut pipeline, start, watcher)) = loaded else {
                return;
            };
            if std::mem::take(&mut self.is_reset) {
                self.showing = Showing::default();
            }
            let end = self.work(&mut pipeline, start, watcher).await;
            self.showing.ended(&mut pipeline);
            match end {
                End::Stopped => return,
                End::Reload(reason) => {
                    self.reload(reason);
                    self.partial.tell(Some(Partial::LOADING)).await;
                }
            }
        }
    }

    fn reload(&mut self, reason: Reload) {
        let (topic, partition) = self.partition.parts();
        let metrics = &self.shared.metrics.followers;
        metrics.reloaded(reason);
        tracing::warn!(
            topic,
            partition,
            reason = reason.label(),
            "loading the state of a followed partition again"
        );
        self.is_reset = reason.is_reset();
        self.status.progress.load();
    }

    /// Continues where the owner has ended.
    fn take_over(&self, from: Continued) -> (Pipeline<Unwritten>, Start, Watcher) {
        let Continued { fold, place } = from;
        let start = Start {
            offset: place.next,
            topic_id: place.log.topic_id,
            last_epoch: place.log.leader_epoch,
            leader_epoch: None,
        };
        (self.pipeline(fold, place), start, self.watcher(None))
    }

    fn pipeline(&self, fold: Fold, place: Place) -> Pipeline<Unwritten> {
        Pipeline::new(
            self.shared.clone(),
            self.partition.clone(),
            fold,
            place,
            self.status.progress.clone(),
            Unwritten::new(self.shared.clone()),
        )
    }

    /// Watches the store, compared with what was loaded from it.
    fn watcher(&self, loaded: Option<Seen>) -> Watcher {
        let rules = self.shared.config.rules_hash();
        let (shared, partition) = (self.shared.clone(), self.partition.clone());
        Watcher::start(shared.store.clone(), partition, rules, loaded)
    }

    /// Why what is shown is not what the owner shows now, if it is not.
    fn reason(&self, is_shown: bool) -> Option<Reason> {
        let is_frozen = !is_shown && self.showing.is_shown();
        let is_shown = is_shown || is_frozen;
        let is_behind = !self.status.has_caught_up() || is_frozen;
        let reason = Partial::reason(&self.status.progress, is_shown, is_behind);
        let other = self.status.has_other_rules();
        reason.or_else(|| other.then(|| "its owner has other rules".into()))
    }

    async fn work(
        &mut self,
        pipeline: &mut Pipeline<Unwritten>,
        start: Start,
        mut watcher: Watcher,
    ) -> End {
        let (status, stop) = (self.status.clone(), self.stop.clone());
        let (source, mut asked) = Source::new(self.showing.marks().as_deref());
        status.fetches(source.marks.clone());
        let metrics = &self.shared.metrics.kafka;
        let observed = Observed::new(&status.progress, &source.marks, metrics);
        let fetcher = &self.shared.fetcher;
        let mut records = fetcher.subscribe(self.partition.clone(), start, observed);
        let mut reload_at = None;
        loop {
            let progress = &status.progress;
            self.showing.turn_to(pipeline, &source, progress).await;
            status.went_on(pipeline.is_shown());
            self.partial.tell(self.reason(pipeline.is_shown())).await;
            let done = tokio::select! {
                () = stop.cancelled() => return End::Stopped,
                Some(question) = asked.recv() => {
                    pipeline.answer(question);
                    Ok(())
                }
                () = tokio::time::sleep_until(pipeline.wakes_at()) => pipeline.wake().await,
                batch = records.next(), if reload_at.is_none() => match batch {
                    Ok(batch) => pipeline.process(batch).await,
                    Err(unreadable) => {
                        let (topic, partition) = self.partition.parts();
                        if status.progress.troubled(unreadable.to_string()) {
                            tracing::warn!(topic, partition, %unreadable, "cannot follow the partition; retrying");
                        }
                        let at = Instant::now() + retry_after(&unreadable);
                        reload_at = Some((at, of(&unreadable)));
                        Ok(())
                    }
                },
                () = sleep_until(reload_at) => match reload_at {
                    Some((_, reason)) => return End::Reload(reason),
                    None => Ok(()),
                },
                seen = watcher.changed() => match watcher.judge(seen, pipeline.log()) {
                    Verdict::Reload(reason) => return End::Reload(reason),
                    Verdict::Stored { offset, same_rules } => {
                        status.store_answers(same_rules);
                        pipeline.effects_mut().stored(offset);
                        Ok(())
                    }
                    Verdict::Unknown(reason) => {
                        status.store_fails(reason);
                        Ok(())
                    }
                },
            };
            // Only writing can fail.
            if let Err(reason) = done {
                tracing::error!(?reason, "a follower failed to go on");
                return End::Reload(Reload::Unreadable);
            }
        }
    }
}

/// Never, without a time.
async fn sleep_until(at: Option<(Instant, Reload)>) {
    match at {
        Some((at, _)) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn of(unreadable: &SubscriptionError) -> Reload {
    match unreadable {
        SubscriptionError::AnotherLog { .. } => Reload::AnotherLog,
        SubscriptionError::Truncated { .. } => Reload::Truncated,
        _ => Reload::Unreadable,
    }
}

#[cfg(test)]
mod tests;
