//! The Kafka side: how clients are configured, and the thread that is a member
//! of the consumer group.

pub(crate) mod context;
pub(crate) mod group;
pub(crate) mod progress;
pub(crate) mod statistics;

use std::time::Duration;

use anyhow::Context;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::config::KafkaConfig;
use context::Partition;

/// How often librdkafka reports statistics: lag and the state of connections.
pub(crate) const STATISTICS_EVERY_MS: &str = "1000";

/// Topics that no pattern may match: those of the platform and of Kafka itself
/// (librdkafka's expressions have no lookahead, so a pattern can't leave them out).
const RESERVED: &str = r"^iot\..*,^device-aggregates$,^alert-events$,^__.*";

/// Properties that can't be given, and why.
pub(crate) const OWN_PROPERTIES: &[(&str, &str)] = &[
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
        "lag and readiness come from the statistics",
    ),
];

/// Configuration of the group member.
///
/// # Errors
/// The password file can't be read.
pub(crate) fn consumer_config(kafka: &KafkaConfig) -> anyhow::Result<ClientConfig> {
    let mut config = ClientConfig::new();
    for (name, value) in [
        ("client.id", "iot-consumer"),
        // The default of a second costs five times the throughput.
        ("fetch.queue.backoff.ms", "5"),
        ("queued.min.messages", "20000"),
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
        // An offset that is gone is loss, to be counted and not to be jumped over.
        ("auto.offset.reset", "error"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("isolation.level", "read_committed"),
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

/// Properties that mean something to every kind of client, such as those for
/// TLS and SASL; the others would only make a producer complain.
fn is_common(name: &str) -> bool {
    [
        "security.",
        "sasl.",
        "ssl.",
        "socket.",
        "broker.",
        "client.",
        "debug",
    ]
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

/// The offset that the group has committed for a partition, if it has; blocks for
/// `deadline` at most.
///
/// # Errors
/// Kafka doesn't answer.
pub(crate) fn committed(
    kafka: &KafkaConfig,
    (topic, partition): &Partition,
    deadline: Duration,
) -> anyhow::Result<Option<i64>> {
    // Not the member's own client, which is busy in its thread; this one never
    // joins the group.
    let mut config = producer_config(kafka)?;
    config.set("group.id", &kafka.group);
    let consumer: BaseConsumer = config.create().context("creating a client")?;
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition(topic, *partition);
    let found = consumer.committed_offsets(wanted, deadline)?;
    let found = found.find_partition(topic, *partition);
    let found = found.context("the answer lacks the partition")?;
    found.error()?;
    Ok(match found.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    })
}
