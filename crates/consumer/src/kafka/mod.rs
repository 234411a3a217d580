//! The Kafka side: the configuration of clients, the thread that is a member of the consumer
//! group, and the fetching of records.

pub(crate) mod context;
pub(crate) mod ends;
pub(crate) mod fetch;
pub(crate) mod group;
pub(crate) mod lag_metrics;
pub(crate) mod lookups;
pub(crate) mod marks;
pub(crate) mod metrics;
pub(crate) mod patterns;
pub(crate) mod progress;
pub(crate) mod record_times;
pub(crate) mod refused;
pub(crate) mod statistics;
pub(crate) mod topic;

use std::time::Duration;

use anyhow::Context;
use iot_core::partition::TopicPartition;
use iot_kafka::context::Quiet;
use iot_kafka::lookup;
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::future_producer::DeliveryFuture;

use crate::config::KafkaConfig;
pub(crate) use metrics::KafkaMetrics;

/// How often librdkafka reports statistics: the state of connections and of the group.
pub(crate) const STATISTICS_EVERY_MS: &str = "1000";

/// Longest wait for a broker's answer, unless `kafka.properties` has another. A broker that
/// hangs is given up after this time, and another one is asked.
const SOCKET_TIMEOUT_MS: &str = "5000";

/// The same for the group member. The coordinator answers one request after the other, so a
/// commit waits behind a rebalance, in which owners may take 8 s to store their state.
const MEMBER_SOCKET_TIMEOUT_MS: &str = "10000";

/// How long the group waits for a member in a rebalance, unless the session is longer or
/// `kafka.properties` has another: longer than owners may take to store their state.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Topics that no pattern may match: those of the platform and of Kafka itself. librdkafka's
/// expressions have no lookahead, so a pattern can't exclude them.
const RESERVED: &str = r"^iot\..*,^device-aggregates$,^alert-events$,^__.*";

/// A record that was handed to a producer, or why its queue refused it.
pub(crate) type Queued = Result<DeliveryFuture, KafkaError>;

/// Returns once Kafka has confirmed a record.
///
/// # Errors
/// It was refused, or the producer ended before.
pub(crate) async fn written(queued: Queued) -> Result<(), KafkaError> {
    match queued?.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}

/// Configuration of the group member.
///
/// # Errors
/// The password file can't be read.
pub(crate) fn consumer_config(kafka: &KafkaConfig) -> anyhow::Result<ClientConfig> {
    let mut config = ClientConfig::new();
    let rebalance = REBALANCE_TIMEOUT.max(*kafka.session_timeout);
    let rebalance = rebalance.as_millis().to_string();
    // Defaults, which kafka.properties may override.
    for (name, value) in [
        ("client.id", "iot-consumer"),
        ("socket.timeout.ms", MEMBER_SOCKET_TIMEOUT_MS),
        ("max.poll.interval.ms", &rebalance),
        // How soon new topics that match a pattern are found.
        ("topic.metadata.refresh.interval.ms", "10000"),
        ("reconnect.backoff.ms", "100"),
        ("reconnect.backoff.max.ms", "5000"),
    ] {
        config.set(name, value);
    }
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    // Other settings and fixed values. They override kafka.properties, because offsets and
    // assignment depend on them.
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
    kafka.security.apply(&mut config)?;
    Ok(config)
}

/// Whether a property applies to every kind of client. librdkafka's producers log a warning
/// about properties of consumers.
fn is_common(name: &str) -> bool {
    ["socket.", "broker.", "client.", "debug"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Configuration of every client except the group member.
///
/// # Errors
/// The password file can't be read.
pub(crate) fn base_config(kafka: &KafkaConfig) -> anyhow::Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config.set("socket.timeout.ms", SOCKET_TIMEOUT_MS);
    for (name, value) in kafka.properties.iter().filter(|(name, _)| is_common(name)) {
        config.set(name, value);
    }
    config.set("bootstrap.servers", kafka.brokers.join(","));
    kafka.security.apply(&mut config)?;
    Ok(config)
}

/// How long a tool waits for Kafka's answer to one request.
pub(crate) const TOOL_DEADLINE: Duration = Duration::from_secs(30);

/// The topic that a tool works on: the given one, otherwise the first of `kafka.topics` that is
/// not a pattern.
///
/// # Errors
/// No topic is given, and `kafka.topics` has patterns only.
pub(crate) fn plain_topic(given: Option<&str>, kafka: &KafkaConfig) -> anyhow::Result<String> {
    let mut plain = kafka.topics.iter().filter(|topic| !topic.starts_with('^'));
    let topic = given.or_else(|| plain.next().map(String::as_str));
    let topic = topic.context("--topic is needed: kafka.topics has patterns only")?;
    Ok(topic.to_owned())
}

/// The offset that the group has committed for a partition; `None` if there is none. Blocks
/// for up to `deadline`.
///
/// # Errors
/// The password file can't be read, the client can't be created, or Kafka doesn't answer.
pub(crate) fn committed(
    kafka: &KafkaConfig,
    at: &TopicPartition,
    deadline: Duration,
) -> anyhow::Result<Option<i64>> {
    // The member's own client is used by its thread only; this one never joins the group.
    let mut config = base_config(kafka)?;
    config.set("group.id", &kafka.group);
    let consumer: BaseConsumer<Quiet> = config
        .create_with_context(Quiet)
        .context("creating a client")?;
    lookup::committed(&consumer, at, deadline)
}
