//! The metrics of the bridge.

use std::collections::HashMap;

use iot_service::metrics::Registrar;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry,
};

use crate::refusal::Refusal;

/// All metrics of one bridge.
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

/// Duplicates that were acknowledged and not written, by how they were recognised.
#[derive(Debug, Clone)]
pub(crate) struct Deduplicated {
    /// Redeliveries of messages that this process received.
    pub(crate) in_flight: IntCounter,
    /// Redeliveries of messages that an earlier process wrote.
    pub(crate) in_log: IntCounter,
    /// Messages with the id of an earlier one in the payload.
    pub(crate) message_id: IntCounter,
}

#[derive(Debug, Clone)]
struct Sessions {
    connected: IntGaugeVec,
    refused_filters: IntGaugeVec,
    in_flight: IntGaugeVec,
    in_flight_bytes: IntGaugeVec,
    oldest: GaugeVec,
    paused: IntGaugeVec,
    stalled: IntGaugeVec,
    topics: IntGaugeVec,
}

/// The gauges of one MQTT session.
#[derive(Debug, Clone)]
pub(crate) struct SessionGauges {
    pub(crate) connected: IntGauge,
    pub(crate) refused_filters: IntGauge,
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
            "Duplicates, which are acknowledged and not written, by how they were recognised.",
            &["by"],
        )?;
        let latency = HistogramOpts::new(
            "kafka_write_latency_seconds",
            "Time from the arrival of a message to its confirmation by Kafka.",
        )
        .buckets(prometheus::exponential_buckets(0.001, 1.5, 24)?);
        Ok(Self {
            received: counter(
                "mqtt_messages_received_total",
                "Messages received from MQTT.",
            )?,
            received_bytes: counter(
                "mqtt_received_bytes_total",
                "Payload bytes received from MQTT.",
            )?,
            redelivered: counter(
                "mqtt_redeliveries_total",
                "Messages received with the DUP flag.",
            )?,
            dropped: counter(
                "bridge_dropped_messages_total",
                "QoS 0 messages dropped because in_flight was exhausted.",
            )?,
            acknowledged: counter(
                "mqtt_acknowledgements_total",
                "Messages acknowledged to MQTT.",
            )?,
            not_acknowledged: counter(
                "mqtt_unacknowledged_total",
                "Messages confirmed by Kafka after their connection was lost; the broker redelivers them.",
            )?,
            connections: counter(
                "mqtt_connections_total",
                "Connections established to MQTT brokers.",
            )?,
            sessions_lost: counter(
                "mqtt_sessions_lost_total",
                "Reconnects to a broker that had lost the session and the messages queued in it.",
            )?,
            produced: counter(
                "kafka_messages_produced_total",
                "Messages confirmed by Kafka.",
            )?,
            retries: counter("kafka_retries_total", "Records retried by the bridge.")?,
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
                "Messages routed, by tenant; tenants beyond metrics.tenants count as \"other\".",
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
            refused_filters: gauge(&sessions.refused_filters),
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
            connected: gauges(
                "mqtt_connection_status",
                "Whether the session is subscribed at a broker, 0 or 1.",
            )?,
            refused_filters: gauges(
                "mqtt_refused_filters",
                "Filters whose subscription the MQTT broker refuses; each is retried.",
            )?,
            in_flight: gauges(
                "bridge_in_flight_messages",
                "Messages in flight: received and not acknowledged.",
            )?,
            in_flight_bytes: gauges(
                "bridge_in_flight_bytes",
                "Memory of the messages in flight, in bytes.",
            )?,
            oldest: registrar.gauges(
                "bridge_oldest_unconfirmed_seconds",
                "Age of the oldest message that Kafka has not confirmed.",
                &["session"],
            )?,
            paused: gauges(
                "bridge_paused",
                "Whether reading from the MQTT socket is paused to bound memory, 0 or 1.",
            )?,
            stalled: gauges(
                "bridge_stalled",
                "Whether the oldest message has waited for Kafka for longer than kafka.stalled_after, 0 or 1.",
            )?,
            topics: gauges("bridge_topics", "Kafka topics that the session has opened.")?,
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
