//! Messages that can't be used go to the dead-letter topic as they came, with
//! the reason and their origin in headers.

use iot_core::partition::TopicPartition;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_core::headers;
use iot_service::Backoff;
use iot_service::health::Component;
use iot_service::rebootstrap::Rebootstrap;
use jiff::Timestamp;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::config::{DeadLetterConfig, KafkaConfig};
use crate::kafka;
use crate::kafka::context::Lasting;
use crate::kafka::topic::Topic;
use crate::metrics::Metrics;
use crate::record::Record;
use crate::refusal::Refusal;

/// Largest record that is sent.
const MAX_RECORD: usize = 8 << 20;
/// What the topic is made to take: the same as by the bridge, which sends a little more.
const TOPIC_LIMIT: usize = MAX_RECORD + (64 << 10);
/// Room for the framing of a record and for what is added to it.
const OVERHEAD: usize = 64 << 10;
/// What is kept of the payload and of the key of a record that is too large.
const KEPT: usize = 64 << 10;
const KEPT_KEY: usize = 1 << 10;
/// Begin of the names of our headers.
const DLQ: &str = "dlq-";
/// Size of the original payload in bytes, where only its begin was kept.
const DLQ_SIZE: &str = "dlq-size";
/// The sensor that is to blame, where it is one.
const DLQ_SENSOR: &str = "dlq-sensor";

/// How long one try may take.
const TRY: Duration = Duration::from_secs(30);
const KEEP: Duration = Duration::from_secs(1);

/// Writes dead letters. Clones share one producer.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    producer: FutureProducer<Lasting>,
    rebootstrap: Arc<Rebootstrap>,
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
    /// Whether only a part was kept.
    cut: bool,
}

impl Letter {
    /// Copies what has to be kept of a record of the partition `origin`.
    pub(crate) fn new(origin: &TopicPartition, record: &Record<'_>, refusal: &Refusal) -> Self {
        let time = Timestamp::now().as_millisecond().to_string();
        let (partition, offset) = (origin.partition.to_string(), record.offset().to_string());
        let mut all = OwnedHeaders::new();
        // Ours can't be set by a producer.
        for (key, value) in record.headers().filter(|(key, _)| !key.starts_with(DLQ)) {
            all = all.insert(Header { key, value });
        }
        for (key, value) in [
            (headers::DLQ_REASON, refusal.reason()),
            (headers::DLQ_TOPIC, &origin.topic),
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
            cut: false,
        };
        if letter.bytes() > MAX_RECORD - OVERHEAD {
            letter.cut();
        }
        letter
    }

    /// Bytes it holds.
    pub(crate) fn bytes(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len));
        let parts = [&self.payload, &self.key].into_iter().flatten();
        parts.map(Vec::len).chain(headers).sum()
    }

    /// Keeps the begin of payload and key and our own headers only, and says how
    /// large the payload was.
    fn cut(&mut self) {
        self.cut = true;
        if let Some(payload) = &mut self.payload {
            payload.truncate(KEPT);
        }
        if let Some(key) = &mut self.key {
            key.truncate(KEPT_KEY);
        }
        let size = self.size.to_string();
        let mut headers = OwnedHeaders::new().insert(Header {
            key: DLQ_SIZE,
            value: Some(&size),
        });
        for Header { key, value } in self.headers.iter().filter(|h| h.key.starts_with(DLQ)) {
            headers = headers.insert(Header { key, value });
        }
        self.headers = headers;
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
        let mut client = kafka::producer_config(kafka)?;
        for (name, value) in [
            ("client.id", "iot-consumer"),
            ("acks", "all"),
            ("linger.ms", "5"),
            // What is sent again is not overtaken.
            ("max.in.flight.requests.per.connection", "1"),
            ("message.timeout.ms", &TRY.as_millis().to_string()),
            ("message.max.bytes", &MAX_RECORD.to_string()),
        ] {
            client.set(name, value);
        }
        let rebootstrap = Arc::new(Rebootstrap::new(&kafka.brokers)?);
        let producer = client
            .create_with_context(Lasting(rebootstrap.clone()))
            .context("creating the producer of dead letters")?;
        health.ready();
        Ok(Self {
            producer,
            rebootstrap,
            topic: config.topic.as_str().into(),
            metrics,
            health,
        })
    }

    /// The producer, for what else has to be confirmed before the offset moves.
    pub(crate) fn producer(&self) -> FutureProducer<Lasting> {
        self.producer.clone()
    }

    /// Gets the producer back whenever it has lost all brokers.
    pub(crate) async fn keep(self) {
        loop {
            tokio::time::sleep(KEEP).await;
            self.rebootstrap.serve(self.producer.client());
        }
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
                    if !letter.cut =>
                {
                    letter.cut();
                }
                Err(error) => {
                    self.metrics.dead_letter_retries.inc();
                    self.health
                        .not_ready(format!("can't write to {}: {error}", self.topic));
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        self.health.ready();
        self.metrics.dead_letters.inc();
        if letter.cut {
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
        at: &TopicPartition,
        deadline: Duration,
    ) -> Result<(i64, i64), KafkaError> {
        let (topic, partition) = at.parts();
        // Any client can ask; the group member's own is busy in its thread.
        let client = self.producer.client();
        let answer = client.fetch_watermarks(topic, partition, deadline);
        if !matches!(
            answer,
            Err(KafkaError::MetadataFetch(
                RDKafkaErrorCode::UnknownPartition
            ))
        ) {
            return answer;
        }
        // One that was added: what this client knows of the topic it would go on
        // believing for a quarter of an hour (metadata.max.age.ms).
        client.fetch_metadata(Some(topic), deadline)?;
        client.fetch_watermarks(topic, partition, deadline)
    }
}

/// The topic, as it is created.
pub(crate) fn topic(config: &DeadLetterConfig) -> Topic {
    Topic {
        name: config.topic.clone(),
        partitions: config.partitions,
        replication: config.replication,
        max_record: Some(TOPIC_LIMIT),
    }
}

#[cfg(test)]
mod tests {
    use iot_service::health::Health;
    use prometheus::Registry;
    use rdkafka::Timestamp as Time;
    use rdkafka::message::OwnedMessage;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::record::Batch;
    use crate::record::tests::message;

    fn letter_of(message: &OwnedMessage) -> Letter {
        let mut batch = Batch::default();
        batch.push(message);
        let record = batch.records().next().unwrap();
        let refusal = Refusal::ImpossibleValue {
            sensor: "temperature".into(),
        };
        Letter::new(&TopicPartition::new("device-data", 3), &record, &refusal)
    }

    fn letter(payload: &[u8]) -> Letter {
        letter_of(&message(42, Some(payload)))
    }

    /// With a key, a payload, and a header.
    fn special(key: usize, payload: usize, header: (&str, &str)) -> Letter {
        let headers = OwnedHeaders::new().insert(Header {
            key: header.0,
            value: Some(header.1),
        });
        letter_of(&OwnedMessage::new(
            Some(vec![b'p'; payload]),
            Some(vec![b'k'; key]),
            "device-data".into(),
            Time::NotAvailable,
            3,
            42,
            Some(headers),
        ))
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
    fn a_producer_can_not_forge_our_headers() {
        for name in ["dlq-topic", "dlq-size", "dlq-anything"] {
            let letter = special(1, 1, (name, "forged"));
            let forged = letter.headers.iter().any(|h| h.value == Some(b"forged"));
            assert!(!forged, "{name}");
            assert_eq!(header(&letter, "dlq-topic").as_deref(), Some("device-data"));
        }
    }

    #[test]
    fn of_a_huge_record_the_begin_is_kept() {
        let payload = letter(&vec![7; 9 << 20]);
        assert_eq!(payload.payload.as_ref().map(Vec::len), Some(KEPT));
        assert_eq!(header(&payload, DLQ_SIZE), Some((9 << 20).to_string()));
        let key = special(9 << 20, 5, ("a", "b"));
        assert_eq!(key.key.as_ref().map(Vec::len), Some(KEPT_KEY));
        assert_eq!(header(&key, DLQ_SIZE).as_deref(), Some("5"));
        let headers = special(1, 5, ("a", &"x".repeat(9 << 20)));
        assert_eq!(header(&headers, "a"), None);
        for letter in [payload, key, headers] {
            assert!(letter.cut && letter.bytes() < MAX_RECORD - OVERHEAD);
            assert_eq!(header(&letter, "dlq-offset").as_deref(), Some("42"));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_letter_that_the_topic_refuses_is_cut_once_and_tried_again_later() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("iot.dead-letter", 1, 1).unwrap();
        let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        cluster.request_errors(RDKafkaApiKey::Produce, &[too_large; 3]);
        let kafka = KafkaConfig {
            brokers: vec![cluster.bootstrap_servers()],
            ..KafkaConfig::default()
        };
        let metrics = Arc::new(Metrics::new(&Registry::new()).unwrap());
        let health = Health::default().component("dead_letter");
        let config = DeadLetterConfig::default();
        let letters = DeadLetters::new(&kafka, &config, metrics.clone(), health).unwrap();
        letters.deliver(letter(b"small")).await;
        assert_eq!(metrics.dead_letters.get(), 1);
        assert_eq!(metrics.dead_letters_cut.get(), 1);
        assert_eq!(
            metrics.dead_letter_retries.get(),
            2,
            "the first try was cut"
        );
    }
}
