//! The entrance: starts the tasks, and subscribes to partitions.

use std::sync::Arc;

use iot_core::partition::TopicPartition;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::budget::Budget;
use crate::leaders::Leaders;
use crate::observer::Observer;
use crate::settings::Settings;
use crate::subscription::{Cursor, Subscription, subscription};

/// Fetches records of the partitions that are subscribed to. Clones are the same fetcher; its
/// tasks and connections end with the last one.
#[derive(Debug, Clone)]
pub struct Fetcher {
    cursors: mpsc::UnboundedSender<Cursor>,
    budget: Budget,
    _stop: Arc<DropGuard>,
}

impl Fetcher {
    /// Starts a task in this runtime. It connects with the first subscription.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        // Holds each cursor once at most, so it is bounded by the subscriptions.
        let (cursors, inbox) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let budget = settings.budget.clone();
        let leaders = Leaders::new(Arc::new(settings), cursors.clone(), stop.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(leaders.run(inbox)).await });
        Self {
            cursors,
            budget,
            _stop: Arc::new(stop.drop_guard()),
        }
    }

    /// Reads a partition from an offset on, until the subscription is dropped. A partition
    /// may have several subscriptions at a time, which do not affect each other.
    ///
    /// `observer` watches it; `Arc::new(())` if nothing does.
    #[must_use]
    pub fn subscribe(
        &self,
        partition: TopicPartition,
        offset: i64,
        observer: Arc<dyn Observer>,
    ) -> Subscription {
        let (subscription, cursor) = subscription(partition, offset, observer, self.budget.clone());
        // If the runtime is shutting down nobody takes it, and the subscription has stopped.
        let _ = self.cursors.send(cursor);
        subscription
    }
}

#[cfg(test)]
mod tests;
