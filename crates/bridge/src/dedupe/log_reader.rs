//! Reads parts of Kafka's log: blocking calls, to be run on a thread for them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use iot_kafka::context::Quiet;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::KafkaConfig;

/// Errors are reported by the calls that they fail.
type Reader = BaseConsumer<Quiet>;

const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long one topic may take.
const READ_DEADLINE: Duration = Duration::from_secs(20);

/// A consumer that commits nothing and joins no group.
///
/// # Errors
/// Its settings can't be used, or the password file can't be read.
pub(super) fn consumer(config: &KafkaConfig) -> anyhow::Result<Reader> {
    let mut client = config.client()?;
    client
        // librdkafka requires a name for the group that is never joined.
        .set("group.id", "iot-bridge-tail")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.wait.max.ms", "10")
        .set("queued.max.messages.kbytes", "4096")
        .set("fetch.message.max.bytes", "1048576");
    client
        .create_with_context(Quiet)
        .context("creating a Kafka consumer")
}

/// Passes to `visit` every record that `topic` has now, or only those with a
/// timestamp of at least `since` (milliseconds since the Unix epoch). A topic that
/// does not exist has none.
///
/// # Errors
/// Kafka does not answer, denies access, or takes longer than 20 s.
pub(super) fn read_topic(
    consumer: &Reader,
    topic: &str,
    since: Option<i64>,
    visit: impl FnMut(&BorrowedMessage<'_>),
) -> anyhow::Result<()> {
    let ranges = ranges(consumer, topic, since)?;
    read(consumer, topic, &ranges, visit)
}

/// Offsets of a partition, `from` inclusive, `to` exclusive.
struct OffsetRange {
    partition: i32,
    from: i64,
    to: i64,
}

/// The offsets that a topic has now, or those since a time.
fn ranges(consumer: &Reader, topic: &str, since: Option<i64>) -> anyhow::Result<Vec<OffsetRange>> {
    let context = || format!("requesting the partitions of {topic}");
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_DEADLINE);
    let metadata = metadata.with_context(context)?;
    let Some(found) = metadata.topics().first() else {
        return Ok(Vec::new());
    };
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            return Ok(Vec::new());
        }
        Some(code) => return Err(KafkaError::MetadataFetch(code)).with_context(context),
    }
    let partitions = found.partitions().iter();
    let mut ranges = Vec::new();
    for partition in partitions.map(|partition| partition.id()) {
        let watermarks = consumer.fetch_watermarks(topic, partition, REQUEST_DEADLINE);
        let (low, high) = watermarks.with_context(context)?;
        ranges.push(OffsetRange {
            partition,
            from: low,
            to: high,
        });
    }
    if let Some(since) = since {
        start_at(consumer, topic, &mut ranges, since).with_context(context)?;
    }
    ranges.retain(|range| range.from < range.to);
    Ok(ranges)
}

/// Moves the start of each range to the first record that is not older.
fn start_at(
    consumer: &Reader,
    topic: &str,
    ranges: &mut [OffsetRange],
    since: i64,
) -> Result<(), KafkaError> {
    let mut times = TopicPartitionList::new();
    for range in &*ranges {
        times.add_partition_offset(topic, range.partition, Offset::Offset(since.max(0)))?;
    }
    let offsets = consumer.offsets_for_times(times, REQUEST_DEADLINE)?;
    for range in ranges {
        let found = offsets.find_partition(topic, range.partition);
        range.from = match found.map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => offset.max(range.from),
            // All of its records are older.
            _ => range.to,
        };
    }
    Ok(())
}

/// Reads ranges of a topic to their ends.
fn read(
    consumer: &Reader,
    topic: &str,
    ranges: &[OffsetRange],
    mut visit: impl FnMut(&BorrowedMessage<'_>),
) -> anyhow::Result<()> {
    let mut partitions = TopicPartitionList::new();
    for range in ranges {
        partitions.add_partition_offset(topic, range.partition, Offset::Offset(range.from))?;
    }
    consumer.assign(&partitions)?;
    let ends = ranges.iter().map(|range| (range.partition, range.to));
    let mut ends: HashMap<i32, i64> = ends.collect();
    let deadline = Instant::now() + READ_DEADLINE;
    while !ends.is_empty() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "reading {topic} took longer than {} s",
            READ_DEADLINE.as_secs()
        );
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let partition = message.partition();
                visit(&message);
                if ends
                    .get(&partition)
                    .is_some_and(|end| message.offset() + 1 >= *end)
                {
                    ends.remove(&partition);
                }
            }
            // Also if the last offset is a control record, such as an abort marker.
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ends.remove(&partition)),
            Some(Err(error)) if is_harmless(&error) => {}
            Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
            None => {}
        }
    }
    Ok(())
}

/// Errors that librdkafka retries by itself, or that don't affect the reads.
fn is_harmless(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            // About the group that is never joined.
            RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
        )
    )
}
