//! Reads what an earlier process of the bridge left in Kafka: the last
//! checkpoint of a session, and the deliveries that it wrote since.
//!
//! Everything here blocks, and runs on a thread for that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use iot_core::headers::{BRIDGE_SESSIONS_TOPIC, MQTT_DELIVERY};
use iot_kafka::headers;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::KafkaConfig;
use crate::deliveries::Fingerprint;
use crate::redelivery::Restored;

const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
const READ_DEADLINE: Duration = Duration::from_secs(20);
/// A record may be a little older than the message seems, where Kafka's
/// clock is the one that counts.
const CLOCK_SLACK_MS: i64 = 2_000;

/// The last checkpoint of a session.
///
/// # Errors
/// When Kafka can't be asked.
pub(crate) fn checkpoint(config: &KafkaConfig, client_id: &str) -> anyhow::Result<Restored> {
    let topic = BRIDGE_SESSIONS_TOPIC;
    let consumer = consumer(config)?;
    let mut last = None;
    let read = spans(&consumer, topic, None).and_then(|spans| {
        read(&consumer, topic, &spans, |message| {
            if message.key() == Some(client_id.as_bytes()) {
                last = message.payload().map(<[u8]>::to_vec);
            }
        })
    });
    match read {
        // Whoever may write to a topic sees it, and may still not read it.
        Err(error) if is_denied(&error) => return Ok(Restored::Denied),
        read => read?,
    }
    let Some(json) = last else {
        return Ok(Restored::Last(None));
    };
    let checkpoint = serde_json::from_slice(&json);
    if let Err(error) = &checkpoint {
        tracing::warn!(topic, client_id, %error, "the last record is no checkpoint");
    }
    Ok(Restored::Last(checkpoint.ok()))
}

fn is_denied(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<KafkaError>();
    code.and_then(KafkaError::rdkafka_error_code)
        == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
}

/// The hashes, by session and number, of the deliveries of `session` in `topics` that were
/// written since a time, in milliseconds since the epoch.
///
/// # Errors
/// When Kafka can't be asked, or the topics can't be read to their end in time.
pub(crate) fn deliveries(
    config: &KafkaConfig,
    topics: &HashSet<Arc<str>>,
    session: u64,
    since: i64,
) -> anyhow::Result<HashMap<(u64, u64), u128>> {
    let consumer = consumer(config)?;
    let mut found = HashMap::new();
    for topic in topics {
        let spans = spans(&consumer, topic, Some(since - CLOCK_SLACK_MS))?;
        read(&consumer, topic, &spans, |message| {
            let print = fingerprint(message);
            if let Some(print) = print.filter(|print| print.session == session) {
                found.insert((print.session, print.number), print.hash);
            }
        })?;
    }
    Ok(found)
}

fn fingerprint(message: &BorrowedMessage<'_>) -> Option<Fingerprint> {
    Fingerprint::from_bytes(headers::first(message, MQTT_DELIVERY)?)
}

fn consumer(config: &KafkaConfig) -> anyhow::Result<BaseConsumer> {
    let mut client = config.client()?;
    client
        // Asked for by the client; nothing is ever committed.
        .set("group.id", "iot-bridge-tail")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.wait.max.ms", "10")
        .set("queued.max.messages.kbytes", "4096")
        .set("fetch.message.max.bytes", "1048576");
    client.create().context("creating a Kafka consumer")
}

/// A part of a partition's log, from the first offset up to the second.
struct Span {
    partition: i32,
    from: i64,
    to: i64,
}

/// What has been written to a topic, or to it since a time.
fn spans(consumer: &BaseConsumer, topic: &str, since: Option<i64>) -> anyhow::Result<Vec<Span>> {
    let context = || format!("asking for the partitions of {topic}");
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
    let mut spans = Vec::new();
    for partition in partitions.map(|partition| partition.id()) {
        let asked = consumer.fetch_watermarks(topic, partition, REQUEST_DEADLINE);
        let (low, high) = asked.with_context(context)?;
        spans.push(Span {
            partition,
            from: low,
            to: high,
        });
    }
    if let Some(since) = since {
        begin_at(consumer, topic, &mut spans, since).with_context(context)?;
    }
    spans.retain(|span| span.from < span.to);
    Ok(spans)
}

/// Moves the beginning of each span to the first record that is not older.
fn begin_at(
    consumer: &BaseConsumer,
    topic: &str,
    spans: &mut [Span],
    since: i64,
) -> Result<(), KafkaError> {
    let mut times = TopicPartitionList::new();
    for span in &*spans {
        times.add_partition_offset(topic, span.partition, Offset::Offset(since.max(0)))?;
    }
    let offsets = consumer.offsets_for_times(times, REQUEST_DEADLINE)?;
    for span in spans {
        let found = offsets.find_partition(topic, span.partition);
        span.from = match found.map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => offset.max(span.from),
            // Everything in it is older.
            _ => span.to,
        };
    }
    Ok(())
}

/// Reads spans of a topic to their ends.
fn read(
    consumer: &BaseConsumer,
    topic: &str,
    spans: &[Span],
    mut visit: impl FnMut(&BorrowedMessage<'_>),
) -> anyhow::Result<()> {
    let mut partitions = TopicPartitionList::new();
    for span in spans {
        partitions.add_partition_offset(topic, span.partition, Offset::Offset(span.from))?;
    }
    consumer.assign(&partitions)?;
    let ends = spans.iter().map(|span| (span.partition, span.to));
    let mut ends: HashMap<i32, i64> = ends.collect();
    let deadline = Instant::now() + READ_DEADLINE;
    while !ends.is_empty() {
        anyhow::ensure!(Instant::now() < deadline, "{topic} takes too long to read");
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
            // Also where the last record is no message, such as an abort.
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ends.remove(&partition)),
            Some(Err(error)) if passes(&error) => {}
            Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
            None => {}
        }
    }
    Ok(())
}

/// What librdkafka itself gets over, or needs not.
fn passes(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            // Of the group that is named and never joined.
            RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
        )
    )
}
