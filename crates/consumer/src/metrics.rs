//! Metrics of the consumer.

use std::time::Duration;

use iot_core::message::ParseError;
use iot_fold::{AlertKind, Folded};
use iot_service::config::HumanDuration;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::config::WindowsConfig;
use crate::kafka::progress::Lag;
use crate::refusal::Refusal;
use crate::store::Trouble;
use crate::webhook::{Notified, Told};

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

/// Kinds of events for other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    AlertCreated,
    AlertCleared,
    WindowSealed,
}

impl Published {
    /// Its type, as it stands in events.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::AlertCreated => "alert.created",
            Self::AlertCleared => "alert.cleared",
            Self::WindowSealed => "window.sealed",
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

/// All metrics of one consumer.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) consumed: IntCounter,
    pub(crate) processing: Histogram,
    pub(crate) active_partitions: IntGauge,
    pub(crate) paused_partitions: IntGauge,
    pub(crate) lost_records: IntCounter,
    pub(crate) fetch_errors: IntCounter,
    pub(crate) commit_errors: IntCounter,
    pub(crate) readings: IntCounter,
    pub(crate) stale: IntCounter,
    pub(crate) duplicates: IntCounter,
    pub(crate) dead_letters: IntCounter,
    pub(crate) dead_letters_cut: IntCounter,
    pub(crate) dead_letter_retries: IntCounter,
    pub(crate) store_apply: Histogram,
    pub(crate) store_values: IntCounter,
    pub(crate) store_conflicts: IntCounter,
    pub(crate) store_rebuilds: IntCounter,
    unreadable_windows: IntCounter,
    pub(crate) devices: IntGauge,
    pub(crate) clients: IntGauge,
    pub(crate) rate: Gauge,
    pub(crate) webhook_retries: IntCounter,
    /// Sum over partitions, for `/api/v1/stats`.
    pub(crate) lag_total: IntGauge,
    lag: IntGaugeVec,
    lag_seconds: GaugeVec,
    published: IntCounterVec,
    rebalance_seconds: HistogramVec,
    store_errors: IntCounterVec,
    late: IntCounterVec,
    alerts_raised: IntCounterVec,
    alerts_cleared: IntCounterVec,
    refusals: IntCounterVec,
    rebalances: IntCounterVec,
    frames: IntCounterVec,
    leaves: IntCounterVec,
    queues: IntGaugeVec,
    notifications: IntCounterVec,
    told: IntCounterVec,
}

impl Metrics {
    /// Registers all of them; labels of a fixed set start at zero.
    ///
    /// # Errors
    /// A name is taken in `registry`.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let make = Make(registry);
        let metrics = Self {
            consumed: make.counter(
                "kafka_consumer_messages_consumed_total",
                "Messages processed, invalid ones included",
            )?,
            processing: make.histogram(
                "kafka_consumer_processing_duration_seconds",
                "Time to process 50 messages of a partition, without waiting for Kafka or the store",
                vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0],
            )?,
            active_partitions: make.gauge(
                "kafka_consumer_active_partitions",
                "Partitions assigned to this consumer",
            )?,
            paused_partitions: make.gauge(
                "kafka_consumer_paused_partitions",
                "Partitions not fetched because processing is behind",
            )?,
            lost_records: make.counter(
                "kafka_consumer_lost_records_total",
                "Records that Kafka deleted before they were read",
            )?,
            fetch_errors: make.counter(
                "kafka_consumer_fetch_errors_total",
                "Failed tries to fetch a partition, after each of which its leader is looked for anew",
            )?,
            commit_errors: make.counter(
                "kafka_consumer_commit_errors_total",
                "Failed commits of offsets to Kafka, which only serve lag tools",
            )?,
            readings: make.counter("iot_readings_total", "Readings taken into the state")?,
            stale: make.counter(
                "iot_readings_stale_total",
                "Readings older than the newest known, counted into windows only",
            )?,
            late: make.counters(
                "iot_readings_late_total",
                "Readings too late for their window, by its length",
                "window",
            )?,
            duplicates: make.counter(
                "iot_messages_duplicate_total",
                "Messages that repeat the one before and were skipped",
            )?,
            alerts_raised: make.counters(
                "kafka_consumer_alerts_raised_total",
                "Alerts raised",
                "kind",
            )?,
            alerts_cleared: make.counters(
                "kafka_consumer_alerts_cleared_total",
                "Alerts cleared",
                "kind",
            )?,
            dead_letters: make.counter(
                "iot_dead_letters_total",
                "Messages written to the dead-letter topic",
            )?,
            dead_letters_cut: make.counter(
                "iot_dead_letters_cut_total",
                "Dead letters of which only the begin was written",
            )?,
            dead_letter_retries: make.counter(
                "iot_dead_letter_retries_total",
                "Failed tries to write a dead letter",
            )?,
            store_apply: make.histogram(
                "iot_store_apply_seconds",
                "Time of one atomic step of the store",
                vec![0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0],
            )?,
            store_errors: make.counters(
                "iot_store_errors_total",
                "Tries that failed because the store was not available",
                "kind",
            )?,
            store_rebuilds: make.counter(
                "iot_store_rebuilds_total",
                "Partitions read again because their state was gone from the store",
            )?,
            unreadable_windows: make.counter(
                "iot_store_unreadable_windows_total",
                "Stored windows left out of an answer because they can't be read",
            )?,
            store_values: make.counter("iot_store_values_total", "Values written to the store")?,
            store_conflicts: make.counter(
                "iot_store_conflicts_total",
                "Steps the store refused because its offset was another one",
            )?,
            devices: make.gauge("iot_devices", "Devices in the assigned partitions")?,
            clients: make.gauge("iot_websocket_clients", "Connected WebSocket clients")?,
            rate: make.float_gauge(
                "iot_messages_per_second",
                "Messages processed in the last second",
            )?,
            lag_total: IntGauge::new(
                "lag",
                "not exported: the sum of kafka_consumer_lag_messages",
            )?,
            lag: make.gauges(
                "kafka_consumer_lag_messages",
                "Messages in the log that are not processed yet",
                &["topic", "partition"],
            )?,
            published: make.register(IntCounterVec::new(
                Opts::new(
                    "kafka_events_published_total",
                    "Events for other programs that Kafka has confirmed",
                ),
                &["topic", "event_type"],
            )?)?,
            lag_seconds: make.float_gauges(
                "kafka_consumer_lag_seconds",
                "How long the oldest message that is not processed has been in Kafka",
                &["topic", "partition"],
            )?,
            rebalance_seconds: make.histograms(
                "kafka_consumer_rebalance_duration_seconds",
                "From getting a partition until it is read, or from having to give it up \
                 until its state is put away",
                "event",
                vec![0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            )?,
            refusals: make.counters(
                "kafka_consumer_processing_errors_total",
                "Messages refused",
                "reason",
            )?,
            rebalances: make.counters(
                "kafka_consumer_rebalances_total",
                "Changes of the assignment of partitions",
                "event",
            )?,
            frames: make.counters(
                "iot_websocket_frames_total",
                "Frames handed to WebSocket clients",
                "type",
            )?,
            leaves: make.counters(
                "iot_websocket_closed_total",
                "WebSocket clients that left",
                "reason",
            )?,
            queues: make.gauges("iot_queue_depth", "Entries waiting in a queue", &["queue"])?,
            notifications: make.counters(
                "iot_webhook_notifications_total",
                "Notifications of the webhook, by what became of them",
                "result",
            )?,
            told: make.counters(
                "iot_webhook_alerts_total",
                "Alerts that the webhook was to tell, by what became of them",
                "result",
            )?,
            webhook_retries: make.counter(
                "iot_webhook_retries_total",
                "Tries of the webhook that failed and were made again",
            )?,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    fn start_at_zero(&self) {
        for reason in ParseError::REASONS
            .iter()
            .chain(Refusal::REASONS)
            .chain(iot_fold::Refusal::REASONS)
        {
            self.refusals.with_label_values(&[reason]);
        }
        for kind in AlertKind::ALL {
            self.alerts_raised.with_label_values(&[kind.label()]);
            self.alerts_cleared.with_label_values(&[kind.label()]);
        }
        for trouble in Trouble::ALL {
            self.store_errors.with_label_values(&[trouble.label()]);
        }
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
        for result in Notified::ALL {
            self.notifications.with_label_values(&[result.label()]);
        }
        for result in Told::ALL {
            self.told.with_label_values(&[result.label()]);
        }
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.refusals.with_label_values(&[refusal.reason()]).inc();
    }

    /// Counts alerts; most messages have none.
    pub(crate) fn alerted(&self, folded: &Folded) {
        for (counters, counts) in [
            (&self.alerts_raised, &folded.raised),
            (&self.alerts_cleared, &folded.cleared),
        ] {
            for (kind, count) in AlertKind::ALL.into_iter().zip(counts) {
                if *count > 0 {
                    counters.with_label_values(&[kind.label()]).inc_by(*count);
                }
            }
        }
    }

    /// Counters of late readings by length of window, shortest first, at zero.
    pub(crate) fn late(&self, windows: &WindowsConfig) -> Vec<IntCounter> {
        let mut sizes = windows.sizes.clone();
        sizes.sort_unstable();
        let counter = |size: HumanDuration| self.late.with_label_values(&[&*size.to_string()]);
        sizes.into_iter().map(counter).collect()
    }

    pub(crate) fn store_failed(&self, trouble: Trouble) {
        let errors = self.store_errors.with_label_values(&[trouble.label()]);
        errors.inc();
    }

    /// How often it was.
    #[cfg(test)]
    pub(crate) fn store_errors(&self, trouble: Trouble) -> u64 {
        self.store_errors
            .with_label_values(&[trouble.label()])
            .get()
    }

    /// Counts a stored window that can't be read; the first is logged, because requests
    /// can repeat it as often as they like.
    pub(crate) fn unreadable_window(
        &self,
        (topic, partition): (&str, i32),
        error: &impl std::fmt::Display,
    ) {
        if self.unreadable_windows.get() == 0 {
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

    pub(crate) fn notified(&self, result: Notified) {
        self.notifications
            .with_label_values(&[result.label()])
            .inc();
    }

    pub(crate) fn told(&self, result: Told, alerts: u64) {
        self.told
            .with_label_values(&[result.label()])
            .inc_by(alerts);
    }

    pub(crate) fn published(&self, topic: &str, kind: Published) {
        self.published
            .with_label_values(&[topic, kind.label()])
            .inc();
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

struct Make<'r>(&'r Registry);

impl Make<'_> {
    fn register<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: C,
    ) -> prometheus::Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::new(name, help)?)
    }

    fn float_gauge(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.register(Gauge::new(name, help)?)
    }

    fn float_gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<GaugeVec> {
        self.register(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        label: &str,
        buckets: Vec<f64>,
    ) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::new(name, help).buckets(buckets);
        self.register(HistogramVec::new(opts, &[label])?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(buckets);
        // A vector without labels starts at zero like the others.
        let family = self.register(HistogramVec::new(options, &[])?)?;
        family.get_metric_with_label_values::<&str>(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        metrics.late.with_label_values(&["<length, such as 1m>"]);
        for kind in [
            Published::AlertCreated,
            Published::AlertCleared,
            Published::WindowSealed,
        ] {
            metrics.published("<Kafka topic>", kind);
        }
        iot_service::metrics::reference::check("consumer", &registry);
    }
}
