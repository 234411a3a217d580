//! What the bridge counts.

use std::collections::HashMap;

use iot_core::route::RouteError;
use iot_service::metrics::Registrar;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry,
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
    pub(crate) dropped: IntCounter,
    pub(crate) acknowledged: IntCounter,
    pub(crate) not_acknowledged: IntCounter,
    pub(crate) connections: IntCounter,
    pub(crate) sessions_lost: IntCounter,
    pub(crate) produced: IntCounter,
    pub(crate) retries: IntCounter,
    pub(crate) write_latency: Histogram,
    pub(crate) deduplicated: Deduplicated,
    refused: HashMap<Refusal, IntCounter>,
    tenants: IntCounterVec,
    sessions: Sessions,
}

/// Messages that were acknowledged and not written, by how it is known that
/// Kafka has them.
#[derive(Debug, Clone)]
pub(crate) struct Deduplicated {
    /// Delivered again while this process had them in its hands.
    pub(crate) in_flight: IntCounter,
    /// Delivered again, and an earlier process had written them.
    pub(crate) in_log: IntCounter,
    /// Their payloads name them like earlier ones.
    pub(crate) message_id: IntCounter,
}

#[derive(Debug, Clone)]
struct Sessions {
    connected: IntGaugeVec,
    in_flight: IntGaugeVec,
    in_flight_bytes: IntGaugeVec,
    oldest: GaugeVec,
    paused: IntGaugeVec,
    stalled: IntGaugeVec,
    topics: IntGaugeVec,
}

/// What one MQTT session is like now.
#[derive(Debug, Clone)]
pub(crate) struct SessionGauges {
    pub(crate) connected: IntGauge,
    pub(crate) in_flight: IntGauge,
    pub(crate) in_flight_bytes: IntGauge,
    /// Seconds.
    pub(crate) oldest: Gauge,
    pub(crate) paused: IntGauge,
    pub(crate) stalled: IntGauge,
    pub(crate) topics: IntGauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let registrar = Registrar(registry);
        let counter = |name: &str, help: &str| registrar.counter(name, help);
        let refused = registrar.counters(
            "message_processing_errors_total",
            "Messages sent to the dead-letter topic, by reason.",
            &["reason"],
        )?;
        let deduplicated = registrar.counters(
            "bridge_deduplicated_messages_total",
            "Messages acknowledged and not written, because Kafka has them, by how that is known.",
            &["by"],
        )?;
        let latency = HistogramOpts::new(
            "kafka_write_latency_seconds",
            "From the arrival of a message to its confirmation by Kafka.",
        )
        .buckets(prometheus::exponential_buckets(0.001, 1.5, 24)?);
        Ok(Self {
            received: counter("mqtt_messages_received_total", "Messages from MQTT.")?,
            received_bytes: counter("mqtt_received_bytes_total", "Payload bytes from MQTT.")?,
            redelivered: counter("mqtt_redeliveries_total", "Messages marked DUP.")?,
            dropped: counter(
                "bridge_dropped_messages_total",
                "Messages of QoS 0 dropped because in_flight was used up.",
            )?,
            acknowledged: counter(
                "mqtt_acknowledgements_total",
                "Messages acknowledged to MQTT.",
            )?,
            not_acknowledged: counter(
                "mqtt_unacknowledged_total",
                "Messages confirmed by Kafka after their connection was gone: the broker sends them again.",
            )?,
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
                "Messages confirmed by Kafka.",
            )?,
            retries: counter(
                "kafka_retries_total",
                "Records given to the producer again.",
            )?,
            write_latency: registrar.register(Histogram::with_opts(latency)?)?,
            deduplicated: Deduplicated {
                in_flight: deduplicated.with_label_values(&["in_flight"]),
                in_log: deduplicated.with_label_values(&["log"]),
                message_id: deduplicated.with_label_values(&["message_id"]),
            },
            refused: Refusal::all()
                .map(|reason| (reason, refused.with_label_values(&[reason.as_str()])))
                .collect(),
            tenants: registrar.counters(
                "bridge_tenant_messages_total",
                "Messages routed, by tenant: those above metrics.tenants as \"other\".",
                &["tenant"],
            )?,
            sessions: Sessions::new(&registrar)?,
        })
    }

    pub(crate) fn refused(&self, reason: Refusal) {
        if let Some(counter) = self.refused.get(&reason) {
            counter.inc();
        }
    }

    /// The counter of a tenant's messages.
    pub(crate) fn tenant(&self, name: &str) -> IntCounter {
        self.tenants.with_label_values(&[name])
    }

    /// The gauges of a session, by its client id.
    pub(crate) fn session(&self, client_id: &str) -> SessionGauges {
        let gauge = |gauges: &IntGaugeVec| gauges.with_label_values(&[client_id]);
        let sessions = &self.sessions;
        SessionGauges {
            connected: gauge(&sessions.connected),
            in_flight: gauge(&sessions.in_flight),
            in_flight_bytes: gauge(&sessions.in_flight_bytes),
            oldest: sessions.oldest.with_label_values(&[client_id]),
            paused: gauge(&sessions.paused),
            stalled: gauge(&sessions.stalled),
            topics: gauge(&sessions.topics),
        }
    }
}

impl Sessions {
    fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        let gauges = |name: &str, help: &str| registrar.int_gauges(name, help, &["session"]);
        Ok(Self {
            connected: gauges("mqtt_connection_status", "1 while subscribed at a broker.")?,
            in_flight: gauges(
                "bridge_in_flight_messages",
                "Messages not acknowledged yet.",
            )?,
            in_flight_bytes: gauges(
                "bridge_in_flight_bytes",
                "Memory of messages not acknowledged yet.",
            )?,
            oldest: registrar.gauges(
                "bridge_oldest_unconfirmed_seconds",
                "Age of the oldest message that Kafka has not confirmed.",
                &["session"],
            )?,
            paused: gauges(
                "bridge_paused",
                "1 while the MQTT socket is not read, to bound memory.",
            )?,
            stalled: gauges(
                "bridge_stalled",
                "1 while the oldest message waits too long for Kafka.",
            )?,
            topics: gauges("bridge_topics", "Kafka topics opened.")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_in_the_reference() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.session("<client id>");
        metrics.tenant("<its name>");
        metrics.tenant("other");
        iot_service::metrics::reference::check("bridge", &registry);
    }
}
