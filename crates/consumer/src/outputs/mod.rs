//! Events for other programs in Kafka: alerts that are raised or cleared, and windows that
//! are sealed.
//!
//! Kafka confirms them before the offset moves, and their ids follow from the log alone: a
//! crash may repeat an event, and never loses one.

mod metrics;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use iot_core::headers;
use iot_core::partition::TopicPartition;
use iot_fold::{Alert, AlertStatus, DeviceKey, Sealed, WindowSummary};
use iot_kafka::context::Lasting;
use iot_kafka::topics::Topic;
use iot_service::Backoff;
use iot_service::health::Component;
use jiff::Timestamp;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Serialize;
use serde_json::json;
use twox_hash::XxHash3_128;

use crate::config::OutputsConfig;
use crate::kafka::{self, Queued};
use crate::readiness::SharedReadiness;
pub(crate) use metrics::{OutputsMetrics, Published};

/// Produces events. Clones share one producer.
#[derive(Clone)]
pub(crate) struct Outputs {
    producer: FutureProducer<Lasting>,
    /// Topic for alerts; `None` turns them off.
    alerts: Option<Arc<str>>,
    /// Topic for sealed windows; `None` turns them off.
    windows: Option<Arc<str>>,
    metrics: OutputsMetrics,
    readiness: SharedReadiness,
}

/// An event and its headers.
#[derive(Debug)]
pub(crate) struct OutputEvent {
    topic: Arc<str>,
    kind: Published,
    key: String,
    id: String,
    source: String,
    time: String,
    payload: Vec<u8>,
}

/// Events in flight, in their order.
#[derive(Default)]
pub(crate) struct Waiting(VecDeque<(OutputEvent, Queued)>);

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The JSON of an event.
#[derive(Debug, Serialize)]
struct Envelope<'n, T> {
    id: &'n str,
    #[serde(rename = "type")]
    kind: &'n str,
    source: &'n str,
    timestamp: &'n str,
    data: T,
}

impl OutputEvent {
    fn new(
        topic: &Arc<str>,
        kind: Published,
        key: String,
        read: &TopicPartition,
        (name, time): (&str, i64),
        data: impl Serialize,
    ) -> Self {
        let id = uuid(name);
        let source = format!("/iot-consumer/{}/{}", read.topic, read.partition);
        let time = Timestamp::from_millisecond(time).unwrap_or_default();
        let time = time.to_string();
        let envelope = Envelope {
            id: &id,
            kind: kind.label(),
            source: &source,
            timestamp: &time,
            data,
        };
        Self {
            topic: topic.clone(),
            kind,
            key,
            // Texts and numbers can always be written as JSON.
            payload: serde_json::to_vec(&envelope).unwrap_or_default(),
            id,
            source,
            time,
        }
    }

    /// The headers of CloudEvents 1.0, Kafka binding, binary mode.
    fn headers(&self) -> OwnedHeaders {
        let all = [
            (headers::CONTENT_TYPE, headers::APPLICATION_JSON),
            ("ce_specversion", "1.0"),
            ("ce_id", &self.id),
            ("ce_type", self.kind.label()),
            ("ce_source", &self.source),
            ("ce_time", &self.time),
        ];
        let mut headers = OwnedHeaders::new();
        for (key, value) in all {
            let value = Some(value);
            headers = headers.insert(Header { key, value });
        }
        headers
    }

    /// Its size, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.len() + self.key.len()
    }
}

impl Outputs {
    pub(crate) fn new(
        config: &OutputsConfig,
        producer: FutureProducer<Lasting>,
        metrics: OutputsMetrics,
        health: Component,
    ) -> Self {
        let topic = |name: &str| (!name.is_empty()).then(|| name.into());
        health.ready();
        Self {
            producer,
            alerts: topic(&config.alerts),
            windows: topic(&config.windows),
            metrics,
            readiness: SharedReadiness::new(health),
        }
    }

    /// The topics that are needed.
    pub(crate) fn topics(config: &OutputsConfig) -> Vec<Topic> {
        let names = [&config.alerts, &config.windows];
        let names = names.into_iter().filter(|name| !name.is_empty());
        let topic = |name: &String| Topic {
            name: name.clone(),
            partitions: config.partitions,
            replication: config.replication,
            configs: BTreeMap::new(),
        };
        names.map(topic).collect()
    }

    /// The event of a change of an alert; `None` if the alert only repeats.
    pub(crate) fn alert(&self, partition: &TopicPartition, alert: &Alert) -> Option<OutputEvent> {
        let topic = self.alerts.as_ref()?;
        let (kind, what) = match alert.state {
            AlertStatus::Raised if alert.count > 1 => return None,
            AlertStatus::Raised => (Published::AlertCreated, "raised"),
            AlertStatus::Cleared => (Published::AlertCleared, "cleared"),
        };
        let key = key(&alert.key);
        let name = format!("{}:{what}", alert.id);
        let about = (name.as_str(), alert.timestamp);
        Some(OutputEvent::new(topic, kind, key, partition, about, alert))
    }

    /// The event of windows that were sealed together.
    pub(crate) fn windows(
        &self,
        partition: &TopicPartition,
        sealed: &Sealed,
    ) -> Option<OutputEvent> {
        let topic = self.windows.as_ref()?;
        let Sealed {
            key: device,
            size,
            start,
            ..
        } = sealed;
        let sensors: BTreeMap<&str, WindowSummary> = sealed
            .summaries()
            .map(|(sensor, window)| (&**sensor, window))
            .collect();
        let data = json!({
            "tenant": device.tenant,
            "project": device.project,
            "device": device.device,
            "size_ms": size,
            "start": start,
            "end": sealed.end(),
            "sensors": sensors,
        });
        let key = key(device);
        let (topic_read, number) = partition.parts();
        let name = format!("{topic_read}:{number}:{key}:{size}:{start}");
        let about = (name.as_str(), sealed.end());
        let kind = Published::WindowSealed;
        Some(OutputEvent::new(topic, kind, key, partition, about, data))
    }

    /// Hands an event to the producer, after those in `waiting`.
    pub(crate) fn produce(&self, waiting: &mut Waiting, event: OutputEvent) {
        let queued = self.queue(&event);
        waiting.0.push_back((event, queued));
    }

    /// Returns when Kafka has confirmed all events. Retries without limit, because the offset
    /// must not pass them. After a failure that event and all behind it are produced again,
    /// so that they keep their order.
    pub(crate) async fn confirm(&self, waiting: &mut Waiting) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut operation = None;
        while let Some((event, queued)) = waiting.0.pop_front() {
            let Err(error) = kafka::written(queued).await else {
                self.metrics.published(&event.topic, event.kind);
                continue;
            };
            let operation = operation.get_or_insert_with(|| self.readiness.begin());
            operation.report(format!(
                "can't write to {} (outputs), and nothing is processed meanwhile: {error}",
                event.topic
            ));
            tokio::time::sleep(backoff.next_delay()).await;
            let queued = self.queue(&event);
            waiting.0.push_front((event, queued));
            for (event, queued) in waiting.0.iter_mut().skip(1) {
                *queued = self.queue(event);
            }
        }
    }

    fn queue(&self, event: &OutputEvent) -> Queued {
        let record = FutureRecord::<str, [u8]>::to(&event.topic)
            .key(event.key.as_str())
            .payload(&event.payload)
            .headers(event.headers());
        self.producer
            .send_result(record)
            .map_err(|(error, _)| error)
    }
}

/// The record key: all events of a device are in one partition.
fn key(device: &DeviceKey) -> String {
    let DeviceKey {
        tenant,
        project,
        device,
    } = device;
    format!("{tenant}/{project}/{device}")
}

/// A UUID of version 8 (RFC 9562) that depends on the name only.
fn uuid(name: &str) -> String {
    let hash = XxHash3_128::oneshot(name.as_bytes());
    let version = (hash & !(0xf << 76)) | (0x8 << 76);
    let digits = format!("{:032x}", (version & !(0x3 << 62)) | (0x2 << 62));
    let part = |from: usize, to: usize| &digits[from..to];
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use iot_core::message::parse;
    use iot_service::health::Health;
    use iot_service::metrics::Registrar;
    use prometheus::Registry;

    use super::*;
    use crate::config::ConsumerConfig;
    use crate::dead_letter::{DeadLetterMetrics, DeadLetters};
    use iot_fold::{Event, Fold, Folded};

    fn outputs(config: &ConsumerConfig) -> Outputs {
        let metrics = DeadLetterMetrics::new(&Registrar(&Registry::new())).unwrap();
        let health = Health::default();
        let letters = health.component("dead_letter");
        let letters =
            DeadLetters::new(&config.kafka, &config.dead_letter, metrics, letters).unwrap();
        let producer = letters.producer();
        Outputs::new(
            &config.outputs,
            producer,
            OutputsMetrics::new(&Registrar(&Registry::new())).unwrap(),
            health.component("outputs"),
        )
    }

    fn text(event: &OutputEvent) -> String {
        let payload = std::str::from_utf8(&event.payload).unwrap();
        format!("{} {} {payload}", event.key, event.time)
    }

    /// Other programs rely on ids and fields, and find duplicates by both.
    #[tokio::test]
    async fn events_keep_their_json_and_ids() {
        let mut config = ConsumerConfig::default();
        config.outputs.alerts = "alert-events".into();
        config.outputs.windows = "device-aggregates".into();
        let outputs = outputs(&config);
        let partition = TopicPartition::new("device-data", 3);
        let mut fold = Fold::new(config.fold_rules(), "device-data", 3);
        let begin = 1_767_225_600_000_i64;
        for (offset, (seconds, value)) in
            (40..).zip([(1, 20.0), (7, 55.5), (31, 20.25), (95, 21.0)])
        {
            let json = format!(
                r#"{{"device_id":"d","timestamp":{},"readings":[
                    {{"sensor":"temperature","value":{value},"unit":"celsius"}},
                    {{"sensor":"humidity","value":{}}}]}}"#,
                begin + seconds * 1_000,
                value * 2.0
            );
            let message = parse(json.as_bytes()).unwrap();
            let event = Event {
                offset,
                recorded: Some(message.timestamp),
                tenant: "acme",
                project: "plant",
                message: &message,
                is_undated: false,
                unmatched: &[],
            };
            fold.apply(&event, &mut Folded::default()).unwrap();
        }
        let updates = fold.take_updates();
        let alerts = updates.alerts.iter();
        let alerts = alerts.filter_map(|(_, alert)| outputs.alert(&partition, alert));
        let changes = fold.take_changes();
        let windows = changes.windows.iter();
        let windows = windows.filter_map(|sealed| outputs.windows(&partition, sealed));
        let told: Vec<_> = alerts.chain(windows).map(|event| text(&event)).collect();
        assert_eq!(told.join("\n") + "\n", include_str!("golden.txt"));
    }

    #[test]
    fn ids_follow_from_names() {
        let id = uuid("device-data:3:42:temperature:threshold:raised");
        assert_eq!(id, uuid("device-data:3:42:temperature:threshold:raised"));
        assert_ne!(id, uuid("device-data:3:42:temperature:threshold:cleared"));
        let parts: Vec<&str> = id.split('-').collect();
        assert_eq!(
            parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
        assert!(
            parts[2].starts_with('8') && "89ab".contains(&parts[3][..1]),
            "{id}"
        );
    }
}
