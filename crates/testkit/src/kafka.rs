//! Kafka in tests: a mock cluster, topics, and records written and read by librdkafka.

use std::ops::Deref;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders, ToBytes};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::util::Timeout;

use crate::{DEADLINE, wait_for_sync};

/// librdkafka's mock cluster with one broker, for tests that need no real Kafka.
///
/// It speaks the protocol over sockets, but knows no request that creates a topic:
/// topics appear at their first use, or by [`Self::create`]. It keeps 5 MiB of a
/// partition. Everything of [`MockCluster`] can be called on it.
pub struct MockKafka(MockCluster<'static, DefaultProducerContext>);

impl MockKafka {
    /// With these topics, of one partition each.
    #[must_use]
    pub fn start(topics: &[&str]) -> Self {
        let kafka = Self(MockCluster::new(1).unwrap());
        topics.iter().for_each(|topic| kafka.create(topic, 1));
        kafka
    }

    /// Its address.
    #[must_use]
    pub fn brokers(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Creates a topic.
    pub fn create(&self, topic: &str, partitions: i32) {
        self.0.create_topic(topic, partitions, 1).unwrap();
    }

    /// Closes all connections and accepts no more.
    pub fn down(&self) {
        self.0.broker_down(-1).unwrap();
    }

    /// After [`Self::down`]: accepts connections again.
    pub fn up(&self) {
        self.0.broker_up(-1).unwrap();
    }

    /// Answers the next Produce request with "message too large".
    pub fn refuse_next_batch_as_too_large(&self) {
        let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        self.0.request_errors(RDKafkaApiKey::Produce, &[error]);
    }

    /// Everything in a topic, once there are `count` records; see [`read()`].
    pub async fn read(&self, topic: &str, count: usize) -> Vec<Record> {
        read(&self.brokers(), topic, count).await
    }
}

impl Deref for MockKafka {
    type Target = MockCluster<'static, DefaultProducerContext>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The partition it was read from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub timestamp: Option<i64>,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// Empty if it has none.
    pub payload: Vec<u8>,
    /// Names and values in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the names that tests read are UTF-8"
        )]
        let headers = message.headers();
        let headers = headers.into_iter().flat_map(Headers::iter);
        let headers = headers.map(|header| {
            let value = header.value.unwrap_or_default();
            (header.key.to_owned(), value.to_vec())
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().unwrap_or_default().to_vec(),
            headers: headers.collect(),
        }
    }

    /// The payload as text.
    ///
    /// # Panics
    /// When it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    /// The key as text.
    ///
    /// # Panics
    /// When it is not UTF-8.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        let key = self.key.as_deref()?;
        Some(std::str::from_utf8(key).unwrap())
    }

    /// The payload as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap()
    }

    /// The first header with this name, as text.
    ///
    /// # Panics
    /// When it is not UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(found, _)| found == name)?;
        Some(std::str::from_utf8(value).unwrap())
    }
}

/// All records of a topic, once there are `count` of them; those of one partition are
/// in order. The topic need not exist yet.
///
/// # Panics
/// When there are fewer at the [`DEADLINE`].
pub async fn read(brokers: &str, topic: &str, count: usize) -> Vec<Record> {
    read_until(brokers, topic, move |records| records.len() >= count).await
}

/// All records of a topic up to where they are `enough`.
///
/// # Panics
/// When they are not at the [`DEADLINE`].
pub async fn read_until(
    brokers: &str,
    topic: &str,
    enough: impl Fn(&[Record]) -> bool + Send + 'static,
) -> Vec<Record> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    blocking(move || {
        let reader = reader(&brokers);
        let what = format!("a topic {topic}");
        let partitions = wait_for_sync(&what, || partitions(&reader, &topic).ok().flatten());
        assign(&reader, &topic, &partitions);
        let (mut records, begun) = (Vec::new(), Instant::now());
        while !enough(&records) {
            let count = records.len();
            assert!(
                begun.elapsed() < DEADLINE,
                "only {count} records in {topic}"
            );
            if let Some(Ok(message)) = reader.poll(POLL) {
                records.push(Record::of(&message));
            }
        }
        records
    })
    .await
}

/// The records that a topic has now, without those of aborted transactions; none if there
/// is no such topic. Those of one partition are in order.
///
/// # Panics
/// When they can't be read within the [`DEADLINE`].
pub async fn read_all(brokers: &str, topic: &str) -> Vec<Record> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    blocking(move || {
        let reader = reader(&brokers);
        let partitions = partitions(&reader, &topic).expect("metadata");
        let mut unread = partitions.unwrap_or_default();
        assign(&reader, &topic, &unread);
        let (mut records, begun) = (Vec::new(), Instant::now());
        while !unread.is_empty() {
            let count = records.len();
            assert!(
                begun.elapsed() < DEADLINE,
                "only {count} records in {topic}"
            );
            match reader.poll(POLL) {
                Some(Ok(message)) => records.push(Record::of(&message)),
                Some(Err(KafkaError::PartitionEOF(ended))) => {
                    unread.retain(|partition| *partition != ended);
                }
                Some(Err(error)) => panic!("reading {topic}: {error}"),
                None => {}
            }
        }
        records
    })
    .await
}

const POLL: Duration = Duration::from_millis(100);

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

fn reader(brokers: &str) -> BaseConsumer {
    client(brokers)
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        // The mock cluster answers an empty fetch only after all of this.
        .set("fetch.wait.max.ms", "10")
        .set("fetch.message.max.bytes", "16000000")
        .create()
        .unwrap()
}

/// The numbers of a topic's partitions; none if there is no such topic.
fn partitions(reader: &BaseConsumer, topic: &str) -> KafkaResult<Option<Vec<i32>>> {
    let metadata = reader.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let partitions = metadata.topics()[0].partitions().iter();
    let numbers: Vec<_> = partitions.map(|partition| partition.id()).collect();
    Ok((!numbers.is_empty()).then_some(numbers))
}

/// Reads these partitions from their start.
fn assign(reader: &BaseConsumer, topic: &str, partitions: &[i32]) {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(topic, *partition, Offset::Beginning)
            .unwrap();
    }
    reader.assign(&list).unwrap();
}

/// A producer for payloads up to 8 MiB.
pub fn producer(brokers: &str) -> FutureProducer {
    client(brokers)
        .set("message.max.bytes", "8388608")
        .set("linger.ms", "5")
        .create()
        .unwrap()
}

/// Sends a record and waits until it is confirmed.
///
/// # Panics
/// When it is refused, or not confirmed within the [`DEADLINE`].
pub async fn send<K, P>(producer: &FutureProducer, record: FutureRecord<'_, K, P>)
where
    K: ToBytes + ?Sized,
    P: ToBytes + ?Sized,
{
    let sent = producer.send(record, Timeout::After(DEADLINE)).await;
    sent.map_err(|(error, _)| error).unwrap();
}

/// Sends records in their order and waits until all of them are confirmed. They have to
/// fit the producer's queue: 100,000 records.
///
/// # Panics
/// When one is refused.
pub async fn send_all<'r, K, P>(
    producer: &FutureProducer,
    records: impl IntoIterator<Item = FutureRecord<'r, K, P>>,
) where
    K: ToBytes + ?Sized + 'r,
    P: ToBytes + ?Sized + 'r,
{
    let queued = records.into_iter().map(|record| {
        let queued = producer.send_result(record);
        queued.map_err(|(error, _)| error).unwrap()
    });
    for confirmed in join_all(queued.collect::<Vec<_>>()).await {
        confirmed.unwrap().map_err(|(error, _)| error).unwrap();
    }
}

/// Headers that producers in other languages can write: `n` and the byte 0xff with the value
/// 0xfe, and `null` with a null value. [`read()`] panics at the first.
#[must_use]
#[allow(unsafe_code)]
pub fn foreign_headers() -> OwnedHeaders {
    let (name, value) = (b"n\xff", b"\xfe");
    let headers = OwnedHeaders::new();
    let native: *mut rdkafka::bindings::rd_kafka_headers_t =
        std::ptr::from_ref(headers.as_borrowed()).cast_mut().cast();
    // SAFETY: the reference is librdkafka's pointer to the headers; it copies both texts.
    let error = unsafe {
        rdkafka::bindings::rd_kafka_header_add(
            native,
            name.as_ptr().cast(),
            name.len() as isize,
            value.as_ptr().cast(),
            value.len() as isize,
        )
    };
    assert_eq!(error, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    headers.insert(Header {
        key: "null",
        value: None::<&[u8]>,
    })
}

/// A client of Kafka's admin API.
#[must_use]
pub fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    client(brokers).create().unwrap()
}

/// How the admin requests of a test are made.
#[must_use]
pub fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(DEADLINE))
}

/// Creates a topic of a real Kafka, with one replica.
///
/// # Panics
/// When Kafka refuses.
pub async fn create_topic(brokers: &str, topic: &str, partitions: i32) {
    let replication = TopicReplication::Fixed(1);
    create(brokers, NewTopic::new(topic, partitions, replication)).await;
}

/// Creates a topic of a real Kafka, with more said about it.
///
/// # Panics
/// When Kafka refuses.
pub async fn create(brokers: &str, topic: NewTopic<'_>) {
    let (admin, options) = (admin(brokers), admin_options());
    let created = admin.create_topics([&topic], &options).await;
    created.unwrap().remove(0).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn records_come_back_as_they_were_sent() {
        let kafka = MockKafka::start(&["t"]);
        kafka.create("wide", 3);
        let producer = producer(&kafka.brokers());
        let header = Header {
            key: "name",
            value: Some("value"),
        };
        let headers = OwnedHeaders::new().insert(header);
        let record = FutureRecord::to("t").key("k").payload("{\"a\":1}");
        send(&producer, record.headers(headers).timestamp(7)).await;
        let records = kafka.read("t", 1).await;
        assert_eq!(records[0].header("name"), Some("value"));
        assert_eq!(
            (records[0].key(), records[0].timestamp),
            (Some("k"), Some(7))
        );
        assert_eq!((records[0].offset, &records[0].json()["a"]), (0, &1.into()));

        let payloads: Vec<_> = (0..30).map(|number| number.to_string()).collect();
        let records = (0..).zip(&payloads).map(|(number, payload)| {
            let record = FutureRecord::<(), str>::to("wide").partition(number % 2);
            record.payload(payload)
        });
        send_all(&producer, records).await;
        let read = read_all(&kafka.brokers(), "wide").await;
        let odd = read.iter().filter(|record| record.partition == 1);
        let odd: Vec<i32> = odd.map(|record| record.text().parse().unwrap()).collect();
        assert_eq!(odd, (1..30).step_by(2).collect::<Vec<_>>());
        assert_eq!(read.len(), 30);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_topic_that_appears_later_is_read() {
        let kafka = MockKafka::start(&[]);
        let producer = producer(&kafka.brokers());
        let write = async {
            let record = FutureRecord::<(), str>::to("later").payload("x");
            send(&producer, record).await;
        };
        let (records, ()) = tokio::join!(kafka.read("later", 1), write);
        assert_eq!(records[0].text(), "x");
    }
}
