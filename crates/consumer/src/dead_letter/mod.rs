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
use crate::kafka::{self, Queued};
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

    /// Queues a letter behind those of the calls before, so that dead letters stand in the order
    /// of the log. The future ends once Kafka has confirmed it. It retries for as long as that
    /// takes, because the offset must not move past a message that would then be lost; a letter
    /// that is queued again may stand behind later ones.
    pub(crate) fn deliver(&self, letter: Letter) -> impl Future<Output = ()> + Send + use<> {
        let queued = self.queue(&letter);
        self.clone().confirm(letter, queued)
    }

    async fn confirm(self, mut letter: Letter, mut queued: Queued) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut operation = None;
        loop {
            match kafka::written(queued).await {
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
            queued = self.queue(&letter);
        }
        self.metrics.written.inc();
        if letter.partial {
            self.metrics.partial.inc();
        }
        if letter.truncated {
            self.metrics.truncated.inc();
        }
    }

    fn queue(&self, letter: &Letter) -> Queued {
        let mut record =
            FutureRecord::<[u8], [u8]>::to(&self.topic).headers(letter.headers.clone());
        if let Some(key) = &letter.key {
            record = record.key(key);
        }
        if let Some(payload) = &letter.payload {
            record = record.payload(payload);
        }
        self.producer
            .send_result(record)
            .map_err(|(error, _)| error)
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
mod tests;
