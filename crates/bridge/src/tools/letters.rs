//! Reads the dead-letter topic in the order of time, up to its end at the time of the start.
//! Joins no group and commits nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iot_core::dead_letter;
use iot_core::headers::MQTT_TOPIC;
use iot_core::partition::TopicPartition;
use iot_kafka::context::Quiet;
use iot_kafka::errors::{Named, code};
use iot_kafka::headers::{copy, text};
use iot_kafka::lookup::{self, Watermarks};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message, OwnedHeaders};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::cluster::DEADLINE;
use crate::config::BridgeConfig;

/// Kafka counts as unreachable after this long without a record.
const SILENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// A dead letter.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// When the message became a dead letter, milliseconds since the Unix epoch.
    pub(super) time: i64,
    pub(super) reason: String,
    pub(super) detail: String,
    pub(super) origin: Origin,
    /// Size of the payload before truncation, bytes.
    pub(super) size: u64,
    /// Whether the payload is truncated.
    pub(super) cut: bool,
    /// The readings that were refused, as JSON, if others of the message were accepted.
    pub(super) partial: Option<String>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) headers: OwnedHeaders,
}

/// Where the message was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// From MQTT, by the bridge.
    Mqtt { topic: String },
    /// From Kafka, by a consumer.
    Kafka { at: TopicPartition, offset: i64 },
    /// The headers do not say.
    Unknown,
}

impl Letter {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = copy(message);
        let payload = message.payload().map(<[u8]>::to_vec);
        let kept = payload.as_ref().map_or(0, Vec::len) as u64;
        let whole = text(&headers, dead_letter::SIZE).and_then(|size| size.parse().ok());
        let time = text(&headers, dead_letter::TIME).and_then(|time| time.parse().ok());
        let own = |name| text(&headers, name).unwrap_or_default().to_string();
        Self {
            partition: message.partition(),
            offset: message.offset(),
            time: time.or(message.timestamp().to_millis()).unwrap_or_default(),
            reason: own(dead_letter::REASON),
            detail: own(dead_letter::DETAIL),
            origin: Origin::of(&headers),
            size: whole.unwrap_or(kept),
            // Only a truncated message has the header.
            cut: whole.is_some(),
            partial: partial(&headers),
            key: message.key().map(<[u8]>::to_vec),
            payload,
            headers,
        }
    }
}

/// The list of refused readings, whatever it holds: its presence decides.
fn partial(headers: &OwnedHeaders) -> Option<String> {
    let mut all = headers.iter();
    let found = all.find(|header| header.key == dead_letter::PARTIAL)?;
    let value = found.value.unwrap_or_default();
    Some(String::from_utf8_lossy(value).into_owned())
}

impl Origin {
    fn of(headers: &OwnedHeaders) -> Self {
        let number = |name| text(headers, name)?.parse::<i64>().ok();
        let topic = text(headers, dead_letter::TOPIC).or(text(headers, MQTT_TOPIC));
        let partition = number(dead_letter::PARTITION).and_then(|p| i32::try_from(p).ok());
        match (topic, partition, number(dead_letter::OFFSET)) {
            (Some(topic), Some(partition), Some(offset)) => Self::Kafka {
                at: TopicPartition::new(topic, partition),
                offset,
            },
            (Some(topic), None, None) => Self::Mqtt {
                topic: topic.to_string(),
            },
            _ => Self::Unknown,
        }
    }
}

/// Where to start reading: other partitions start at the start of their log.
#[derive(Debug, Clone, Default)]
pub(super) struct Start {
    pub(super) partition: Option<i32>,
    pub(super) from: BTreeMap<i32, i64>,
}

/// The dead letters from the start to the end that the topic had when this was opened.
/// Holds one dead letter per partition, and what librdkafka fetched ahead.
pub(super) struct Letters {
    consumer: Arc<BaseConsumer<Quiet>>,
    lanes: Vec<Lane>,
    /// The partition of the last dead letter.
    last: i32,
}

/// One partition.
struct Lane {
    partition: i32,
    queue: PartitionQueue<Quiet>,
    /// Dead letters that arrived before the partition had a queue of its own.
    early: VecDeque<Letter>,
    head: Option<Letter>,
    next: i64,
    end: i64,
    /// Kafka reports the end: the last offsets hold no record.
    ended: bool,
}

impl Letters {
    /// `None` if there is no dead-letter topic.
    pub(super) fn open(config: &BridgeConfig, start: &Start) -> anyhow::Result<Option<Self>> {
        let topic = config.dead_letter.topic.as_str();
        let consumer = Arc::new(consumer(config)?);
        let Some(bounds) = bounds(&consumer, topic, start)? else {
            return Ok(None);
        };
        let mut assignment = TopicPartitionList::new();
        for (partition, bounds) in &bounds {
            let offset = Offset::Offset(bounds.low);
            assignment.add_partition_offset(topic, *partition, offset)?;
        }
        consumer
            .assign(&assignment)
            .context("opening the dead-letter topic")?;
        let lanes = bounds.into_iter().map(|(partition, bounds)| {
            let queue = consumer.split_partition_queue(topic, partition);
            Ok(Lane {
                partition,
                queue: queue.context("opening a partition")?,
                early: VecDeque::new(),
                head: None,
                next: bounds.low,
                end: bounds.high,
                ended: false,
            })
        });
        let lanes = lanes.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Some(Self {
            consumer,
            lanes,
            last: -1,
        }))
    }

    /// The next dead letter by time. Those of one partition keep their order.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Letter>> {
        for index in 0..self.lanes.len() {
            self.fill(index)?;
        }
        let last = self.last;
        let heads = self.lanes.iter_mut().filter(|lane| lane.head.is_some());
        let first = heads.min_by_key(|lane| {
            let time = lane.head.as_ref().map(|letter| letter.time);
            // Producers stay with a partition for a while: at equal times the partition
            // of the last dead letter comes first.
            (time, lane.partition != last, lane.partition)
        });
        let letter = first.and_then(|lane| lane.head.take());
        self.last = letter.as_ref().map_or(last, |letter| letter.partition);
        Ok(letter)
    }

    /// For each partition the first offset that was not returned yet.
    pub(super) fn positions(&self) -> BTreeMap<i32, i64> {
        let position = |lane: &Lane| {
            let next = if lane.is_done() {
                lane.end.max(lane.next)
            } else {
                lane.next
            };
            let head = lane.head.as_ref().map(|letter| letter.offset);
            (lane.partition, head.unwrap_or(next))
        };
        self.lanes.iter().map(position).collect()
    }

    fn fill(&mut self, index: usize) -> anyhow::Result<()> {
        let since = Instant::now();
        while self.lanes[index].head.is_none() && !self.lanes[index].is_done() {
            self.serve()?;
            let lane = &mut self.lanes[index];
            if let Some(letter) = lane.early.pop_front() {
                lane.take(letter);
                continue;
            }
            let polled = lane
                .queue
                .poll(POLL)
                .map(|message| message.map(|m| Letter::of(&m)));
            match polled {
                Some(Ok(letter)) => lane.take(letter),
                Some(Err(KafkaError::PartitionEOF(_))) => lane.ended = true,
                Some(Err(error)) => check(&error)?,
                None => {}
            }
            if since.elapsed() > SILENCE {
                let (partition, next) = (self.lanes[index].partition, self.lanes[index].next);
                bail!("no record of partition {partition} from offset {next} for {SILENCE:?}");
            }
        }
        Ok(())
    }

    /// Takes what is not on the queue of a partition: events, and records that arrived
    /// before the queue existed.
    fn serve(&mut self) -> anyhow::Result<()> {
        let consumer = self.consumer.clone();
        while let Some(event) = consumer.poll(Duration::ZERO) {
            match event {
                Ok(message) => {
                    let letter = Letter::of(&message);
                    let lane = self
                        .lanes
                        .iter_mut()
                        .find(|l| l.partition == letter.partition);
                    if let Some(lane) = lane {
                        lane.early.push_back(letter);
                    }
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    let lane = self
                        .lanes
                        .iter_mut()
                        .find(|lane| lane.partition == partition);
                    if let Some(lane) = lane {
                        lane.ended = true;
                    }
                }
                Err(error) => check(&error)?,
            }
        }
        Ok(())
    }
}

impl Lane {
    fn is_done(&self) -> bool {
        self.next >= self.end || (self.ended && self.early.is_empty())
    }

    fn take(&mut self, letter: Letter) {
        self.next = letter.offset + 1;
        if letter.offset < self.end {
            self.head = Some(letter);
        } else {
            self.next = self.end;
        }
    }
}

/// Fails on errors that librdkafka does not recover from by itself.
fn check(error: &KafkaError) -> anyhow::Result<()> {
    use RDKafkaErrorCode as Code;
    match code(error) {
        // Of the group that librdkafka needs a name of, and that is never joined.
        Code::GroupAuthorizationFailed
        | Code::AllBrokersDown
        | Code::BrokerTransportFailure
        | Code::OperationTimedOut
        | Code::Resolve => Ok(()),
        code => bail!("reading dead letters: {}", Named(code)),
    }
}

fn consumer(config: &BridgeConfig) -> anyhow::Result<BaseConsumer<Quiet>> {
    let mut client = config.kafka.client()?;
    client
        .set("group.id", "iot-bridge-dead-letters")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        // Retention may delete records while they are read.
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "50")
        // The default waits a second whenever the queue was full.
        .set("fetch.queue.backoff.ms", "5")
        // Bounds memory per partition; a larger record still arrives, alone.
        .set("queued.min.messages", "1000")
        .set("queued.max.messages.kbytes", "1024")
        .set("fetch.message.max.bytes", "1048576");
    client
        .create_with_context(Quiet)
        .context("creating the Kafka client")
}

/// The partitions to read, each with its first offset and its end; `None` if there is no
/// such topic.
fn bounds(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    start: &Start,
) -> anyhow::Result<Option<Vec<(i32, Watermarks)>>> {
    // Not by the name of the topic: the broker might create it.
    let metadata = consumer.fetch_metadata(None, DEADLINE);
    let metadata = metadata.context("no Kafka broker answers")?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(None);
    };
    let mut partitions: Vec<i32> = found.partitions().iter().map(|p| p.id()).collect();
    partitions.sort_unstable();
    for asked in start.partition.iter().chain(start.from.keys()) {
        if !partitions.contains(asked) {
            bail!("{topic} has no partition {asked}");
        }
    }
    partitions.retain(|partition| start.partition.is_none_or(|only| only == *partition));
    let name: Arc<str> = topic.into();
    let named = partitions.iter();
    let named = named.map(|number| TopicPartition::new(name.clone(), *number));
    let named: Vec<TopicPartition> = named.collect();
    let all = lookup::all_watermarks(consumer, &named, DEADLINE)?;
    let from = |(partition, watermarks): (i32, Watermarks)| {
        let from = start.from.get(&partition).copied();
        let low = from.unwrap_or(watermarks.low).max(watermarks.low);
        (partition, Watermarks { low, ..watermarks })
    };
    Ok(Some(partitions.into_iter().zip(all).map(from).collect()))
}

#[cfg(test)]
pub(super) mod tests {
    use rdkafka::message::Header;

    use super::*;

    /// A dead letter with these headers.
    pub(in super::super) fn letter(headers: &[(&str, &str)], payload: &[u8]) -> Letter {
        let add = |all: OwnedHeaders, (key, value): &(&str, &str)| {
            all.insert(Header {
                key,
                value: Some(*value),
            })
        };
        let headers = headers.iter().fold(OwnedHeaders::new(), add);
        Letter {
            partition: 0,
            offset: 0,
            time: 0,
            reason: text(&headers, dead_letter::REASON)
                .unwrap_or_default()
                .into(),
            detail: String::new(),
            origin: Origin::of(&headers),
            size: payload.len() as u64,
            cut: false,
            partial: partial(&headers),
            key: None,
            payload: Some(payload.to_vec()),
            headers,
        }
    }

    #[test]
    fn headers_tell_the_origin() {
        let bridge = [
            ("mqtt-topic", "a/b"),
            ("dlq-topic", "a/b"),
            ("dlq-reason", "x"),
        ];
        let mqtt = Origin::Mqtt {
            topic: "a/b".into(),
        };
        assert_eq!(letter(&bridge, b"").origin, mqtt);
        let consumer = [
            ("mqtt-topic", "a/b"),
            ("dlq-topic", "t.p"),
            ("dlq-partition", "3"),
            ("dlq-offset", "44"),
        ];
        let kafka = Origin::Kafka {
            at: TopicPartition::new("t.p", 3),
            offset: 44,
        };
        assert_eq!(letter(&consumer, b"").origin, kafka);
        assert_eq!(letter(&[("dlq-offset", "1")], b"").origin, Origin::Unknown);
    }
}
