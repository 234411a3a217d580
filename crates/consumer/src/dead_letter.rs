//! Messages that can't be used go to the dead-letter topic as they came, with
//! the reason and their origin in headers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_core::headers;
use iot_service::Backoff;
use iot_service::health::Component;
use jiff::Timestamp;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use tokio_util::sync::CancellationToken;

use crate::config::{DeadLetterConfig, KafkaConfig};
use crate::kafka;
use crate::kafka::context::Quiet;
use crate::metrics::Metrics;
use crate::record::Record;
use crate::refusal::Refusal;

/// Largest record that the topic takes when this service creates it.
const MAX_RECORD: usize = 8 << 20;
/// Room for key, headers and framing of a record.
const OVERHEAD: usize = 64 << 10;
/// What is kept of a payload that is too large.
const KEPT: usize = 64 << 10;
/// Size of the original payload in bytes, where only its begin was kept.
const DLQ_SIZE: &str = "dlq-size";
/// The sensor that is to blame, where it is one.
const DLQ_SENSOR: &str = "dlq-sensor";

/// How long one try may take.
const TRY: Duration = Duration::from_secs(30);

/// Writes dead letters. Clones share one producer.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    producer: FutureProducer<Quiet>,
    topic: Arc<str>,
    metrics: Arc<Metrics>,
    health: Component,
}

/// A message on its way to the dead-letter topic.
#[derive(Debug)]
pub(crate) struct Letter {
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    /// Size of the payload before it was cut.
    size: usize,
    headers: OwnedHeaders,
}

impl Letter {
    /// Copies what has to be kept of a record of `topic`, `partition`.
    pub(crate) fn new(origin: (&str, i32), record: &Record<'_>, refusal: &Refusal) -> Self {
        let time = Timestamp::now().as_millisecond().to_string();
        let (partition, offset) = (origin.1.to_string(), record.offset().to_string());
        let mut all = OwnedHeaders::new();
        // Ours can't be set by a producer.
        for (key, value) in record.headers().filter(|(key, _)| !key.starts_with("dlq-")) {
            all = all.insert(Header { key, value });
        }
        for (key, value) in [
            (headers::DLQ_REASON, refusal.reason()),
            (headers::DLQ_TOPIC, origin.0),
            (headers::DLQ_PARTITION, &partition),
            (headers::DLQ_OFFSET, &offset),
            (headers::DLQ_TIME, &time),
        ] {
            all = all.insert(Header {
                key,
                value: Some(value),
            });
        }
        if let Some(sensor) = refusal.sensor() {
            all = all.insert(Header {
                key: DLQ_SENSOR,
                value: Some(sensor),
            });
        }
        let mut letter = Self {
            key: record.key().map(<[u8]>::to_vec),
            payload: record.payload().map(<[u8]>::to_vec),
            size: record.payload().map_or(0, <[u8]>::len),
            headers: all,
        };
        if letter.size > MAX_RECORD - OVERHEAD {
            letter.cut();
        }
        letter
    }

    /// Bytes it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, Vec::len) + self.key.as_ref().map_or(0, Vec::len)
    }

    fn is_cut(&self) -> bool {
        self.payload
            .as_ref()
            .is_some_and(|payload| payload.len() < self.size)
    }

    /// Keeps the begin of the payload only, and its size.
    fn cut(&mut self) {
        if let Some(payload) = &mut self.payload {
            payload.truncate(KEPT);
        }
        let headers = std::mem::replace(&mut self.headers, OwnedHeaders::new());
        let size = self.size.to_string();
        self.headers = headers.insert(Header {
            key: DLQ_SIZE,
            value: Some(&size),
        });
    }
}

impl DeadLetters {
    /// # Errors
    /// The properties make no producer.
    pub(crate) fn new(
        kafka: &KafkaConfig,
        config: &DeadLetterConfig,
        metrics: Arc<Metrics>,
        health: Component,
    ) -> anyhow::Result<Self> {
        let mut client = kafka::producer_config(kafka);
        for (name, value) in [
            ("client.id", "iot-consumer-dead-letter"),
            ("acks", "all"),
            ("linger.ms", "5"),
            ("message.timeout.ms", &TRY.as_millis().to_string()),
            ("message.max.bytes", &MAX_RECORD.to_string()),
        ] {
            client.set(name, value);
        }
        let producer = client
            .create_with_context(Quiet)
            .context("creating the producer of dead letters")?;
        health.ready();
        Ok(Self {
            producer,
            topic: config.topic.as_str().into(),
            metrics,
            health,
        })
    }

    /// Writes a letter; returns once Kafka has confirmed it. Tries for as long
    /// as it takes, because the offset must not move past a message that would
    /// then be nowhere.
    pub(crate) async fn deliver(self, mut letter: Letter) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match self.send(&letter).await {
                Ok(()) => break,
                // The topic was created by others with a smaller limit.
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge))
                    if letter.bytes() > KEPT && !letter.is_cut() =>
                {
                    letter.cut();
                }
                Err(error) => {
                    self.metrics.dead_letter_retries.inc();
                    self.health
                        .not_ready(format!("can't write to {}: {error}", self.topic));
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
        self.health.ready();
        self.metrics.dead_letters.inc();
        if letter.is_cut() {
            self.metrics.dead_letters_cut.inc();
        }
    }

    async fn send(&self, letter: &Letter) -> Result<(), KafkaError> {
        let mut record =
            FutureRecord::<[u8], [u8]>::to(&self.topic).headers(letter.headers.clone());
        if let Some(key) = &letter.key {
            record = record.key(key);
        }
        if let Some(payload) = &letter.payload {
            record = record.payload(payload);
        }
        let sent = self.producer.send(record, TRY).await;
        sent.map(drop).map_err(|(error, _)| error)
    }

    /// First offset kept and end of a partition; blocks up to `deadline`.
    ///
    /// # Errors
    /// Kafka doesn't answer.
    pub(crate) fn watermarks(
        &self,
        topic: &str,
        partition: i32,
        deadline: Duration,
    ) -> Result<(i64, i64), KafkaError> {
        // Any client can ask; the group member's own is busy in its thread.
        self.producer
            .client()
            .fetch_watermarks(topic, partition, deadline)
    }
}

/// Creates the dead-letter topic if it is missing; tries until Kafka answers.
/// Without it Kafka may create the topic at the first letter, with the brokers'
/// limit for the size of records.
pub(crate) async fn create_topic(
    kafka: KafkaConfig,
    config: DeadLetterConfig,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        match try_create(&kafka, &config).await {
            Ok(()) => return,
            Err(error) if is_final(&error) => {
                tracing::info!(
                    topic = config.topic, %error,
                    "could not create the dead-letter topic; it is left to the brokers"
                );
                return;
            }
            Err(error) => {
                tracing::debug!(topic = config.topic, %error, "creating the dead-letter topic failed");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

async fn try_create(kafka: &KafkaConfig, config: &DeadLetterConfig) -> Result<(), KafkaError> {
    let admin: AdminClient<Quiet> = kafka::producer_config(kafka).create_with_context(Quiet)?;
    let limit = MAX_RECORD.to_string();
    let topic = NewTopic::new(
        &config.topic,
        config.partitions,
        TopicReplication::Fixed(config.replication),
    )
    .set("max.message.bytes", &limit);
    let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(10)));
    for result in admin.create_topics([&topic], &options).await? {
        match result {
            Ok(name) => tracing::info!(topic = name, "created the dead-letter topic"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(KafkaError::AdminOp(code)),
        }
    }
    Ok(())
}

/// Whether trying again can't help.
fn is_final(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::AdminOp(
            RDKafkaErrorCode::UnsupportedFeature
                | RDKafkaErrorCode::UnsupportedVersion
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::InvalidReplicationFactor
                | RDKafkaErrorCode::PolicyViolation
        )
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers;

    use super::*;
    use crate::record::Batch;
    use crate::record::tests::message;

    fn letter(payload: &[u8]) -> Letter {
        let mut batch = Batch::new(0);
        batch.push(&message(42, Some(payload)));
        let record = batch.records().next().unwrap();
        let refusal = Refusal::ImpossibleValue {
            sensor: "temperature".into(),
        };
        Letter::new(("device-data", 3), &record, &refusal)
    }

    fn header(letter: &Letter, name: &str) -> Option<String> {
        let header = letter.headers.iter().find(|header| header.key == name)?;
        Some(String::from_utf8_lossy(header.value?).into_owned())
    }

    #[test]
    fn keeps_the_message_and_says_where_it_is_from() {
        let letter = letter(b"payload");
        assert_eq!(letter.payload.as_deref(), Some(&b"payload"[..]));
        assert_eq!(letter.key.as_deref(), Some(&b"key"[..]));
        for (name, value) in [
            ("mqtt-topic", "a/b"),
            ("dlq-reason", "impossible_value"),
            ("dlq-sensor", "temperature"),
            ("dlq-topic", "device-data"),
            ("dlq-partition", "3"),
            ("dlq-offset", "42"),
        ] {
            assert_eq!(header(&letter, name).as_deref(), Some(value), "{name}");
        }
        assert!(header(&letter, "dlq-time").is_some());
        assert_eq!(header(&letter, DLQ_SIZE), None);
    }

    #[test]
    fn of_a_huge_payload_the_begin_is_kept() {
        let letter = letter(&vec![7; 9 << 20]);
        assert_eq!(letter.bytes(), KEPT + b"key".len());
        assert_eq!(header(&letter, DLQ_SIZE), Some((9 << 20).to_string()));
        assert!(letter.is_cut());
    }
}
