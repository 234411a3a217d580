//! What the bridge counts.

use std::collections::HashMap;

use iot_core::route::RouteError;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
};

/// Why a message went to the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// The routing rules refuse its MQTT topic; the text is their reason.
    Route(&'static str),
    /// Its MQTT topic is not UTF-8.
    TopicNotUtf8,
    /// Its Kafka topic differs from another one only in `.` and `_`.
    TopicCollision,
    /// Its tenant has as many topics as it may have.
    TopicLimit,
    /// Kafka refuses the topic's name or settings.
    TopicRefused,
    /// There is no such topic, and the bridge may not create it.
    UnknownTopic,
    /// Kafka does not let the bridge write there.
    NotAuthorized,
    /// Larger than the configured limit, or than the topic takes.
    TooLarge,
    /// Kafka refuses the record itself.
    InvalidRecord,
}

impl Refusal {
    /// The value of the `dlq-reason` header and of the `reason` label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Route(reason) => reason,
            Self::TopicNotUtf8 => "topic_not_utf8",
            Self::TopicCollision => "topic_collision",
            Self::TopicLimit => "topic_limit",
            Self::TopicRefused => "topic_refused",
            Self::UnknownTopic => "unknown_topic",
            Self::NotAuthorized => "not_authorized",
            Self::TooLarge => "too_large",
            Self::InvalidRecord => "invalid_record",
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let own = [
            Self::TopicNotUtf8,
            Self::TopicCollision,
            Self::TopicLimit,
            Self::TopicRefused,
            Self::UnknownTopic,
            Self::NotAuthorized,
            Self::TooLarge,
            Self::InvalidRecord,
        ];
        RouteError::REASONS
            .iter()
            .map(|reason| Self::Route(reason))
            .chain(own)
    }
}

/// The metrics of one bridge.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) received: IntCounter,
    pub(crate) received_bytes: IntCounter,
    pub(crate) redelivered: IntCounter,
    pub(crate) acknowledged: IntCounter,
    pub(crate) not_acknowledged: IntCounter,
    pub(crate) connected: IntGauge,
    pub(crate) connections: IntCounter,
    pub(crate) sessions_lost: IntCounter,
    pub(crate) produced: IntCounter,
    pub(crate) retries: IntCounter,
    pub(crate) write_latency: Histogram,
    pub(crate) in_flight: IntGauge,
    pub(crate) in_flight_bytes: IntGauge,
    pub(crate) paused: IntGauge,
    pub(crate) stalled: IntGauge,
    pub(crate) topics: IntGauge,
    refused: HashMap<Refusal, IntCounter>,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let refused = IntCounterVec::new(
            Opts::new(
                "message_processing_errors_total",
                "Messages sent to the dead-letter topic, by reason.",
            ),
            &["reason"],
        )?;
        let refused = register(registry, refused)?;
        let latency = HistogramOpts::new(
            "kafka_write_latency_seconds",
            "From the arrival of a message to its confirmation by Kafka.",
        )
        .buckets(prometheus::exponential_buckets(0.001, 2.0, 15)?);
        Ok(Self {
            received: counter("mqtt_messages_received_total", "Messages from MQTT.")?,
            received_bytes: counter("mqtt_received_bytes_total", "Payload bytes from MQTT.")?,
            redelivered: counter("mqtt_redeliveries_total", "Messages marked DUP.")?,
            acknowledged: counter(
                "mqtt_acknowledgements_total",
                "Messages acknowledged to MQTT.",
            )?,
            not_acknowledged: counter(
                "mqtt_unacknowledged_total",
                "Messages confirmed by Kafka after their connection was gone: the broker sends them again.",
            )?,
            connected: gauge("mqtt_connection_status", "1 while subscribed at a broker.")?,
            connections: counter(
                "mqtt_connections_total",
                "Connections made to MQTT brokers.",
            )?,
            sessions_lost: counter(
                "mqtt_sessions_lost_total",
                "Reconnects at which the broker had no session any more: what it held is lost.",
            )?,
            produced: counter(
                "kafka_messages_produced_total",
                "Records confirmed by Kafka.",
            )?,
            retries: counter(
                "kafka_retries_total",
                "Records given to the producer again.",
            )?,
            write_latency: register(registry, Histogram::with_opts(latency)?)?,
            in_flight: gauge(
                "bridge_in_flight_messages",
                "Messages not acknowledged yet.",
            )?,
            in_flight_bytes: gauge(
                "bridge_in_flight_bytes",
                "Memory of messages not acknowledged yet.",
            )?,
            paused: gauge(
                "bridge_paused",
                "1 while the MQTT socket is not read, to bound memory.",
            )?,
            stalled: gauge(
                "bridge_stalled",
                "1 while the oldest message waits too long for Kafka.",
            )?,
            topics: gauge("bridge_topics", "Kafka topics opened.")?,
            refused: Refusal::all()
                .map(|reason| (reason, refused.with_label_values(&[reason.as_str()])))
                .collect(),
        })
    }

    pub(crate) fn refused(&self, reason: Refusal) {
        if let Some(counter) = self.refused.get(&reason) {
            counter.inc();
        }
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
