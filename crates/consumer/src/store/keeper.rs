//! The store for owners: they wait while it is unavailable, which readiness and metrics
//! report.

use std::time::{Duration, Instant};

use iot_core::partition::TopicPartition;
use iot_fold::Sealed;
use iot_service::Backoff;
use iot_service::health::Component;
use tokio_util::sync::CancellationToken;

use super::{
    ApplyError, Conflict, LoadError, Replaced, Step, Store, StoreMetrics, Stored, Unavailable,
};
use crate::config::ConsumerConfig;
use crate::kafka::group::WriteRight;
use crate::readiness::{SharedReadiness, WaitingOperation};

/// The backoff between two attempts.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A step was not applied.
#[derive(Debug)]
pub(crate) enum Unstored {
    /// It is refused permanently.
    Conflict(Conflict),
    /// The store was unavailable until the partition was revoked.
    Stopped,
}

/// No state was loaded.
#[derive(Debug)]
pub(crate) enum Unloaded {
    /// It cannot be used; the text says why.
    Unusable(String),
    /// The store was unavailable until the partition was revoked.
    Stopped,
}

/// A store, with retries.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: Store,
    readiness: SharedReadiness,
    metrics: StoreMetrics,
}

impl Keeper {
    /// Opens the store of `config`; nothing is connected yet.
    ///
    /// # Errors
    /// The settings are not valid.
    pub(crate) fn open(
        config: &ConsumerConfig,
        metrics: StoreMetrics,
        health: Component,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            store: Store::open(&config.store, config.windows.longest_retention())?
                .with_rules(config.rules_hash()),
            readiness: SharedReadiness::new(health),
            metrics,
        })
    }

    /// Whether state outlives the process.
    pub(crate) fn is_durable(&self) -> bool {
        self.store.is_durable()
    }

    /// Makes the component ready when the store answers; gives up at `stop`.
    pub(crate) async fn greet(&self, stop: &CancellationToken) {
        let mut waiting = Waiting::new(self);
        waiting.operation = Some(self.readiness.begin());
        while let Err(error) = self.store.ping().await {
            if waiting.again(&error, stop).await.is_err() {
                return;
            }
        }
    }

    /// Loads live state and offset of a partition, which belong to the same step. Retries
    /// until `stop`.
    ///
    /// # Errors
    /// The state cannot be used, or the store was unavailable until `stop`.
    pub(crate) async fn load(
        &self,
        partition: &TopicPartition,
        stop: &CancellationToken,
    ) -> Result<Stored, Unloaded> {
        let mut waiting = Waiting::new(self);
        loop {
            match self.store.load(partition).await {
                Ok(stored) => return Ok(stored),
                Err(LoadError::Unusable(reason)) => return Err(Unloaded::Unusable(reason)),
                Err(LoadError::Unavailable(error)) => {
                    let again = waiting.again(&error, stop).await;
                    again.map_err(|Stopped| Unloaded::Stopped)?;
                }
            }
        }
    }

    /// Loads live state and offset of a partition, without retries.
    ///
    /// # Errors
    /// The store is unavailable, or the state cannot be used.
    pub(crate) async fn load_once(&self, partition: &TopicPartition) -> Result<Stored, LoadError> {
        let stored = self.store.load(partition).await;
        stored.inspect_err(|error| self.count(error))
    }

    /// The offset of a partition and what belongs to it, without its values and without retries.
    ///
    /// # Errors
    /// The store is unavailable, or the state cannot be used.
    pub(crate) async fn head(&self, partition: &TopicPartition) -> Result<Stored, LoadError> {
        let head = self.store.head(partition).await;
        head.inspect_err(|error| self.count(error))
    }

    fn count(&self, error: &LoadError) {
        if let LoadError::Unavailable(error) = error {
            self.metrics.errors(error.trouble).inc();
        }
    }

    /// See [`Store::keep_windows`].
    pub(crate) fn keep_windows(&self, partition: &TopicPartition, windows: &[Sealed]) {
        self.store.keep_windows(partition, windows);
    }

    /// Applies a step as a whole or not at all. While the store is unavailable it retries the
    /// same step until the right is revoked, with at least one attempt. A step that was applied although the
    /// answer got lost succeeds at the next attempt.
    ///
    /// # Errors
    /// It was not applied. Once the right is revoked it may have been.
    pub(crate) async fn apply(&self, step: &Step<'_>, right: &WriteRight) -> Result<(), Unstored> {
        let mut waiting = Waiting::new(self);
        loop {
            let begun = Instant::now();
            match self.store.apply(step).await {
                Ok(()) => {
                    let metrics = &self.metrics;
                    metrics.apply.observe(begun.elapsed().as_secs_f64());
                    metrics.values.inc_by(step.changes.len() as u64);
                    return Ok(());
                }
                Err(ApplyError::Conflict(conflict)) => {
                    self.metrics.conflicts.inc();
                    return Err(Unstored::Conflict(conflict));
                }
                Err(ApplyError::Unavailable(error)) => {
                    let again = waiting.again(&error, right.revoked()).await;
                    again.map_err(|Stopped| Unstored::Stopped)?;
                }
            }
        }
    }

    /// Sets the state of a partition aside, see [`Store::set_aside`]. Retries until the right is
    /// revoked.
    ///
    /// # Errors
    /// Another offset is stored, maybe because an earlier attempt succeeded; or the store was
    /// unavailable until then.
    pub(crate) async fn set_aside(
        &self,
        replaced: &Replaced<'_>,
        right: &WriteRight,
    ) -> Result<(), Unstored> {
        let mut waiting = Waiting::new(self);
        loop {
            match self.store.set_aside(replaced).await {
                Ok(()) => return Ok(()),
                Err(ApplyError::Conflict(conflict)) => return Err(Unstored::Conflict(conflict)),
                Err(ApplyError::Unavailable(error)) => {
                    let again = waiting.again(&error, right.revoked()).await;
                    again.map_err(|Stopped| Unstored::Stopped)?;
                }
            }
        }
    }

    /// The values of the sealed windows with these keys, as far as they are still kept,
    /// without retries.
    ///
    /// # Errors
    /// The store is unavailable.
    pub(crate) async fn windows(
        &self,
        partition: &TopicPartition,
        keys: &[String],
    ) -> Result<Vec<Vec<u8>>, Unavailable> {
        let windows = self.store.windows(partition, keys).await;
        windows.inspect_err(|error| self.metrics.errors(error.trouble).inc())
    }
}

struct Stopped;

/// The retries of one operation.
struct Waiting<'k> {
    keeper: &'k Keeper,
    backoff: Backoff,
    operation: Option<WaitingOperation>,
    reported: Option<Unavailable>,
}

impl<'k> Waiting<'k> {
    fn new(keeper: &'k Keeper) -> Self {
        Self {
            keeper,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            operation: None,
            reported: None,
        }
    }

    /// Reports the error and waits for the next attempt.
    async fn again(
        &mut self,
        error: &Unavailable,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        self.keeper.metrics.errors(error.trouble).inc();
        let operation = self
            .operation
            .get_or_insert_with(|| self.keeper.readiness.begin());
        // Several owners wait at the same time: each reports the same error once.
        if self.reported.as_ref() != Some(error) {
            operation.report(format!("{error}; retrying, processing is paused"));
            self.reported = Some(error.clone());
        }
        tokio::select! {
            () = stop.cancelled() => Err(Stopped),
            () = tokio::time::sleep(self.backoff.next_delay()) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_fold::Changes;
    use iot_service::health::Health;
    use iot_service::metrics::Registrar;
    use prometheus::Registry;

    use super::*;
    use crate::store::{LogId, Trouble};

    /// With a Redis that does not exist.
    fn keeper(health: &Health) -> (Keeper, StoreMetrics) {
        let mut config = ConsumerConfig::default();
        // Nothing listens on port 1.
        config.store.url = "redis://127.0.0.1:1".into();
        let metrics = StoreMetrics::new(&Registrar(&Registry::new())).unwrap();
        let component = health.component("store");
        let keeper = Keeper::open(&config, metrics.clone(), component).unwrap();
        (keeper, metrics)
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_tried_until_the_partition_goes() {
        let health = Health::default();
        let (keeper, metrics) = keeper(&health);
        let stop = CancellationToken::new();
        let step = Step {
            partition: &TopicPartition::new("device-data", 0),
            from: None,
            to: 1,
            log: LogId::default(),
            changes: &Changes::default(),
        };
        let stopping = async {
            while metrics.errors(Trouble::Unreachable).get() < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let said = format!("{health:?}");
            assert!(said.contains("retrying, processing is paused"), "{said}");
            stop.cancel();
        };
        let right = WriteRight::of_test(stop.clone());
        let (applied, ()) = tokio::join!(keeper.apply(&step, &right), stopping);
        assert!(matches!(applied, Err(Unstored::Stopped)), "{applied:?}");
        // After `stop` each operation has one attempt.
        let loaded = keeper.load(step.partition, &stop).await;
        assert!(matches!(loaded, Err(Unloaded::Stopped)), "{loaded:?}");
        assert_eq!(metrics.errors(Trouble::Unreachable).get(), 4);
        let keys = ["w".to_owned()];
        let windows = keeper.windows(step.partition, &keys).await;
        assert_eq!(windows.unwrap_err().trouble, Trouble::Unreachable);
    }
}
