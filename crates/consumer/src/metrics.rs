//! The metrics of all modules.

use iot_auth::AuthMetrics;
use iot_live::http::HttpMetrics;
use iot_live::hub::HubMetrics;
use iot_service::metrics::Registrar;
use prometheus::Registry;

use crate::dead_letter::DeadLetterMetrics;
use crate::follower::FollowerMetrics;
use crate::kafka::KafkaMetrics;
use crate::outputs::OutputsMetrics;
use crate::owner::OwnerMetrics;
use crate::store::StoreMetrics;
use crate::webhook::WebhookMetrics;

/// Queues between the parts of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// Records on their way to the owners of partitions.
    Partitions,
    /// What owners tell the hub, in messages.
    Hub,
    /// Alerts on their way to the webhook, not yet grouped.
    Webhook,
}

impl Queue {
    fn label(self) -> &'static str {
        match self {
            Self::Partitions => "partitions",
            Self::Hub => "hub",
            Self::Webhook => "webhook",
        }
    }
}

/// All metrics of one consumer, by the module that counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) owner: OwnerMetrics,
    pub(crate) followers: FollowerMetrics,
    pub(crate) outputs: OutputsMetrics,
    pub(crate) store: StoreMetrics,
    pub(crate) webhook: WebhookMetrics,
    pub(crate) kafka: KafkaMetrics,
    pub(crate) dead_letter: DeadLetterMetrics,
    pub(crate) hub: HubMetrics,
    pub(crate) http: HttpMetrics,
    pub(crate) auth: AuthMetrics,
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
        let queue = |queue: Queue| queues.with_label_values(&[queue.label()]);
        Ok(Self {
            owner: OwnerMetrics::new(&registrar)?,
            followers: FollowerMetrics::new(&registrar)?,
            outputs: OutputsMetrics::new(&registrar)?,
            store: StoreMetrics::new(&registrar)?,
            webhook: WebhookMetrics::new(&registrar, queue(Queue::Webhook))?,
            kafka: KafkaMetrics::new(&registrar, queue(Queue::Partitions))?,
            dead_letter: DeadLetterMetrics::new(&registrar)?,
            hub: HubMetrics::new(&registrar, queue(Queue::Hub))?,
            http: HttpMetrics::new(&registrar)?,
            auth: AuthMetrics::new(&registrar)?,
        })
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
            "iot_websocket_closed_total{connection=\"websocket\",reason=\"slow\"} 0",
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
        metrics.kafka.lag.of("<Kafka topic>", "<its number>");
        metrics
            .kafka
            .open_transaction("<Kafka topic>", "<its number>");
        metrics.followers.lag.of("<Kafka topic>", "<its number>");
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
