//! Metrics of the group member: its partitions, their lag, rebalances and errors.

use std::time::Duration;

use iot_service::metrics::Registrar;
use prometheus::{Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::lag_metrics::LagMetrics;

/// What happened to the assignment of partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RebalanceKind {
    Assigned,
    Revoked,
    /// Taken away without being asked, because the group gave this member up.
    Lost,
}

impl RebalanceKind {
    const ALL: [Self; 3] = [Self::Assigned, Self::Revoked, Self::Lost];

    fn label(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Revoked => "revoked",
            Self::Lost => "lost",
        }
    }
}

/// What the group member counts and measures. Clones share the metrics.
#[derive(Debug, Clone)]
pub(crate) struct KafkaMetrics {
    pub(crate) active_partitions: IntGauge,
    pub(crate) paused_partitions: IntGauge,
    pub(crate) fetch_errors: IntCounter,
    pub(crate) commit_errors: IntCounter,
    /// Records on their way to the owners of partitions.
    pub(crate) queue: IntGauge,
    pub(crate) buffered_bytes: IntGauge,
    /// Sum over partitions, for `/api/v1/stats`.
    pub(crate) lag_total: IntGauge,
    pub(crate) lag: LagMetrics,
    open_transaction: GaugeVec,
    rebalance_seconds: HistogramVec,
    rebalances: IntCounterVec,
}

impl KafkaMetrics {
    /// Registers them, except `queue`: that one is in a family of all queues. Labels of a
    /// fixed set start at zero.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn new(registrar: &Registrar<'_>, queue: IntGauge) -> prometheus::Result<Self> {
        let metrics = Self {
            active_partitions: registrar.int_gauge(
                "kafka_consumer_active_partitions",
                "Partitions assigned to this consumer",
            )?,
            paused_partitions: registrar.int_gauge(
                "kafka_consumer_paused_partitions",
                "Partitions not fetched because processing is behind",
            )?,
            fetch_errors: registrar.counter(
                "kafka_consumer_fetch_errors_total",
                "Failed attempts to fetch a partition; its leader is looked up again after each",
            )?,
            commit_errors: registrar.counter(
                "kafka_consumer_commit_errors_total",
                "Failed commits of offsets to Kafka, which only serve lag tools",
            )?,
            queue,
            buffered_bytes: registrar.int_gauge(
                "iot_buffered_bytes",
                "Bytes of fetches, decompressed batches and unconfirmed dead letters in memory",
            )?,
            lag_total: IntGauge::new(
                "lag",
                "not exported: the sum of kafka_consumer_lag_messages",
            )?,
            lag: LagMetrics::new(
                registrar,
                (
                    "kafka_consumer_lag_messages",
                    "Messages in the log that are not processed yet",
                ),
                (
                    "kafka_consumer_lag_seconds",
                    "How long the oldest message that is not processed has been in Kafka",
                ),
            )?,
            open_transaction: registrar.gauges(
                "kafka_consumer_open_transaction_seconds",
                "How long an open transaction has held back the records behind it; 0 without one",
                &["topic", "partition"],
            )?,
            rebalance_seconds: registrar.histograms(
                "kafka_consumer_rebalance_duration_seconds",
                "Time from the assignment of a partition until it is read, or from its revocation \
                 until its state is stored",
                &["event"],
                &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            )?,
            rebalances: registrar.counters(
                "kafka_consumer_rebalances_total",
                "Changes of the assignment of partitions",
                &["event"],
            )?,
        };
        for kind in RebalanceKind::ALL {
            metrics.rebalances.with_label_values(&[kind.label()]);
        }
        for kind in [RebalanceKind::Assigned, RebalanceKind::Revoked] {
            metrics.rebalance_seconds.with_label_values(&[kind.label()]);
        }
        Ok(metrics)
    }

    pub(crate) fn rebalanced(&self, kind: RebalanceKind) {
        self.rebalances.with_label_values(&[kind.label()]).inc();
    }

    pub(crate) fn rebalance_took(&self, kind: RebalanceKind, took: Duration) {
        self.rebalance_seconds
            .with_label_values(&[kind.label()])
            .observe(took.as_secs_f64());
    }

    /// How long an open transaction has held back records of a partition, seconds.
    pub(crate) fn open_transaction(&self, topic: &str, partition: &str) -> Gauge {
        self.open_transaction.with_label_values(&[topic, partition])
    }

    /// A partition that went elsewhere has no lag here.
    pub(crate) fn forget_lag(&self, topic: &str, partition: i32) {
        self.lag.forget(topic, partition);
        let labels = [topic, &partition.to_string()];
        // It may never have had one.
        let _ = self.open_transaction.remove_label_values(&labels);
    }
}
