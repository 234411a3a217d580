//! Records that the tests write to the stack's Kafka, by another client than the ledger's
//! own.

use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use testkit::DEADLINE;
use testkit::kafka::{admin, admin_options, producer, send};
use testkit::stack::kafka_brokers;

pub(crate) async fn create_topic(topic: &str, partitions: i32) {
    testkit::kafka::create_topic(&kafka_brokers(), topic, partitions).await;
}

/// Writes the records, in their order, to partition 0.
pub(crate) async fn produce(topic: &str, records: &[Vec<u8>]) {
    produce_to(&kafka_brokers(), topic, records).await;
}

/// To any Kafka, each record as a batch of its own.
pub(crate) async fn produce_to(brokers: &str, topic: &str, records: &[Vec<u8>]) {
    let producer = producer(brokers);
    for value in records {
        let record = FutureRecord::<(), _>::to(topic).partition(0).payload(value);
        send(&producer, record).await;
    }
}

/// Writes a record to partition 0 with a time of its own (ms since the epoch).
pub(crate) async fn produce_at(topic: &str, timestamp: i64, value: &[u8]) {
    let record = FutureRecord::<(), _>::to(topic).partition(0).payload(value);
    send(&producer(&kafka_brokers()), record.timestamp(timestamp)).await;
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
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", kafka_brokers())
            .set("transactional.id", topic)
            .create()
            .unwrap();
        let (topic, records) = (topic.to_owned(), records.to_vec());
        // The calls for transactions block.
        let written = tokio::task::spawn_blocking(move || {
            producer.init_transactions(DEADLINE).unwrap();
            producer.begin_transaction().unwrap();
            for value in &records {
                let record = FutureRecord::<(), _>::to(&topic).partition(0);
                drop(producer.send_result(record.payload(value)).unwrap());
            }
            producer.flush(DEADLINE).unwrap();
            match self {
                Self::Committed => producer.commit_transaction(DEADLINE).unwrap(),
                Self::Aborted => producer.abort_transaction(DEADLINE).unwrap(),
            }
        });
        written.await.unwrap();
    }
}

/// Truncates the log of partition 0: `offset` is its first record then.
pub(crate) async fn delete_before(topic: &str, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset))
        .unwrap();
    let admin = admin(&kafka_brokers());
    let deleted = admin.delete_records(&list, &admin_options()).await;
    deleted.unwrap();
}
