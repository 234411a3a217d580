//! librdkafka's mock cluster, and what is in it.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::broker::DEADLINE;

pub(crate) struct Cluster(MockCluster<'static, DefaultProducerContext>);

pub(crate) struct Record {
    pub(crate) payload: Vec<u8>,
    pub(crate) key: Option<String>,
    headers: OwnedHeaders,
}

impl Record {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|header| header.key == name)?;
        std::str::from_utf8(found.value?).ok()
    }

    pub(crate) fn header_names(&self) -> Vec<&str> {
        self.headers.iter().map(|header| header.key).collect()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["tenant123.project456", "iot.dead-letter"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        Self(cluster)
    }

    pub(crate) fn brokers(&self) -> String {
        self.0.bootstrap_servers()
    }

    pub(crate) fn create(&self, topic: &str, partitions: i32) {
        self.0.create_topic(topic, partitions, 1).unwrap();
    }

    pub(crate) fn down(&self) {
        self.0.broker_down(-1).unwrap();
    }

    pub(crate) fn up(&self) {
        self.0.broker_up(-1).unwrap();
    }

    pub(crate) fn refuse_next_batch_as_too_large(&self) {
        let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        self.0.request_errors(RDKafkaApiKey::Produce, &[error]);
    }

    /// From now on a topic takes nothing, for the time being.
    pub(crate) fn refuse_topic(&self, topic: &str, refuse: bool) {
        let error = match refuse {
            true => RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            false => RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
        };
        self.0.topic_error(topic, error).unwrap();
    }

    /// The first `count` records of partition 0.
    pub(crate) async fn read(&self, topic: &'static str, count: usize) -> Vec<Record> {
        read_from(self.brokers(), topic.to_string(), count).await
    }
}

/// The first `count` records of partition 0 of a topic of any cluster.
pub(crate) async fn read_from(brokers: String, topic: String, count: usize) -> Vec<Record> {
    read_until(brokers, topic, move |records| records.len() >= count).await
}

/// The records of partition 0 of a topic up to where they are `enough`.
pub(crate) async fn read_until(
    brokers: String,
    topic: String,
    enough: impl Fn(&[Record]) -> bool + Send + 'static,
) -> Vec<Record> {
    let read = tokio::task::spawn_blocking(move || read(&brokers, &topic, enough));
    read.await.unwrap()
}

fn read(brokers: &str, topic: &str, enough: impl Fn(&[Record]) -> bool) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("fetch.message.max.bytes", "16000000")
        .create()
        .unwrap();
    let mut partitions = TopicPartitionList::new();
    partitions
        .add_partition_offset(topic, 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&partitions).unwrap();
    let (mut records, begun) = (Vec::new(), Instant::now());
    while !enough(&records) {
        let count = records.len();
        assert!(
            begun.elapsed() < DEADLINE,
            "only {count} records in {topic}"
        );
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) else {
            continue;
        };
        records.push(Record {
            payload: message.payload().unwrap_or_default().to_vec(),
            key: message
                .key()
                .map(|key| String::from_utf8(key.to_vec()).unwrap()),
            headers: message
                .headers()
                .map(|headers| headers.detach())
                .unwrap_or_default(),
        });
    }
    records
}
