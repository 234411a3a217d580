//! Kafka by rdkafka: another client than the ledger's own.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::util::Timeout;

use super::{PATIENCE, kafka_brokers};

fn config() -> ClientConfig {
    config_of(&kafka_brokers())
}

fn config_of(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

pub(crate) async fn create_topic(topic: &str, partitions: i32) {
    create_topic_at(&kafka_brokers(), topic, partitions).await;
}

pub(crate) async fn create_topic_at(brokers: &str, topic: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = config_of(brokers).create().unwrap();
    let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let results = admin
        .create_topics(&[topic], &AdminOptions::new())
        .await
        .unwrap();
    results.into_iter().for_each(|result| {
        result.unwrap();
    });
}

/// Writes the records, in their order, to partition 0.
pub(crate) async fn produce(topic: &str, records: &[Vec<u8>]) {
    produce_to(&kafka_brokers(), topic, records).await;
}

/// Each a batch of its own.
pub(crate) async fn produce_to(brokers: &str, topic: &str, records: &[Vec<u8>]) {
    let producer: FutureProducer = config_of(brokers).create().unwrap();
    for value in records {
        let record = FutureRecord::<(), _>::to(topic).partition(0).payload(value);
        producer
            .send(record, Timeout::After(PATIENCE))
            .await
            .unwrap();
    }
}

/// Writes a record to partition 0 with a time of its own (ms since the epoch).
pub(crate) async fn produce_at(topic: &str, timestamp: i64, value: &[u8]) {
    let producer: FutureProducer = config().create().unwrap();
    let record = FutureRecord::<(), _>::to(topic).partition(0).payload(value);
    let sent = producer.send(record.timestamp(timestamp), Timeout::After(PATIENCE));
    sent.await.unwrap();
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Transaction {
    Committed,
    Aborted,
}

impl Transaction {
    /// Writes the records to partition 0 in a transaction that ends like this.
    pub(crate) async fn write(self, topic: &str, records: &[Vec<u8>]) {
        let mut config = config();
        config.set("transactional.id", topic);
        let producer: FutureProducer = config.create().unwrap();
        let (topic, records) = (topic.to_owned(), records.to_vec());
        // The calls for transactions block.
        let written = tokio::task::spawn_blocking(move || {
            producer.init_transactions(PATIENCE).unwrap();
            producer.begin_transaction().unwrap();
            for value in &records {
                let record = FutureRecord::<(), _>::to(&topic).partition(0);
                drop(producer.send_result(record.payload(value)).unwrap());
            }
            producer.flush(PATIENCE).unwrap();
            match self {
                Self::Committed => producer.commit_transaction(PATIENCE).unwrap(),
                Self::Aborted => producer.abort_transaction(PATIENCE).unwrap(),
            }
        });
        written.await.unwrap();
    }
}

/// Cuts the log of partition 0: `offset` is its first record then.
pub(crate) async fn delete_before(topic: &str, offset: i64) {
    let admin: AdminClient<DefaultClientContext> = config().create().unwrap();
    let mut cut = TopicPartitionList::new();
    cut.add_partition_offset(topic, 0, Offset::Offset(offset))
        .unwrap();
    let deleted = admin.delete_records(&cut, &AdminOptions::new());
    deleted.await.unwrap();
}

/// Takes what there is in a topic at this moment, partition after partition;
/// nothing if there is no such topic.
pub(crate) fn read_topic<T>(topic: &str, take: impl Fn(&BorrowedMessage<'_>) -> T) -> Vec<T> {
    let consumer: BaseConsumer = config()
        .set("group.id", "ledger-test-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let partitions = metadata.topics()[0].partitions().len() as i32;
    let mut taken = Vec::new();
    for partition in 0..partitions {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, PATIENCE)
            .unwrap();
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(low))
            .unwrap();
        consumer.assign(&assignment).unwrap();
        let mut next = low;
        while next < high {
            let message = consumer
                .poll(Duration::from_secs(10))
                .expect("no record came")
                .unwrap();
            next = message.offset() + 1;
            taken.push(take(&message));
        }
    }
    taken
}
