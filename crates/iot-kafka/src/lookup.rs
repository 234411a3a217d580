//! Look-ups in a cluster through librdkafka, none of which changes it. Those that are not
//! `async` block for up to the given deadline, so they run on a thread for that.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use iot_core::partition::TopicPartition;
use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How many resources or partitions one request asks about.
const BATCH: usize = 500;
/// Longest first attempt to ask the leader of a partition that the client knows: it may be gone.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Brokers and topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Addresses, `host:port`, by the brokers' ids.
    pub brokers: BTreeMap<i32, String>,
    /// Topics by name, those of Kafka itself too.
    pub topics: BTreeMap<String, Shape>,
}

/// The partitions of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many there are.
    pub partitions: usize,
    /// Replicas of the partition that has the fewest.
    pub replication: usize,
}

/// Settings of a topic or broker by Kafka's names.
pub type Configs = BTreeMap<String, String>;

/// Brokers and topics of the cluster.
///
/// # Errors
/// No broker answers.
pub fn cluster<C: ClientContext>(client: &Client<C>, deadline: Duration) -> KafkaResult<Cluster> {
    // Not by the name of a topic: the broker might create it.
    let metadata = client.fetch_metadata(None, deadline)?;
    let brokers = metadata.brokers().iter();
    let topics = metadata.topics().iter().map(|topic| {
        let replicas = topic.partitions().iter().map(|p| p.replicas().len());
        let shape = Shape {
            partitions: topic.partitions().len(),
            replication: replicas.min().unwrap_or_default(),
        };
        (topic.name().to_owned(), shape)
    });
    Ok(Cluster {
        brokers: brokers
            .map(|broker| (broker.id(), format!("{}:{}", broker.host(), broker.port())))
            .collect(),
        topics: topics.collect(),
    })
}

/// The partitions of a topic, in order.
///
/// # Errors
/// There is no such topic, or Kafka does not answer.
pub fn partitions<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    deadline: Duration,
) -> anyhow::Result<Vec<TopicPartition>> {
    let metadata = client
        .fetch_metadata(Some(topic), deadline)
        .with_context(|| format!("asking Kafka for topic {topic}"))?;
    let topics = metadata.topics().iter();
    let numbers = topics.flat_map(|topic| topic.partitions());
    let mut numbers: Vec<i32> = numbers.map(|partition| partition.id()).collect();
    numbers.sort_unstable();
    anyhow::ensure!(!numbers.is_empty(), "there is no topic {topic}");
    let name: Arc<str> = topic.into();
    let partitions = numbers.into_iter();
    Ok(partitions
        .map(|number| TopicPartition::new(name.clone(), number))
        .collect())
}

/// The settings of topics; those of a topic that this user may not read are left out.
///
/// # Errors
/// Kafka does not answer.
pub async fn topic_configs<C: ClientContext>(
    admin: &AdminClient<C>,
    topics: &[&str],
    deadline: Duration,
) -> anyhow::Result<HashMap<String, Configs>> {
    let mut found = HashMap::new();
    for topics in topics.chunks(BATCH) {
        let topics = topics.iter().copied();
        let asked: Vec<_> = topics.map(ResourceSpecifier::Topic).collect();
        for (name, configs) in describe(admin, &asked, deadline).await? {
            if let OwnedResourceSpecifier::Topic(name) = name {
                found.insert(name, configs);
            }
        }
    }
    Ok(found)
}

/// The settings of a broker; none if this user may not read them.
///
/// # Errors
/// Kafka does not answer.
pub async fn broker_configs<C: ClientContext>(
    admin: &AdminClient<C>,
    id: i32,
    deadline: Duration,
) -> anyhow::Result<Configs> {
    let mut found = describe(admin, &[ResourceSpecifier::Broker(id)], deadline).await?;
    Ok(found.pop().map(|(_, configs)| configs).unwrap_or_default())
}

async fn describe<C: ClientContext>(
    admin: &AdminClient<C>,
    resources: &[ResourceSpecifier<'_>],
    deadline: Duration,
) -> anyhow::Result<Vec<(OwnedResourceSpecifier, Configs)>> {
    let options = AdminOptions::new().request_timeout(Some(deadline));
    let described = admin.describe_configs(resources, &options).await;
    let described = described.context("asking Kafka for settings")?;
    let readable = described.into_iter().flatten().filter_map(|resource| {
        let entries = resource.entries.into_iter();
        let configs: Configs = entries.filter_map(|e| Some((e.name, e.value?))).collect();
        // The binding hides the error of a single resource: then it has no settings.
        (!configs.is_empty()).then_some((resource.specifier, configs))
    });
    Ok(readable.collect())
}

/// Start and end of the log of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// First offset that is kept.
    pub low: i64,
    /// Offset after the last record: the high watermark. For a client that reads committed
    /// records only (`isolation.level`, the default) it is the last stable offset.
    pub high: i64,
}

impl Watermarks {
    /// How many offsets are between them: as many as records, unless the topic is compacted
    /// or has transactions.
    #[must_use]
    pub fn count(self) -> u64 {
        u64::try_from(self.high - self.low).unwrap_or_default()
    }
}

/// The watermarks of a partition.
///
/// # Errors
/// Kafka does not answer, or there is no such partition.
pub fn watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    of: &TopicPartition,
    deadline: Duration,
) -> KafkaResult<Watermarks> {
    // Not by librdkafka's query for both: if only one of its two requests fails, it answers
    // that the partition is empty.
    ask_leaders(
        consumer.client(),
        std::slice::from_ref(of),
        deadline,
        |time| {
            Ok(Watermarks {
                low: offset(consumer, of, Offset::Beginning, time)?,
                high: offset(consumer, of, Offset::End, time)?,
            })
        },
    )
}

/// One of the watermarks of a partition, see [`offsets`].
fn offset<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    of: &TopicPartition,
    which: Offset,
    deadline: Duration,
) -> KafkaResult<i64> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(&of.topic, of.partition, which)?;
    let answer = consumer.offsets_for_times(list, deadline)?;
    let missing = || KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset);
    let found = answer.find_partition(&of.topic, of.partition);
    let found = found.ok_or_else(missing)?;
    found.error()?;
    match found.offset() {
        Offset::Offset(offset) => Ok(offset),
        _ => Err(missing()),
    }
}

/// Asks the leaders of partitions; after any error fetches metadata and asks once more, within
/// `deadline` in all. Otherwise the client would keep the leaders and partitions that it knows
/// for a quarter of an hour (`metadata.max.age.ms`), and ask a broker that is gone.
fn ask_leaders<C: ClientContext, T, E: From<KafkaError>>(
    client: &Client<C>,
    of: &[TopicPartition],
    deadline: Duration,
    ask: impl Fn(Duration) -> Result<T, E>,
) -> Result<T, E> {
    let end = Instant::now() + deadline;
    let short = ATTEMPT.min(deadline / 3);
    if let Ok(answer) = ask(short) {
        return Ok(answer);
    }
    // The answer for all topics replaces what the client knows, as that for one does.
    let topic = of.first().map(|first| &*first.topic);
    let topic = topic.filter(|topic| of.iter().all(|of| *of.topic == **topic));
    let left = || end.saturating_duration_since(Instant::now());
    client.fetch_metadata(topic, left() / 2)?;
    ask(left())
}

/// The watermarks of many partitions, in their order, with one request to each broker for
/// every 500 of them.
///
/// # Errors
/// Kafka does not answer for one of them.
pub fn all_watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    of: &[TopicPartition],
    deadline: Duration,
) -> anyhow::Result<Vec<Watermarks>> {
    let mut all = Vec::with_capacity(of.len());
    for of in of.chunks(BATCH) {
        let lows = offsets(consumer, of, Offset::Beginning, deadline)?;
        let highs = offsets(consumer, of, Offset::End, deadline)?;
        let pairs = lows.into_iter().zip(highs);
        all.extend(pairs.map(|(low, high)| Watermarks { low, high }));
    }
    Ok(all)
}

/// In a request by time, the logical offsets stand for the start and the end (Kafka
/// protocol, `ListOffsets`).
fn offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    of: &[TopicPartition],
    which: Offset,
    deadline: Duration,
) -> anyhow::Result<Vec<i64>> {
    let mut list = TopicPartitionList::with_capacity(of.len());
    for TopicPartition { topic, partition } in of {
        list.add_partition_offset(topic, *partition, which)?;
    }
    ask_leaders(consumer.client(), of, deadline, |time| {
        let answer = consumer.offsets_for_times(list.clone(), time);
        let answer = answer.context("asking Kafka for the watermarks of partitions")?;
        let offset = |of: &TopicPartition| {
            let context = || format!("asking Kafka for the watermarks of {of}");
            let offset = offset_of(&answer, of).with_context(context)?;
            offset
                .ok_or_else(|| anyhow!("no offset"))
                .with_context(context)
        };
        of.iter().map(offset).collect()
    })
}

/// The offset of a partition in an answer; `None` if it has none.
fn offset_of(answer: &TopicPartitionList, of: &TopicPartition) -> anyhow::Result<Option<i64>> {
    let found = answer.find_partition(&of.topic, of.partition);
    let found = found.context("the answer lacks the partition")?;
    found.error()?;
    Ok(match found.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    })
}

/// The offset of the first record of a partition with that time of Kafka or a later one;
/// `None` if there is no such record.
///
/// # Errors
/// Kafka does not answer.
pub fn offset_at<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    of: &TopicPartition,
    time: jiff::Timestamp,
    deadline: Duration,
) -> anyhow::Result<Option<i64>> {
    let mut wanted = TopicPartitionList::new();
    let time_asked = Offset::Offset(time.as_millisecond());
    wanted.add_partition_offset(&of.topic, of.partition, time_asked)?;
    let one = std::slice::from_ref(of);
    let found = ask_leaders(consumer.client(), one, deadline, |time| {
        let found = consumer.offsets_for_times(wanted.clone(), time)?;
        offset_of(&found, of)
    });
    found.with_context(|| format!("looking for {time} in {of}"))
}

/// The offset that the consumer's group has committed for a partition; `None` if there is none.
///
/// # Errors
/// Kafka does not answer.
pub fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    of: &TopicPartition,
    deadline: Duration,
) -> anyhow::Result<Option<i64>> {
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition(&of.topic, of.partition);
    let found = consumer.committed_offsets(wanted, deadline)?;
    offset_of(&found, of)
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[test]
    fn a_topic_and_its_logs_are_looked_up() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 3, 1).unwrap();
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", cluster.bootstrap_servers());
        client.set("group.id", "g");
        client.set("enable.auto.commit", "false");
        let producer: BaseProducer = client.create().unwrap();
        for _ in 0..4 {
            let record = BaseRecord::<(), str>::to("t").partition(1).payload("x");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(DEADLINE).unwrap();
        let consumer: BaseConsumer = client.create().unwrap();

        let shape = super::cluster(consumer.client(), DEADLINE).unwrap().topics["t"];
        assert_eq!((shape.partitions, shape.replication), (3, 1));
        let partitions = partitions(consumer.client(), "t", DEADLINE).unwrap();
        assert_eq!(
            partitions,
            [0, 1, 2].map(|number| TopicPartition::new("t", number))
        );
        let expected = [0, 4, 0].map(|high| Watermarks { low: 0, high });
        let all = all_watermarks(&consumer, &partitions, DEADLINE).unwrap();
        assert_eq!(all, expected);
        assert_eq!(all[1].count(), 4);
        let one = watermarks(&consumer, &partitions[1], DEADLINE).unwrap();
        assert_eq!(one, expected[1]);
        assert_eq!(
            committed(&consumer, &partitions[1], DEADLINE).unwrap(),
            None
        );
    }

    #[test]
    fn a_partition_is_not_empty_because_a_request_fails() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", cluster.bootstrap_servers());
        client.set("group.id", "g");
        client.set("enable.auto.commit", "false");
        let producer: BaseProducer = client.create().unwrap();
        let record = BaseRecord::<(), str>::to("t").partition(0).payload("x");
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(DEADLINE).unwrap();
        let consumer: BaseConsumer = client.create().unwrap();
        let of = TopicPartition::new("t", 0);
        let whole = Watermarks { low: 0, high: 1 };
        for _ in 0..5 {
            let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE;
            cluster.request_errors(RDKafkaApiKey::ListOffsets, &[error]);
            let found = watermarks(&consumer, &of, DEADLINE);
            assert!(found.is_err() || found == Ok(whole), "{found:?}");
            assert_eq!(watermarks(&consumer, &of, DEADLINE), Ok(whole));
        }
    }

    #[test]
    fn the_new_leader_is_asked_after_the_old_one_is_gone() {
        let cluster = MockCluster::new(2).unwrap();
        cluster.create_topic("t", 1, 2).unwrap();
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", cluster.bootstrap_servers());
        client.set("group.id", "g");
        client.set("enable.auto.commit", "false");
        let consumer: BaseConsumer = client.create().unwrap();
        let partition = TopicPartition::new("t", 0);
        let one = std::slice::from_ref(&partition);
        let empty = Watermarks { low: 0, high: 0 };
        for (leader, other) in [(1, 2), (2, 1)] {
            cluster.broker_up(-1).unwrap();
            cluster.partition_leader("t", 0, Some(leader)).unwrap();
            // The client now knows this leader.
            let found = watermarks(&consumer, &partition, DEADLINE);
            assert_eq!(found.unwrap(), empty);
            cluster.partition_leader("t", 0, Some(other)).unwrap();
            cluster.broker_down(leader).unwrap();
            if leader == 1 {
                let found = watermarks(&consumer, &partition, DEADLINE);
                assert_eq!(found.unwrap(), empty);
            } else {
                let found = all_watermarks(&consumer, one, DEADLINE);
                assert_eq!(found.unwrap(), [empty]);
            }
        }
    }

    #[test]
    fn a_missing_topic_is_an_error() {
        let cluster = MockCluster::new(1).unwrap();
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", cluster.bootstrap_servers());
        client.set("group.id", "g");
        client.set("enable.auto.commit", "false");
        let consumer: BaseConsumer = client.create().unwrap();
        let error = partitions(consumer.client(), "missing", DEADLINE).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
