//! Reads parts of Kafka's log: blocking calls, to be run on a thread for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use iot_core::partition::TopicPartition;
use iot_kafka::context::Quiet;
use iot_kafka::lookup::{self, Watermarks};
use iot_service::Backoff;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::KafkaConfig;

/// Errors are reported by the calls that they fail.
type Reader = BaseConsumer<Quiet>;

/// How long Kafka may take to answer one request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// The same when the time for the topic is over.
const LEAST: Duration = Duration::from_secs(1);
/// How long one topic may take, with all attempts.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(20);

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
/// does not exist has none. An error that may pass is retried until `deadline`, from the
/// start: a record is then visited again.
///
/// # Errors
/// Kafka denies access, or the records are not read by the deadline. There is at least one
/// attempt.
pub(super) fn read_topic(
    consumer: &Reader,
    topic: &str,
    since: Option<i64>,
    deadline: Instant,
    mut visit: impl FnMut(&BorrowedMessage<'_>),
) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let read = ranges(consumer, topic, since, deadline)
            .and_then(|ranges| read(consumer, topic, &ranges, deadline, &mut visit));
        let Err(error) = read else {
            return Ok(());
        };
        let delay = backoff.next_delay();
        if is_permanent(&error) || Instant::now() + delay >= deadline {
            return Err(error);
        }
        let reason = format!("{error:#}");
        tracing::debug!(topic, reason, "cannot read the Kafka topic yet; retrying");
        std::thread::sleep(delay);
    }
}

/// Whether another attempt gets the same answer soon.
fn is_permanent(error: &anyhow::Error) -> bool {
    matches!(
        error
            .downcast_ref()
            .and_then(KafkaError::rdkafka_error_code),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::InvalidTopic)
    )
}

/// The deadline of one request, also in an attempt that starts after `deadline`.
fn request_deadline(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left.clamp(LEAST, REQUEST_DEADLINE)
}

/// Offsets of a partition, `from` inclusive, `to` exclusive.
struct OffsetRange {
    partition: i32,
    from: i64,
    to: i64,
}

/// The offsets that a topic has now, or those since a time.
fn ranges(
    consumer: &Reader,
    topic: &str,
    since: Option<i64>,
    deadline: Instant,
) -> anyhow::Result<Vec<OffsetRange>> {
    let context = || format!("requesting the partitions of {topic}");
    let metadata = consumer.fetch_metadata(Some(topic), request_deadline(deadline));
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
    let name: Arc<str> = topic.into();
    let partitions = found.partitions().iter();
    let partitions = partitions.map(|found| TopicPartition::new(name.clone(), found.id()));
    let partitions: Vec<TopicPartition> = partitions.collect();
    let watermarks = lookup::all_watermarks(consumer, &partitions, request_deadline(deadline))?;
    let mut ranges = Vec::new();
    for (TopicPartition { partition, .. }, Watermarks { low, high }) in
        partitions.into_iter().zip(watermarks)
    {
        ranges.push(OffsetRange {
            partition,
            from: low,
            to: high,
        });
    }
    if let Some(since) = since {
        start_at(consumer, topic, &mut ranges, since, deadline).with_context(context)?;
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
    deadline: Instant,
) -> Result<(), KafkaError> {
    let mut times = TopicPartitionList::new();
    for range in &*ranges {
        times.add_partition_offset(topic, range.partition, Offset::Offset(since.max(0)))?;
    }
    let offsets = consumer.offsets_for_times(times, request_deadline(deadline))?;
    for range in ranges {
        let found = offsets.find_partition(topic, range.partition);
        if let Some(found) = &found {
            found.error()?;
        }
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
    deadline: Instant,
    visit: &mut impl FnMut(&BorrowedMessage<'_>),
) -> anyhow::Result<()> {
    let mut partitions = TopicPartitionList::new();
    for range in ranges {
        partitions.add_partition_offset(topic, range.partition, Offset::Offset(range.from))?;
    }
    consumer.assign(&partitions)?;
    let ends = ranges.iter().map(|range| (range.partition, range.to));
    let mut ends: HashMap<i32, i64> = ends.collect();
    let deadline = deadline.max(Instant::now() + LEAST);
    let mut trouble = None;
    while !ends.is_empty() {
        if Instant::now() >= deadline {
            let late = || format!("{topic} was not read in time");
            return Err(trouble.map_or_else(|| anyhow!("no answer"), anyhow::Error::from))
                .with_context(late);
        }
        match consumer.poll(Duration::from_millis(100)) {
            // Of an earlier assignment.
            Some(Ok(message)) if message.topic() != topic => {}
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
            Some(Err(error)) if is_harmless(&error) => trouble = Some(error),
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

#[cfg(test)]
mod tests {
    use rdkafka::producer::FutureRecord;
    use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};
    use testkit::kafka::{MockKafka, producer, send};

    use super::*;

    /// The payloads of topic `t`, which has three records, when such requests fail first.
    async fn payloads(request: Api, codes: &[Code]) -> anyhow::Result<Vec<String>> {
        let kafka = MockKafka::start(&["t"]);
        let producer = producer(&kafka.brokers());
        for payload in ["1", "2", "3"] {
            send(&producer, FutureRecord::<(), str>::to("t").payload(payload)).await;
        }
        kafka.request_errors(request, codes);
        let config = KafkaConfig {
            brokers: vec![kafka.brokers()],
            ..KafkaConfig::default()
        };
        let read = tokio::task::spawn_blocking(move || {
            let consumer = consumer(&config)?;
            let (mut found, deadline) = (Vec::new(), Instant::now() + testkit::DEADLINE);
            read_topic(&consumer, "t", None, deadline, |record| {
                let payload = String::from_utf8_lossy(record.payload().unwrap_or_default());
                found.push(payload.into_owned());
            })?;
            Ok(found)
        });
        let found = read.await;
        drop(kafka);
        found?
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn errors_that_pass_are_retried() {
        let offset_not_available = Code::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE;
        let moved = Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
        let gone = Code::RD_KAFKA_RESP_ERR__TRANSPORT;
        for (request, code, times) in [
            (Api::ListOffsets, offset_not_available, 1),
            (Api::ListOffsets, offset_not_available, 3),
            (Api::ListOffsets, moved, 3),
            (Api::ListOffsets, gone, 3),
            (Api::Fetch, moved, 3),
            (Api::Fetch, offset_not_available, 3),
        ] {
            let found = payloads(request, &vec![code; times]).await;
            assert_eq!(found.unwrap(), ["1", "2", "3"], "{request:?} {code:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn missing_rights_are_not_retried() {
        let denied = Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        // A look-up asks twice.
        let error = payloads(Api::ListOffsets, &[denied; 2]).await.unwrap_err();
        assert!(is_permanent(&error), "{error:#}");
    }

    #[test]
    fn without_kafka_the_deadline_ends_the_attempts() {
        let config = KafkaConfig {
            brokers: vec![testkit::port::free_address().to_string()],
            ..KafkaConfig::default()
        };
        let consumer = consumer(&config).unwrap();
        let deadline = Instant::now() + Duration::from_secs(2);
        read_topic(&consumer, "t", None, deadline, |_| ()).unwrap_err();
    }
}
