//! Metrics of the live view.

use std::time::Duration;

use iot_service::metrics::Registrar;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tokio::time::Instant;

use super::Times;
use crate::channel::Kind;

/// What the hub counts and measures. Clones share the metrics.
#[derive(Debug, Clone)]
pub struct HubMetrics {
    pub(super) devices: IntGauge,
    pub(super) rate: Gauge,
    queue: IntGauge,
    subscriptions: IntGaugeVec,
    frames: IntCounterVec,
    bytes: IntCounterVec,
    pub(super) conflated: IntCounter,
    skipped: IntCounter,
    waiting: IntGauge,
    oldest: Gauge,
    outcomes: IntCounterVec,
    from_record: Histogram,
    from_arrival: Histogram,
}

/// How a subscription began.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Snapshot,
    Recovered,
    /// It asked for what it missed, and got a snapshot.
    Expired,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Snapshot, Self::Recovered, Self::Expired];

    fn label(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Recovered => "recovered",
            Self::Expired => "expired",
        }
    }
}

const KINDS: [Kind; 4] = [Kind::Readings, Kind::Devices, Kind::Alerts, Kind::Stats];

fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Readings => "readings",
        Kind::Devices => "devices",
        Kind::Alerts => "alerts",
        Kind::Stats => "stats",
    }
}

/// From a millisecond to ten seconds.
const LATENCIES: [f64; 13] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

impl HubMetrics {
    /// Registers them, except the queue: it is in a family of all queues.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(registrar: &Registrar<'_>, queue: IntGauge) -> prometheus::Result<Self> {
        let by_kind = &["kind"];
        let metrics = Self {
            devices: registrar.int_gauge("iot_devices", "Devices in the partitions shown")?,
            rate: registrar.gauge(
                "iot_messages_per_second",
                "Messages processed in the last second",
            )?,
            queue,
            subscriptions: registrar.int_gauges(
                "iot_push_subscriptions",
                "Subscriptions of clients, by kind of channel",
                by_kind,
            )?,
            frames: registrar.counters(
                "iot_push_frames_total",
                "Publications handed to clients, by kind of channel",
                by_kind,
            )?,
            bytes: registrar.counters(
                "iot_push_bytes_total",
                "Bytes of publications handed to clients, by kind of channel",
                by_kind,
            )?,
            conflated: registrar.counter(
                "iot_push_conflated_total",
                "Publications that were conflated for a client without room for them",
            )?,
            skipped: registrar.counter(
                "iot_push_skipped_total",
                "Changes that later ones replaced before clients got them",
            )?,
            waiting: registrar.int_gauge("iot_push_queue_bytes", "Bytes that wait for clients")?,
            oldest: registrar.gauge(
                "iot_push_oldest_pending_seconds",
                "Age of the oldest change that waits to be sent",
            )?,
            outcomes: registrar.counters(
                "iot_push_subscribed_total",
                "Subscriptions that began, by what the client got first",
                &["outcome"],
            )?,
            from_record: registrar.histogram(
                "iot_push_latency_seconds",
                "Time from the timestamp of a record to the queue of the client",
                &LATENCIES,
            )?,
            from_arrival: registrar.histogram(
                "iot_push_hub_seconds",
                "Time from the arrival of a record to the queue of the client",
                &LATENCIES,
            )?,
        };
        for kind in KINDS.map(label) {
            metrics.subscriptions.with_label_values(&[kind]);
            metrics.frames.with_label_values(&[kind]);
            metrics.bytes.with_label_values(&[kind]);
        }
        for outcome in Outcome::ALL {
            metrics.outcomes.with_label_values(&[outcome.label()]);
        }
        Ok(metrics)
    }

    pub(super) fn subscribed(&self, kind: Kind, more: i64) {
        self.subscriptions
            .with_label_values(&[label(kind)])
            .add(more);
    }

    pub(super) fn began(&self, outcome: Outcome) {
        self.outcomes.with_label_values(&[outcome.label()]).inc();
    }

    /// Counts frames to clients, and their bytes.
    pub(super) fn framed(&self, kind: Kind, (frames, bytes): (usize, usize)) {
        let label = &[label(kind)];
        self.frames.with_label_values(label).inc_by(frames as u64);
        let bytes = bytes as u64;
        self.bytes.with_label_values(label).inc_by(bytes);
    }

    pub(super) fn skipped(&self, changes: u64, clients: usize) {
        self.skipped.inc_by(changes * clients as u64);
    }

    /// Measures the oldest change of a publication that is handed over now.
    pub(super) fn sent(&self, times: Times) {
        let arrived = Instant::now().saturating_duration_since(times.arrived);
        self.from_arrival.observe(arrived.as_secs_f64());
        if let Some(recorded) = times.recorded {
            let late = jiff::Timestamp::now()
                .as_millisecond()
                .saturating_sub(recorded);
            // Clocks differ.
            self.from_record.observe(late.max(0) as f64 / 1_000.0);
        }
    }

    pub(super) fn waits(&self, bytes: usize, oldest: Duration) {
        self.waiting.set(bytes as i64);
        self.oldest.set(oldest.as_secs_f64());
    }

    pub(super) fn queued(&self, messages: usize) {
        self.queue.set(messages as i64);
    }
}
