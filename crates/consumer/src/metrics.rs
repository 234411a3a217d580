//! Metrics of the consumer.

use iot_core::partition::TopicPartition;
use std::time::Duration;

use iot_service::metrics::Registrar;
use prometheus::{
    Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use crate::kafka::progress::Lag;
use crate::outputs::OutputsMetrics;
use crate::owner::OwnerMetrics;
use crate::store::StoreMetrics;
use crate::webhook::WebhookMetrics;

/// Why a WebSocket client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It closed the connection, or the connection broke.
    Client,
    /// It could not keep up.
    Slow,
    /// It stopped answering pings.
    Silent,
    /// The service stops.
    Shutdown,
}

impl Leave {
    const ALL: [Self; 4] = [Self::Client, Self::Slow, Self::Silent, Self::Shutdown];

    fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Kinds of WebSocket frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Readings,
    Alert,
    Stats,
}

impl FrameKind {
    const ALL: [Self; 3] = [Self::Readings, Self::Alert, Self::Stats];

    fn label(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Alert => "alert",
            Self::Stats => "stats",
        }
    }
}

/// Queues between the parts of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Records on their way to the owners of partitions.
    Partitions,
    /// What owners tell the hub, in messages.
    Hub,
    /// Frames that wait for WebSocket clients.
    Clients,
    /// Alerts on their way to the webhook, not yet grouped.
    Webhook,
}

impl Queue {
    const ALL: [Self; 4] = [Self::Partitions, Self::Hub, Self::Clients, Self::Webhook];

    fn label(self) -> &'static str {
        match self {
            Self::Partitions => "partitions",
            Self::Hub => "hub",
            Self::Clients => "clients",
            Self::Webhook => "webhook",
        }
    }
}

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

/// All metrics of one consumer: those of its modules, and those that have no module of
/// their own yet.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) owner: OwnerMetrics,
    pub(crate) outputs: OutputsMetrics,
    pub(crate) store: StoreMetrics,
    pub(crate) webhook: WebhookMetrics,
    pub(crate) active_partitions: IntGauge,
    pub(crate) paused_partitions: IntGauge,
    pub(crate) fetch_errors: IntCounter,
    pub(crate) commit_errors: IntCounter,
    pub(crate) dead_letters: IntCounter,
    pub(crate) dead_letters_cut: IntCounter,
    pub(crate) dead_letter_retries: IntCounter,
    unreadable_windows: IntCounter,
    pub(crate) devices: IntGauge,
    pub(crate) clients: IntGauge,
    pub(crate) rate: Gauge,
    /// Sum over partitions, for `/api/v1/stats`.
    pub(crate) lag_total: IntGauge,
    lag: IntGaugeVec,
    lag_seconds: GaugeVec,
    rebalance_seconds: HistogramVec,
    rebalances: IntCounterVec,
    frames: IntCounterVec,
    leaves: IntCounterVec,
    queues: IntGaugeVec,
}

impl Metrics {
    /// Registers all of them; labels of a fixed set start at zero.
    ///
    /// # Errors
    /// A name is taken in `registry`.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let registrar = Registrar(registry);
        let queues =
            registrar.int_gauges("iot_queue_depth", "Entries waiting in a queue", &["queue"])?;
        let webhook_queue = queues.with_label_values(&[Queue::Webhook.label()]);
        let metrics = Self {
            owner: OwnerMetrics::new(&registrar)?,
            outputs: OutputsMetrics::new(&registrar)?,
            store: StoreMetrics::new(&registrar)?,
            webhook: WebhookMetrics::new(&registrar, webhook_queue)?,
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
            dead_letters: registrar.counter(
                "iot_dead_letters_total",
                "Messages written to the dead-letter topic",
            )?,
            dead_letters_cut: registrar.counter(
                "iot_dead_letters_cut_total",
                "Dead letters that were truncated",
            )?,
            dead_letter_retries: registrar.counter(
                "iot_dead_letter_retries_total",
                "Failed attempts to write a dead letter",
            )?,
            unreadable_windows: registrar.counter(
                "iot_store_unreadable_windows_total",
                "Stored windows left out of an answer because they can't be read",
            )?,
            devices: registrar.int_gauge("iot_devices", "Devices in the assigned partitions")?,
            clients: registrar.int_gauge("iot_websocket_clients", "Connected WebSocket clients")?,
            rate: registrar.gauge(
                "iot_messages_per_second",
                "Messages processed in the last second",
            )?,
            lag_total: IntGauge::new(
                "lag",
                "not exported: the sum of kafka_consumer_lag_messages",
            )?,
            lag: registrar.int_gauges(
                "kafka_consumer_lag_messages",
                "Messages in the log that are not processed yet",
                &["topic", "partition"],
            )?,
            lag_seconds: registrar.gauges(
                "kafka_consumer_lag_seconds",
                "How long the oldest message that is not processed has been in Kafka",
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
            frames: registrar.counters(
                "iot_websocket_frames_total",
                "Frames handed to WebSocket clients",
                &["type"],
            )?,
            leaves: registrar.counters(
                "iot_websocket_closed_total",
                "WebSocket clients that left",
                &["reason"],
            )?,
            queues,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    fn start_at_zero(&self) {
        for kind in RebalanceKind::ALL {
            self.rebalances.with_label_values(&[kind.label()]);
        }
        for kind in [RebalanceKind::Assigned, RebalanceKind::Revoked] {
            self.rebalance_seconds.with_label_values(&[kind.label()]);
        }
        for kind in FrameKind::ALL {
            self.frames.with_label_values(&[kind.label()]);
        }
        for leave in Leave::ALL {
            self.leaves.with_label_values(&[leave.label()]);
        }
        for queue in Queue::ALL {
            self.queues.with_label_values(&[queue.label()]);
        }
    }

    /// Counts a stored window that can't be read; the first is logged, because requests
    /// can repeat it as often as they like.
    pub(crate) fn unreadable_window(&self, at: &TopicPartition, error: &impl std::fmt::Display) {
        if self.unreadable_windows.get() == 0 {
            let (topic, partition) = at.parts();
            tracing::warn!(
                topic,
                partition,
                %error,
                "a stored window can't be read and is left out; others are only counted"
            );
        }
        self.unreadable_windows.inc();
    }

    pub(crate) fn rebalanced(&self, kind: RebalanceKind) {
        self.rebalances.with_label_values(&[kind.label()]).inc();
    }

    pub(crate) fn framed(&self, kind: FrameKind, clients: usize) {
        self.frames
            .with_label_values(&[kind.label()])
            .inc_by(clients as u64);
    }

    pub(crate) fn left(&self, leave: Leave) {
        self.leaves.with_label_values(&[leave.label()]).inc();
    }

    pub(crate) fn depth(&self, queue: Queue, depth: usize) {
        let queue = self.queues.with_label_values(&[queue.label()]);
        queue.set(depth as i64);
    }

    pub(crate) fn rebalance_took(&self, kind: RebalanceKind, took: Duration) {
        self.rebalance_seconds
            .with_label_values(&[kind.label()])
            .observe(took.as_secs_f64());
    }

    pub(crate) fn lag(&self, topic: &str, partition: i32, lag: Lag) {
        let labels = [topic, &partition.to_string()];
        self.lag.with_label_values(&labels).set(lag.messages);
        self.lag_seconds.with_label_values(&labels).set(lag.seconds);
    }

    /// A partition that went elsewhere has no lag here.
    pub(crate) fn forget_lag(&self, topic: &str, partition: i32) {
        let labels = [topic, &partition.to_string()];
        // It may never have had one.
        let _ = self.lag.remove_label_values(&labels);
        let _ = self.lag_seconds.remove_label_values(&labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outputs::Published;

    #[test]
    fn fixed_labels_are_there_from_the_start() {
        let registry = Registry::new();
        let _metrics = Metrics::new(&registry).unwrap();
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            "kafka_consumer_messages_consumed_total 0",
            "kafka_consumer_processing_errors_total{reason=\"not_json\"} 0",
            "kafka_consumer_processing_errors_total{reason=\"impossible_value\"} 0",
            "kafka_consumer_processing_duration_seconds_bucket{le=\"0.001\"} 0",
            "iot_websocket_closed_total{reason=\"slow\"} 0",
            "iot_store_errors_total{kind=\"full\"} 0",
            "kafka_consumer_alerts_raised_total{kind=\"drift\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn every_metric_is_in_the_reference() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let partition = ["<Kafka topic>", "<its number>"];
        metrics.lag.with_label_values(&partition);
        metrics.lag_seconds.with_label_values(&partition);
        metrics.owner.late_of("<length, such as 1m>");
        for kind in [
            Published::AlertCreated,
            Published::AlertCleared,
            Published::WindowSealed,
        ] {
            metrics.outputs.published("<Kafka topic>", kind);
        }
        iot_service::metrics::reference::check("consumer", &registry);
    }
}
