//! The Kafka side: how clients are configured, the thread that is a member of the
//! consumer group, and who fetches.

pub(crate) mod context;
pub(crate) mod ends;
pub(crate) mod fetch;
pub(crate) mod group;
pub(crate) mod progress;
pub(crate) mod statistics;
pub(crate) mod topic;

use std::time::Duration;

use anyhow::Context;
use iot_core::partition::TopicPartition;
use iot_service::kafka::LIBRDKAFKA_PROPERTIES;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::config::KafkaConfig;

/// How often librdkafka reports statistics: the state of connections and of the group.
pub(crate) const STATISTICS_EVERY_MS: &str = "1000";

/// Topics that no pattern may match: those of the platform and of Kafka itself
/// (librdkafka's expressions have no lookahead, so a pattern can't leave them out).
const RESERVED: &str = r"^iot\..*,^device-aggregates$,^alert-events$,^__.*";

const NO_QUEUE: &str = "records do not come by librdkafka's queue: see fetch.max.bytes";

/// Properties that can't be given, and why.
const OWN_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
    ("group.id", "use kafka.group"),
    ("group.instance.id", "use kafka.group_instance_id"),
    ("session.timeout.ms", "use kafka.session_timeout"),
    (
        "enable.auto.commit",
        "offsets move with the stored state only",
    ),
    (
        "enable.auto.offset.store",
        "offsets move with the stored state only",
    ),
    ("auto.offset.reset", "use kafka.from"),
    ("partition.assignment.strategy", "it is cooperative-sticky"),
    ("group.protocol", "it is the classic one"),
    ("isolation.level", "it is read_committed"),
    ("topic.blacklist", "it keeps reserved topics out"),
    (
        "statistics.interval.ms",
        "readiness comes from the statistics",
    ),
    ("check.crcs", "checksums are always checked"),
    ("fetch.queue.backoff.ms", NO_QUEUE),
    ("queued.min.messages", NO_QUEUE),
    ("queued.max.messages.kbytes", NO_QUEUE),
    ("fetch.error.backoff.ms", NO_QUEUE),
];

/// Begins of further such names: records are fetched by a client that knows nothing of
/// them, so that they would be half in force.
const OWN_PREFIXES: &[&str] = &["ssl.", "sasl.", "enable.ssl.", "enable.sasl."];

/// Why a property can't be given, if it can't.
pub(crate) fn refused(name: &str) -> Option<&'static str> {
    let mut all = OWN_PROPERTIES.iter().chain(LIBRDKAFKA_PROPERTIES);
    if let Some((_, reason)) = all.find(|(own, _)| *own == name) {
        return Some(reason);
    }
    let is_own = OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    is_own.then_some("use kafka.security")
}

/// Configuration of the group member.
///
/// # Errors
/// The password file can't be read.
pub(crate) fn consumer_config(kafka: &KafkaConfig) -> anyhow::Result<ClientConfig> {
    let mut config = ClientConfig::new();
    for (name, value) in [
        ("client.id", "iot-consumer"),
        // New topics that a pattern matches are found this fast.
        ("topic.metadata.refresh.interval.ms", "10000"),
        // Several members on a small broker should not hold idle connections long.
        ("reconnect.backoff.ms", "100"),
        ("reconnect.backoff.max.ms", "5000"),
    ] {
        config.set(name, value);
    }
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    let session = kafka.session_timeout.as_millis().to_string();
    for (name, value) in [
        ("bootstrap.servers", kafka.brokers.join(",").as_str()),
        ("group.id", &kafka.group),
        ("session.timeout.ms", &session),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("topic.blacklist", RESERVED),
        ("statistics.interval.ms", STATISTICS_EVERY_MS),
    ] {
        config.set(name, value);
    }
    if !kafka.group_instance_id.is_empty() {
        config.set("group.instance.id", &kafka.group_instance_id);
    }
    secure(config, kafka)
}

/// Adds encryption and login.
fn secure(mut config: ClientConfig, kafka: &KafkaConfig) -> anyhow::Result<ClientConfig> {
    for (name, value) in kafka.security.librdkafka_properties()? {
        config.set(name, value);
    }
    Ok(config)
}

/// Properties that mean something to every kind of client; the others would only make a
/// producer complain.
fn is_common(name: &str) -> bool {
    ["socket.", "broker.", "client.", "debug"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Configuration of the producer of dead letters.
///
/// # Errors
/// The password file can't be read.
pub(crate) fn producer_config(kafka: &KafkaConfig) -> anyhow::Result<ClientConfig> {
    let mut config = ClientConfig::new();
    for (name, value) in kafka.properties.iter().filter(|(name, _)| is_common(name)) {
        config.set(name, value);
    }
    config.set("bootstrap.servers", kafka.brokers.join(","));
    secure(config, kafka)
}

/// How long Kafka may take to answer a question of a tool.
const ANSWER: Duration = Duration::from_secs(30);

/// The topic that a tool is for: the one given, else the first of the settings that is
/// no pattern.
///
/// # Errors
/// There are patterns only.
pub(crate) fn plain_topic(given: Option<&str>, kafka: &KafkaConfig) -> anyhow::Result<String> {
    let mut plain = kafka.topics.iter().filter(|topic| !topic.starts_with('^'));
    let topic = given.or_else(|| plain.next().map(String::as_str));
    let topic = topic.context("--topic is needed: kafka.topics has patterns only")?;
    Ok(topic.to_owned())
}

/// The partitions of a topic, in order.
///
/// # Errors
/// There is no such topic, or Kafka doesn't answer.
pub(crate) fn partitions<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
) -> anyhow::Result<Vec<i32>> {
    let metadata = consumer
        .fetch_metadata(Some(topic), ANSWER)
        .with_context(|| format!("asking Kafka for topic {topic}"))?;
    let partitions = metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions());
    let mut partitions: Vec<i32> = partitions.map(|partition| partition.id()).collect();
    partitions.sort_unstable();
    anyhow::ensure!(!partitions.is_empty(), "there is no topic {topic}");
    Ok(partitions)
}

/// The first offset of a partition at that time of Kafka or later; none if there is
/// no record.
///
/// # Errors
/// Kafka doesn't say.
pub(crate) fn offset_at<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    time: jiff::Timestamp,
) -> anyhow::Result<Option<i64>> {
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition_offset(topic, partition, Offset::Offset(time.as_millisecond()))?;
    let context = || format!("looking for {time} in topic {topic}");
    let found = consumer
        .offsets_for_times(wanted, ANSWER)
        .with_context(context)?;
    let found = found
        .find_partition(topic, partition)
        .with_context(context)?;
    found.error().with_context(context)?;
    Ok(match found.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    })
}

/// The offset that the group has committed for a partition, if it has; blocks for
/// `deadline` at most.
///
/// # Errors
/// Kafka doesn't answer.
pub(crate) fn committed(
    kafka: &KafkaConfig,
    at: &TopicPartition,
    deadline: Duration,
) -> anyhow::Result<Option<i64>> {
    // Not the member's own client, which is busy in its thread; this one never
    // joins the group.
    let mut config = producer_config(kafka)?;
    config.set("group.id", &kafka.group);
    let consumer: BaseConsumer = config.create().context("creating a client")?;
    let mut wanted = TopicPartitionList::new();
    let (topic, partition) = at.parts();
    wanted.add_partition(topic, partition);
    let found = consumer.committed_offsets(wanted, deadline)?;
    let found = found.find_partition(topic, partition);
    let found = found.context("the answer lacks the partition")?;
    found.error()?;
    Ok(match found.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    })
}
