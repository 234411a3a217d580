//! Reads the dead-letter topic: in the order of time, up to where it ended at
//! the start, without a group and without a trace.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iot_core::headers;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message, OwnedHeaders};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::cluster::{self, Bounds, DEADLINE};
use crate::config::BridgeConfig;
use crate::creator::Quiet;

/// Kafka that gives nothing for so long is away.
const SILENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// A dead letter.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// When the message was given up, milliseconds since the epoch.
    pub(super) time: i64,
    pub(super) reason: String,
    pub(super) detail: String,
    pub(super) origin: Origin,
    /// Size of the payload, before it was cut.
    pub(super) size: u64,
    /// Whether only the beginning of the payload was kept.
    pub(super) cut: bool,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) headers: OwnedHeaders,
}

/// Where a dead letter was on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Given up by the bridge.
    Mqtt { topic: String },
    /// Read from Kafka and given up by a consumer.
    Kafka {
        topic: String,
        partition: i32,
        offset: i64,
    },
    /// Its headers don't say.
    Unknown,
}

impl Letter {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| headers.detach());
        let headers = headers.unwrap_or_default();
        let payload = message.payload().map(<[u8]>::to_vec);
        let kept = payload.as_ref().map_or(0, Vec::len) as u64;
        let whole = header(&headers, "dlq-size").and_then(|size| size.parse().ok());
        let time = header(&headers, headers::DLQ_TIME).and_then(|time| time.parse().ok());
        let own = |name| header(&headers, name).unwrap_or_default().to_string();
        Self {
            partition: message.partition(),
            offset: message.offset(),
            time: time.or(message.timestamp().to_millis()).unwrap_or_default(),
            reason: own(headers::DLQ_REASON),
            detail: own("dlq-detail"),
            origin: Origin::of(&headers),
            size: whole.unwrap_or(kept),
            // Only what was cut says its size; headers may be missing then too.
            cut: whole.is_some(),
            key: message.key().map(<[u8]>::to_vec),
            payload,
            headers,
        }
    }
}

impl Origin {
    fn of(headers: &OwnedHeaders) -> Self {
        let number = |name| header(headers, name)?.parse::<i64>().ok();
        let topic = header(headers, headers::DLQ_TOPIC).or(header(headers, headers::MQTT_TOPIC));
        let partition = number(headers::DLQ_PARTITION).and_then(|p| i32::try_from(p).ok());
        match (topic, partition, number(headers::DLQ_OFFSET)) {
            (Some(topic), Some(partition), Some(offset)) => Self::Kafka {
                topic: topic.to_string(),
                partition,
                offset,
            },
            (Some(topic), None, None) => Self::Mqtt {
                topic: topic.to_string(),
            },
            _ => Self::Unknown,
        }
    }
}

fn header<'a>(headers: &'a OwnedHeaders, name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|header| header.key == name)?;
    std::str::from_utf8(found.value?).ok()
}

/// Where to begin; partitions that are not named begin where their log does.
#[derive(Debug, Clone, Default)]
pub(super) struct Start {
    pub(super) partition: Option<i32>,
    pub(super) from: BTreeMap<i32, i64>,
}

/// The letters between the begin and where the topic ended when this was
/// opened. Holds one letter a partition, and what librdkafka fetched ahead.
pub(super) struct Letters {
    consumer: Arc<BaseConsumer<Quiet>>,
    lanes: Vec<Lane>,
    /// The partition that gave the last letter.
    last: i32,
}

/// One partition.
struct Lane {
    partition: i32,
    queue: PartitionQueue<Quiet>,
    /// What came before the partition had a queue of its own.
    early: VecDeque<Letter>,
    head: Option<Letter>,
    next: i64,
    end: i64,
    /// Kafka says that nothing follows: the last offsets hold no record.
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
            let offset = Offset::Offset(bounds.begin);
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
                next: bounds.begin,
                end: bounds.end,
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

    /// The oldest letter that was not given yet. Letters of a partition keep
    /// their order; partitions are merged by time.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Letter>> {
        for index in 0..self.lanes.len() {
            self.fill(index)?;
        }
        let last = self.last;
        let heads = self.lanes.iter_mut().filter(|lane| lane.head.is_some());
        let first = heads.min_by_key(|lane| {
            let time = lane.head.as_ref().map(|letter| letter.time);
            // Producers stay with a partition for a while: of the same
            // millisecond first what follows in it.
            (time, lane.partition != last, lane.partition)
        });
        let letter = first.and_then(|lane| lane.head.take());
        self.last = letter.as_ref().map_or(last, |letter| letter.partition);
        Ok(letter)
    }

    /// For each partition the first offset that was not given yet.
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
                bail!("Kafka gives nothing of partition {partition} from offset {next} on");
            }
        }
        Ok(())
    }

    /// Takes what is not on the queue of a partition: events, and records that
    /// came before there was one.
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

/// Whether reading can go on; librdkafka reconnects by itself.
fn check(error: &KafkaError) -> anyhow::Result<()> {
    use RDKafkaErrorCode as Code;
    match cluster::code(error) {
        // There is a group name, for librdkafka needs one, but no group.
        Code::GroupAuthorizationFailed
        | Code::AllBrokersDown
        | Code::BrokerTransportFailure
        | Code::OperationTimedOut
        | Code::Resolve => Ok(()),
        code => bail!("reading dead letters: {code}"),
    }
}

fn consumer(config: &BridgeConfig) -> anyhow::Result<BaseConsumer<Quiet>> {
    let mut client = cluster::client(&config.kafka)?;
    client
        .set("group.id", "iot-bridge-dead-letters")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        // What retention deletes while we read is gone.
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "50")
        // The default waits a second whenever the queue was full.
        .set("fetch.queue.backoff.ms", "5")
        // A partition's share of memory; a larger letter still comes, alone.
        .set("queued.min.messages", "1000")
        .set("queued.max.messages.kbytes", "1024")
        .set("fetch.message.max.bytes", "1048576");
    client
        .create_with_context(Quiet)
        .context("creating the Kafka client")
}

fn bounds(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    start: &Start,
) -> anyhow::Result<Option<Vec<(i32, Bounds)>>> {
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
    let named: Vec<(&str, i32)> = partitions.iter().map(|p| (topic, *p)).collect();
    let bounds = cluster::bounds(consumer, &named)?;
    let from = |(partition, bounds): (i32, Bounds)| {
        let from = start.from.get(&partition).copied().unwrap_or(bounds.begin);
        let begin = from.max(bounds.begin);
        (partition, Bounds { begin, ..bounds })
    };
    Ok(Some(partitions.into_iter().zip(bounds).map(from).collect()))
}

#[cfg(test)]
pub(super) mod tests {
    use rdkafka::message::Header;

    use super::*;

    /// A letter with these headers.
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
            reason: header(&headers, headers::DLQ_REASON)
                .unwrap_or_default()
                .into(),
            detail: String::new(),
            origin: Origin::of(&headers),
            size: payload.len() as u64,
            cut: false,
            key: None,
            payload: Some(payload.to_vec()),
            headers,
        }
    }

    #[test]
    fn the_headers_tell_the_bridges_letters_from_a_consumers() {
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
            topic: "t.p".into(),
            partition: 3,
            offset: 44,
        };
        assert_eq!(letter(&consumer, b"").origin, kafka);
        assert_eq!(letter(&[("dlq-offset", "1")], b"").origin, Origin::Unknown);
    }
}
