//! Metrics of the store.

use iot_service::metrics::Registrar;
use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::Trouble;

/// What the store counts and measures. Clones share the metrics.
#[derive(Debug, Clone)]
pub(crate) struct StoreMetrics {
    pub(crate) apply: Histogram,
    pub(crate) values: IntCounter,
    pub(crate) conflicts: IntCounter,
    errors: IntCounterVec,
}

impl StoreMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        let metrics = Self {
            apply: registrar.histogram(
                "iot_store_apply_seconds",
                "Time of one atomic step of the store",
                &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0],
            )?,
            values: registrar.counter("iot_store_values_total", "Values written to the store")?,
            conflicts: registrar.counter(
                "iot_store_conflicts_total",
                "Steps the store refused because its offset was another one",
            )?,
            errors: registrar.counters(
                "iot_store_errors_total",
                "Tries that failed because the store was not available",
                &["kind"],
            )?,
        };
        for trouble in Trouble::ALL {
            metrics.errors(trouble);
        }
        Ok(metrics)
    }

    /// Failed attempts of that kind.
    pub(crate) fn errors(&self, trouble: Trouble) -> IntCounter {
        self.errors.with_label_values(&[trouble.label()])
    }
}
