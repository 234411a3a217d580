//! Messages that can't be used go to the dead-letter topic as they came, with the reason and
//! their origin in headers: see [`iot_core::dead_letter`].

mod metrics;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_core::dead_letter::{self, KEPT, KEPT_KEY, MAX_RECORD, OVERHEAD, Truncated};
use iot_core::partition::TopicPartition;
use iot_kafka::context::Lasting;
use iot_kafka::topics::Topic;
use iot_service::Backoff;
use iot_service::health::Component;
use jiff::Timestamp;
use kafka_fetch::Record;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use sha2::{Digest, Sha256};

use crate::config::{DeadLetterConfig, KafkaConfig};
use crate::kafka;
use crate::partial::Listed;
use crate::readiness::SharedReadiness;
use crate::refusal::Refusal;
pub(crate) use metrics::DeadLetterMetrics;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(30);
/// How often the producer is checked for lost brokers.
const KEEP: Duration = Duration::from_secs(1);

/// Writes dead letters. Clones share one producer.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    producer: FutureProducer<Lasting>,
    context: Lasting,
    topic: Arc<str>,
    metrics: DeadLetterMetrics,
    readiness: SharedReadiness,
}

/// A message on its way to the dead-letter topic.
#[derive(Debug)]
pub(crate) struct Letter {
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: OwnedHeaders,
    /// Whether some of its readings were accepted.
    partial: bool,
    /// Whether only a part of its bytes is kept.
    truncated: bool,
}

impl Letter {
    /// Copies a refused record of the partition `origin`, truncated if it is too large.
    pub(crate) fn new(origin: &TopicPartition, record: &Record<'_>, refusal: &Refusal) -> Self {
        Self::with(origin, record, refusal, refusal.sensor(), None)
    }

    /// Copies a record of which only these readings were refused.
    pub(crate) fn partial(
        origin: &TopicPartition,
        record: &Record<'_>,
        refused: Listed<'_>,
    ) -> Self {
        let Listed { first, header, .. } = refused;
        Self::with(
            origin,
            record,
            first.refusal(),
            first.sensor(),
            Some(header),
        )
    }

    fn with(
        origin: &TopicPartition,
        record: &Record<'_>,
        refusal: &Refusal,
        sensor: Option<&str>,
        partial: Option<&str>,
    ) -> Self {
        let time = Timestamp::now().as_millisecond().to_string();
        let (partition, offset) = (origin.partition.to_string(), record.offset().to_string());
        let mut all = OwnedHeaders::new();
        // Producers can't set the headers of the contract.
        for (key, value) in record
            .headers()
            .filter(|(key, _)| !key.starts_with(dead_letter::PREFIX))
        {
            all = all.insert(Header { key, value });
        }
        for (key, value) in [
            (dead_letter::REASON, refusal.reason()),
            (dead_letter::DETAIL, &dead_letter::detail(refusal)),
            (dead_letter::TOPIC, &origin.topic),
            (dead_letter::PARTITION, &partition),
            (dead_letter::OFFSET, &offset),
            (dead_letter::TIME, &time),
        ] {
            all = all.insert(Header {
                key,
                value: Some(value),
            });
        }
        for (key, value) in [
            (dead_letter::SENSOR, sensor),
            (dead_letter::PARTIAL, partial),
        ] {
            if value.is_some() {
                all = all.insert(Header { key, value });
            }
        }
        let mut letter = Self {
            key: record.key().map(<[u8]>::to_vec),
            payload: record.value().map(<[u8]>::to_vec),
            headers: all,
            partial: partial.is_some(),
            truncated: false,
        };
        if letter.bytes() > MAX_RECORD - OVERHEAD {
            letter.truncate();
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

    /// Keeps the start of payload and key, and of the headers only the contract's.
    fn truncate(&mut self) {
        self.truncated = true;
        let payload = self.payload.as_deref().unwrap_or_default();
        let truncated = Truncated {
            size: payload.len() as u64,
            sha256: Sha256::digest(payload).into(),
        };
        if let Some(payload) = &mut self.payload {
            payload.truncate(KEPT);
        }
        if let Some(key) = &mut self.key {
            key.truncate(KEPT_KEY);
        }
        let mut headers = OwnedHeaders::new();
        for (key, value) in truncated.headers() {
            let value = Some(&value);
            headers = headers.insert(Header { key, value });
        }
        let own = self.headers.iter();
        for Header { key, value } in own.filter(|h| h.key.starts_with(dead_letter::PREFIX)) {
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
        metrics: DeadLetterMetrics,
        health: Component,
    ) -> anyhow::Result<Self> {
        let mut client = kafka::base_config(kafka)?;
        for (name, value) in [
            ("client.id", "iot-consumer"),
            ("acks", "all"),
            ("linger.ms", "5"),
            // A retried record keeps its place.
            ("max.in.flight.requests.per.connection", "1"),
            ("message.timeout.ms", &ATTEMPT.as_millis().to_string()),
            ("message.max.bytes", &MAX_RECORD.to_string()),
        ] {
            client.set(name, value);
        }
        let context = Lasting::new(&kafka.brokers)?;
        let producer = client
            .create_with_context(context.clone())
            .context("creating the producer of dead letters")?;
        health.ready();
        Ok(Self {
            producer,
            context,
            topic: config.topic.as_str().into(),
            metrics,
            readiness: SharedReadiness::new(health),
        })
    }

    /// The producer, for other records that must be confirmed before the offset moves.
    pub(crate) fn producer(&self) -> FutureProducer<Lasting> {
        self.producer.clone()
    }

    /// Reconnects the producer whenever it has lost every broker.
    pub(crate) async fn keep(self) {
        loop {
            tokio::time::sleep(KEEP).await;
            self.context.serve(self.producer.client());
        }
    }

    /// Writes a letter; returns once Kafka has confirmed it. Retries for as long as it takes,
    /// because the offset must not move past a message that would then be lost.
    pub(crate) async fn deliver(self, mut letter: Letter) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut operation = None;
        loop {
            match self.send(&letter).await {
                Ok(()) => break,
                // The topic exists with a smaller limit.
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge))
                    if !letter.truncated =>
                {
                    letter.truncate();
                }
                Err(error) => {
                    self.metrics.retries.inc();
                    let operation = operation.get_or_insert_with(|| self.readiness.begin());
                    operation.report(format!("can't write to {}: {error}", self.topic));
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        self.metrics.written.inc();
        if letter.partial {
            self.metrics.partial.inc();
        }
        if letter.truncated {
            self.metrics.truncated.inc();
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
        let sent = self.producer.send(record, ATTEMPT).await;
        sent.map(drop).map_err(|(error, _)| error)
    }
}

/// The topic, as it is created.
pub(crate) fn topic(config: &DeadLetterConfig) -> Topic {
    let limit = dead_letter::TOPIC_MAX_MESSAGE_BYTES.to_string();
    Topic {
        name: config.topic.clone(),
        partitions: config.partitions,
        replication: config.replication,
        configs: [("max.message.bytes".to_owned(), limit)].into(),
    }
}

#[cfg(test)]
mod tests {
    use iot_core::message::parse_partial;
    use iot_service::health::Health;
    use iot_service::metrics::Registrar;
    use prometheus::Registry;
    use rdkafka::Timestamp as Time;
    use rdkafka::message::OwnedMessage;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::config::Partial;
    use crate::partial::Refused;
    use crate::record::batch_of;
    use crate::record::tests::message;

    fn letter_of(message: &OwnedMessage) -> Letter {
        let batch = batch_of(message);
        let record = batch.records().next().unwrap();
        let refusal = Refusal::ImpossibleValue {
            sensor: "temperature".into(),
            least: -90.0,
            greatest: 200.0,
            found: 999.0,
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
    fn a_letter_has_the_message_and_its_origin() {
        let letter = letter(b"payload");
        assert_eq!(letter.payload.as_deref(), Some(&b"payload"[..]));
        assert_eq!(letter.key.as_deref(), Some(&b"key"[..]));
        for (name, value) in [
            ("mqtt-topic", "a/b"),
            ("dlq-reason", "impossible_value"),
            (
                "dlq-detail",
                "the value of temperature must be from -90.0 to 200.0, not 999.0",
            ),
            ("dlq-sensor", "temperature"),
            ("dlq-topic", "device-data"),
            ("dlq-partition", "3"),
            ("dlq-offset", "42"),
        ] {
            assert_eq!(header(&letter, name).as_deref(), Some(value), "{name}");
        }
        assert!(header(&letter, "dlq-time").is_some());
        assert_eq!(header(&letter, dead_letter::SIZE), None);
    }

    #[test]
    fn a_letter_of_a_part_lists_the_refused_readings() {
        let json = br#"{"device_id":"d","timestamp":1,"readings":[{"sensor":"a","value":1},
            {"sensor":"b,c","value":null},{"value":1}]}"#;
        let mut refused = Refused::new(Partial::Accept);
        let parsed = refused
            .parse(|list| parse_partial(json, list.unwrap()))
            .unwrap();
        refused.settle(&parsed.readings).unwrap();
        let message = message(42, Some(json));
        let batch = batch_of(&message);
        let record = batch.records().next().unwrap();
        let origin = TopicPartition::new("device-data", 3);
        let letter = Letter::partial(&origin, &record, refused.listed().unwrap());
        let list = r#"[{"reading":1,"sensor":"b,c","reason":"not_a_number"},{"reading":2,"reason":"missing_sensor"}]"#;
        for (name, value) in [
            ("dlq-partial", list),
            ("dlq-reason", "not_a_number"),
            (
                "dlq-detail",
                "readings[1]: value must be a number, not null",
            ),
            ("dlq-sensor", "b,c"),
            ("dlq-offset", "42"),
        ] {
            assert_eq!(header(&letter, name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(letter.payload.as_deref(), Some(&json[..]));
        let whole = letter_of(&message);
        assert_eq!(header(&whole, dead_letter::PARTIAL), None);
    }

    #[test]
    fn producers_cannot_forge_the_headers_of_the_contract() {
        for name in ["dlq-topic", "dlq-size", "dlq-anything"] {
            let letter = special(1, 1, (name, "forged"));
            let forged = letter.headers.iter().any(|h| h.value == Some(b"forged"));
            assert!(!forged, "{name}");
            assert_eq!(header(&letter, "dlq-topic").as_deref(), Some("device-data"));
        }
    }

    #[test]
    fn large_records_are_truncated() {
        let payload = letter(&vec![7; 9 << 20]);
        assert_eq!(payload.payload.as_ref().map(Vec::len), Some(KEPT));
        assert_eq!(header(&payload, "dlq-size"), Some((9 << 20).to_string()));
        // head -c 9437184 /dev/zero | tr '\0' '\7' | sha256sum
        let digest = "108c2c561ebe9d5557ea1468799eabb7832494df0b4f3f1b51e56a3f213ee210";
        assert_eq!(header(&payload, "dlq-sha256").as_deref(), Some(digest));
        let key = special(9 << 20, 5, ("a", "b"));
        assert_eq!(key.key.as_ref().map(Vec::len), Some(KEPT_KEY));
        assert_eq!(header(&key, "dlq-size").as_deref(), Some("5"));
        let headers = special(1, 5, ("a", &"x".repeat(9 << 20)));
        assert_eq!(header(&headers, "a"), None);
        for letter in [payload, key, headers] {
            assert!(letter.truncated && letter.bytes() < MAX_RECORD - OVERHEAD);
            assert_eq!(header(&letter, "dlq-cut").as_deref(), Some("true"));
            assert_eq!(header(&letter, "dlq-offset").as_deref(), Some("42"));
            assert!(header(&letter, "dlq-detail").is_some());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_letter_too_large_for_the_topic_is_truncated_once_and_retried() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("iot.dead-letter", 1, 1).unwrap();
        let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        cluster.request_errors(RDKafkaApiKey::Produce, &[too_large; 3]);
        let kafka = KafkaConfig {
            brokers: vec![cluster.bootstrap_servers()],
            ..KafkaConfig::default()
        };
        let metrics = DeadLetterMetrics::new(&Registrar(&Registry::new())).unwrap();
        let health = Health::default().component("dead_letter");
        let config = DeadLetterConfig::default();
        let letters = DeadLetters::new(&kafka, &config, metrics.clone(), health).unwrap();
        letters.deliver(letter(b"small")).await;
        assert_eq!(metrics.written.get(), 1);
        assert_eq!(metrics.truncated.get(), 1);
        assert_eq!(
            metrics.retries.get(),
            2,
            "the first rejection truncated the letter"
        );
    }
}
