//! Where replayed records go.

use std::io::{BufWriter, Stdout, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use iot_core::route::is_reserved;
use iot_kafka::headers;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use serde_json::{Map, Value, json};

use super::merge::Taken;
use crate::config::KafkaConfig;
use crate::kafka;

/// How long Kafka may take to confirm the last records.
const FLUSH: Duration = Duration::from_secs(60);
/// Header with the origin of the record: topic, partition and offset.
const REPLAY_OF: &str = "replay-of";

/// Standard output, or a topic.
pub(super) enum Sink {
    Lines(BufWriter<Stdout>),
    Topic {
        name: String,
        producer: Box<BaseProducer<Failures>>,
    },
}

/// Records that were not written.
#[derive(Debug, Default)]
pub(super) struct Failures {
    count: AtomicU64,
    first: OnceLock<KafkaError>,
}

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.first.get_or_init(|| error.clone());
        }
    }
}

impl Sink {
    pub(super) fn open(name: &str, kafka: &KafkaConfig) -> anyhow::Result<Self> {
        if name == "stdout" {
            return Ok(Self::Lines(BufWriter::new(std::io::stdout())));
        }
        if is_reserved(name) {
            bail!("{name} is reserved: nothing is replayed into it");
        }
        let mut client = kafka::base_config(kafka)?;
        client.set("enable.idempotence", "true");
        // The producer must not reject a record for its size: Kafka has accepted it before.
        client.set("message.max.bytes", "1000000000");
        let producer = client
            .create_with_context(Failures::default())
            .context("creating the producer")?;
        Ok(Self::Topic {
            name: name.to_owned(),
            producer: Box::new(producer),
        })
    }

    pub(super) fn write(&mut self, topic: &str, record: &Taken) -> anyhow::Result<()> {
        match self {
            Self::Lines(out) => {
                serde_json::to_writer(&mut *out, &line(topic, record))?;
                out.write_all(b"\n")?;
                // A reader at a terminal sees each line at once.
                Ok(out.flush()?)
            }
            Self::Topic { name, producer } => send(producer, name, topic, record),
        }
    }

    /// Waits until all are written.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let Self::Topic { name, producer } = self else {
            return Ok(());
        };
        producer
            .flush(FLUSH)
            .with_context(|| format!("writing to topic {name}"))?;
        let Failures { count, first } = &**producer.context();
        match first.get() {
            None => Ok(()),
            Some(error) => bail!(
                "{} records could not be written to topic {name}; the first error: {error}",
                count.load(Ordering::Relaxed)
            ),
        }
    }
}

fn send(
    producer: &BaseProducer<Failures>,
    name: &str,
    topic: &str,
    record: &Taken,
) -> anyhow::Result<()> {
    let message = &record.message;
    let origin = format!("{topic}/{}/{}", message.partition(), message.offset());
    let mut all = OwnedHeaders::new().insert(Header {
        key: REPLAY_OF,
        value: Some(&origin),
    });
    let others = headers::owned(message);
    // A record that was itself replayed has one already.
    for header in others.filter(|header| header.key != REPLAY_OF) {
        all = all.insert(Header {
            key: header.key,
            value: header.value,
        });
    }
    let mut next = BaseRecord::<[u8], [u8]>::to(name)
        .timestamp(record.time)
        .headers(all);
    if let Some(key) = message.key() {
        next = next.key(key);
    }
    if let Some(payload) = message.payload() {
        next = next.payload(payload);
    }
    loop {
        match producer.send(next) {
            Ok(()) => break,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                next = back;
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => {
                return Err(error).with_context(|| format!("writing to topic {name}"));
            }
        }
    }
    producer.poll(Duration::ZERO);
    Ok(())
}

/// A record as JSON. Of headers with one name the last is shown.
fn line(topic: &str, record: &Taken) -> Value {
    let message = &record.message;
    let headers =
        headers::owned(message).map(|header| (header.key.to_owned(), bytes(header.value)));
    let payload = message.payload();
    let json = payload.and_then(|payload| serde_json::from_slice(payload).ok());
    json!({
        "topic": topic,
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": record.time,
        "key": bytes(message.key()),
        "headers": headers.collect::<Map<_, _>>(),
        "payload": json.unwrap_or_else(|| bytes(payload)),
    })
}

/// Text as it is; other bytes as an object with hexadecimal digits.
fn bytes(bytes: Option<&[u8]>) -> Value {
    let Some(bytes) = bytes else {
        return Value::Null;
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            json!({"hex": digits.collect::<String>()})
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::producer::FutureRecord;
    use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
    use testkit::kafka::{MockKafka, foreign_headers, producer, send};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn foreign_headers_are_printed_and_sent() {
        let kafka = MockKafka::start(&["t", "u"]);
        let record = FutureRecord::<(), str>::to("t").payload("{}");
        send(
            &producer(&kafka.brokers()),
            record.headers(foreign_headers()),
        )
        .await;
        let brokers = kafka.brokers();
        let read = move |topic: &str| -> Taken {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", &brokers)
                .set("group.id", "test")
                .create()
                .unwrap();
            let mut assignment = TopicPartitionList::new();
            assignment
                .add_partition_offset(topic, 0, Offset::Beginning)
                .unwrap();
            consumer.assign(&assignment).unwrap();
            let message = consumer.poll(testkit::DEADLINE).unwrap().unwrap();
            Taken {
                time: 7,
                message: headers::detach(&message),
            }
        };
        let settings = KafkaConfig {
            brokers: vec![kafka.brokers()],
            ..KafkaConfig::default()
        };
        let sent = tokio::task::spawn_blocking(move || {
            let taken = read("t");
            let mut sink = Sink::open("u", &settings).unwrap();
            sink.write("t", &taken).unwrap();
            sink.finish().unwrap();
            (line("t", &taken), line("u", &read("u")))
        });
        let (printed, sent) = sent.await.unwrap();
        let expected = json!({"n\u{fffd}": {"hex": "fe"}, "null": null});
        assert_eq!(printed["headers"], expected);
        let headers = &sent["headers"];
        assert_eq!(headers["n\u{fffd}"], expected["n\u{fffd}"]);
        assert_eq!(headers["null"], Value::Null);
        assert_eq!(headers[REPLAY_OF], "t/0/0");
        drop(kafka);
    }
}
