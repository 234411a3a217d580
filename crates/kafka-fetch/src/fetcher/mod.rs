//! The entrance: starts the tasks, and subscribes to partitions.

use std::sync::Arc;

use iot_core::partition::TopicPartition;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::budget::Budget;
use crate::error::FetchError;
use crate::leaders::Leaders;
use crate::logs::{self, LogState, Question};
use crate::observer::Observer;
use crate::settings::Settings;
use crate::start::Start;
use crate::subscription::{Cursor, Subscription, subscription};

/// Fetches records of the partitions that are subscribed to. Clones are the same fetcher; its
/// tasks and connections end with the last one.
#[derive(Debug, Clone)]
pub struct Fetcher {
    cursors: mpsc::UnboundedSender<Cursor>,
    budget: Budget,
    questions: mpsc::UnboundedSender<Question>,
    _stop: Arc<DropGuard>,
}

impl Fetcher {
    /// Starts its tasks in this runtime. They connect with the first subscription or question.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        // Holds each cursor once at most, so it is bounded by the subscriptions.
        let (cursors, inbox) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let budget = settings.budget.clone();
        let settings = Arc::new(settings);
        let leaders = Leaders::new(settings.clone(), cursors.clone(), stop.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(leaders.run(inbox)).await });
        // Bounded by the calls that wait for an answer.
        let (questions, asked) = mpsc::unbounded_channel();
        let logs = logs::run(settings, asked, stop.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(logs).await });
        Self {
            cursors,
            budget,
            questions,
            _stop: Arc::new(stop.drop_guard()),
        }
    }

    /// Reads a partition from an offset on, until the subscription is dropped. A partition
    /// may have several subscriptions at a time, which do not affect each other. `start` is an
    /// offset, or a [`Start`] with what is known of the log.
    ///
    /// `observer` watches it; `Arc::new(())` if nothing does.
    #[must_use]
    pub fn subscribe(
        &self,
        partition: TopicPartition,
        start: impl Into<Start>,
        observer: Arc<dyn Observer>,
    ) -> Subscription {
        let budget = self.budget.clone();
        let (subscription, cursor) = subscription(partition, start.into(), observer, budget);
        // If the runtime is shutting down nobody takes it, and the subscription has stopped.
        let _ = self.cursors.send(cursor);
        subscription
    }

    /// Asks the leader of a partition, by fresh metadata and with its epoch, where the log starts
    /// and ends. A leader older than one that `known` tells of is not asked. If the log is
    /// another one than `known` has, or ends before its offset, another broker has to confirm
    /// topic and leader, unless the leader is the only one: a broker that was suspended does not
    /// know of its successor at first.
    ///
    /// # Errors
    /// There is no answer, or none that can be believed yet. The same question may be asked
    /// again.
    pub async fn log(
        &self,
        partition: &TopicPartition,
        known: Start,
    ) -> Result<LogState, Arc<FetchError>> {
        let (answer, answered) = oneshot::channel();
        let partition = partition.clone();
        let question = Question {
            partition,
            known,
            answer,
        };
        // If the runtime is shutting down nobody takes it, and nobody answers.
        let _ = self.questions.send(question);
        let stopped = |_| Err(Arc::new(FetchError::NoBroker));
        answered.await.unwrap_or_else(stopped)
    }
}

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod tests;
