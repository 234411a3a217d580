//! The log, read through rskafka: partitions of topics, their records in order, and the dead
//! letters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use iot_core::dead_letter;
use iot_core::partition::TopicPartition;
use iot_kafka::rskafka::{self as kafka, within};
use rskafka::client::Client;
use rskafka::client::partition::{OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::record::{Record, RecordAndOffset};
use tokio::sync::mpsc;

use crate::committed::{Committed, is_foreign, is_marker};

/// Deadline of one call to Kafka.
const CALL: Duration = Duration::from_secs(15);
const FETCH_BYTES: i32 = 4 * 1024 * 1024;
const FETCH_WAIT_MS: i32 = 250;
/// Records that are taken from librdkafka together.
const FOREIGN: usize = 1_000;
/// After this many answers without records below the end of the log there are none.
const EMPTY: u32 = 3;
/// What missing records mean.
const HOLES: &str = "a compacted log can't be folded again";

/// The partitions of topics, in order.
///
/// # Errors
/// Kafka does not answer, or there is no such topic.
pub(crate) async fn partitions(
    client: &Client,
    topics: &[String],
) -> anyhow::Result<Vec<TopicPartition>> {
    let mut found = Vec::new();
    for topic in topics {
        let partitions = kafka::partitions(client, topic, CALL).await?;
        let partitions = partitions.with_context(|| format!("there is no topic {topic}"))?;
        let topic: Arc<str> = topic.as_str().into();
        let partitions = partitions.into_iter();
        found.extend(partitions.map(|number| TopicPartition::new(topic.clone(), number)));
    }
    Ok(found)
}

/// The log of a partition, up to its end at the time of opening.
pub(crate) struct Log {
    client: PartitionClient,
    committed: Committed,
    at: TopicPartition,
    /// First offset that is kept.
    pub(crate) begin: i64,
    /// Offset after the last record that is not in an open transaction.
    pub(crate) end: i64,
}

impl Log {
    /// # Errors
    /// Kafka does not answer.
    pub(crate) async fn open(
        client: &Client,
        committed: &Committed,
        at: &TopicPartition,
    ) -> anyhow::Result<Self> {
        let (topic, number) = at.parts();
        let open = client.partition_client(topic, number, UnknownTopicHandling::Error);
        let client = call("opening a partition", open).await?;
        let begin = call("asking for offsets", client.get_offset(OffsetAt::Earliest)).await?;
        let end = call("asking for offsets", client.get_offset(OffsetAt::Latest)).await?;
        Ok(Self {
            client,
            committed: committed.clone(),
            at: at.clone(),
            begin,
            end,
        })
    }

    /// Reads from an offset on, which must not be below the start.
    pub(crate) fn read_from(&self, offset: i64) -> Reader<'_> {
        Reader {
            log: self,
            next: offset,
            foreign: None,
        }
    }
}

/// Reads a partition to its end.
pub(crate) struct Reader<'l> {
    log: &'l Log,
    next: i64,
    /// What follows a record that rskafka can't decode.
    foreign: Option<mpsc::Receiver<anyhow::Result<RecordAndOffset>>>,
}

/// What follows in a partition.
pub(crate) enum Read {
    Records(Vec<RecordAndOffset>),
    /// A marker that ends a transaction, beyond which rskafka can't read.
    Transaction,
    End,
}

impl Reader<'_> {
    /// Reads what follows.
    ///
    /// # Errors
    /// Kafka does not answer, or the log has holes.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Read> {
        let (next, end) = (self.next, self.log.end);
        for _ in 0..EMPTY {
            if next >= end {
                return Ok(Read::End);
            }
            let mut records = match self.fetch().await {
                Ok(records) => records,
                Err(error) if is_marker(&error) => return Ok(Read::Transaction),
                Err(error) => return Err(error),
            };
            records.retain(|record| record.offset < end);
            let Some(last) = records.last() else { continue };
            self.next = last.offset + 1;
            let whole = usize::try_from(self.next - next) == Ok(records.len());
            ensure!(
                whole,
                "from {next} to {} records are missing: {HOLES}",
                self.next
            );
            return Ok(Read::Records(records));
        }
        bail!("there is no record from {next} to {end}: {HOLES}")
    }

    /// Records from `next` on; none if Kafka has none at the moment.
    async fn fetch(&mut self) -> anyhow::Result<Vec<RecordAndOffset>> {
        let Log {
            client,
            committed,
            at,
            ..
        } = self.log;
        let foreign = match &mut self.foreign {
            Some(foreign) => foreign,
            none => {
                let fetch = client.fetch_records(self.next, 1..FETCH_BYTES, FETCH_WAIT_MS);
                match call("reading records", fetch).await {
                    Err(error) if is_foreign(&error) => none.insert(committed.read(at, self.next)?),
                    answer => return answer.map(|(records, _)| records),
                }
            }
        };
        let mut records = Vec::new();
        foreign.recv_many(&mut records, FOREIGN).await;
        records.into_iter().collect()
    }
}

/// What the consumer refused of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    Whole,
    /// Only the readings at these positions of its message.
    Readings(BTreeSet<usize>),
}

/// What the consumer refused in a partition, by offset.
pub(crate) type OfPartition = BTreeMap<i64, Refused>;

/// What the consumer refused, by partition.
pub(crate) type Letters = HashMap<TopicPartition, OfPartition>;

/// Reads the dead letters of all topics; none if there is no such topic. A record that was read
/// again may have several, of which the last counts, by `dlq-time`: they may be in different
/// partitions.
///
/// # Errors
/// Kafka does not answer, or a list of refused readings can't be read.
pub(crate) async fn letters(
    client: &Client,
    committed: &Committed,
    topic: &str,
) -> anyhow::Result<Letters> {
    let mut letters = Letters::new();
    let mut times = HashMap::new();
    let partitions = kafka::partitions(client, topic, CALL).await?;
    for partition in partitions.unwrap_or_default() {
        let at = TopicPartition::new(topic, partition);
        let log = Log::open(client, committed, &at).await?;
        let mut reader = log.read_from(log.begin);
        loop {
            let records = match reader.next().await? {
                Read::Records(records) => records,
                Read::Transaction => bail!("{topic} has transactions, which are not read"),
                Read::End => break,
            };
            for RecordAndOffset { record, offset } in &records {
                // Dead letters of the bridge come from MQTT and have no offset.
                let Some((partition, of)) = origin(record) else {
                    continue;
                };
                let refused = refused(record);
                let refused = refused.with_context(|| format!("the dead letter {at}:{offset}"));
                let (refused, time) = (refused?, time(record));
                let latest = times.entry((partition.clone(), of)).or_insert(time);
                if time >= *latest {
                    *latest = time;
                    letters.entry(partition).or_default().insert(of, refused);
                }
            }
        }
    }
    Ok(letters)
}

fn origin(record: &Record) -> Option<(TopicPartition, i64)> {
    let header = |name| std::str::from_utf8(record.headers.get(name)?).ok();
    let partition = header(dead_letter::PARTITION)?.parse().ok()?;
    let offset = header(dead_letter::OFFSET)?.parse().ok()?;
    let at = TopicPartition::new(header(dead_letter::TOPIC)?, partition);
    Some((at, offset))
}

/// When the record was refused, in milliseconds since the epoch.
fn time(record: &Record) -> i64 {
    let time = record.headers.get(dead_letter::TIME);
    let time = time.and_then(|time| std::str::from_utf8(time).ok()?.parse().ok());
    time.unwrap_or(record.timestamp.timestamp_millis())
}

fn refused(record: &Record) -> anyhow::Result<Refused> {
    let Some(list) = record.headers.get(dead_letter::PARTIAL) else {
        return Ok(Refused::Whole);
    };
    let list = dead_letter::read_partial(list);
    let list = list.with_context(|| format!("reading {}", dead_letter::PARTIAL))?;
    let positions = list.into_iter().map(|refused| refused.reading);
    Ok(Refused::Readings(positions.collect()))
}

async fn call<T>(
    doing: &str,
    call: impl Future<Output = rskafka::client::error::Result<T>>,
) -> anyhow::Result<T> {
    let answer = within(CALL, call).await;
    answer.with_context(|| format!("{doing} from Kafka"))
}

#[cfg(test)]
mod tests {
    use iot_kafka::security::KafkaSecurity;
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::producer::FutureRecord;
    use testkit::kafka::{MockKafka, foreign_headers, producer, send};

    use super::*;
    use crate::kafka::connect;

    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_dead_letters_of_a_record_the_later_one_counts() {
        let kafka = MockKafka::start(&["t"]);
        let producer = producer(&kafka.brokers());
        let headers = |time, partial: Option<&str>| {
            let common = [
                ("dlq-topic", "d"),
                ("dlq-partition", "3"),
                ("dlq-offset", "44"),
                ("dlq-time", time),
            ];
            let partial = partial.map(|list| (dead_letter::PARTIAL, list));
            let all = common.into_iter().chain(partial);
            all.fold(OwnedHeaders::new(), |all, (key, value)| {
                let value = Some(value);
                all.insert(Header { key, value })
            })
        };
        let one = r#"[{"reading":1,"reason":"not_a_number"}]"#;
        // Read in this order: partitions are read one after the other.
        for (time, partial) in [("2000", Some(one)), ("1000", None)] {
            let record = FutureRecord::<(), str>::to("t").payload("1");
            send(&producer, record.headers(headers(time, partial))).await;
        }
        let security = KafkaSecurity::default();
        let client = connect(&[kafka.brokers()], &security).await.unwrap();
        let committed = Committed {
            brokers: kafka.brokers(),
            security,
        };
        let letters = letters(&client, &committed, "t").await.unwrap();
        let expected = OfPartition::from([(44, Refused::Readings(BTreeSet::from([1])))]);
        assert_eq!(letters[&TopicPartition::new("d", 3)], expected);
        drop(kafka);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn foreign_headers_do_not_end_the_log() {
        let kafka = MockKafka::start(&["t"]);
        let producer = producer(&kafka.brokers());
        let record = |payload| FutureRecord::<(), str>::to("t").payload(payload);
        send(&producer, record("1")).await;
        let letter = [
            ("dlq-topic", "d"),
            ("dlq-partition", "3"),
            ("dlq-offset", "44"),
        ];
        let headers = letter
            .into_iter()
            .fold(foreign_headers(), |all, (key, value)| {
                let value = Some(value);
                all.insert(Header { key, value })
            });
        send(&producer, record("2").headers(headers)).await;
        send(&producer, record("3")).await;
        let security = KafkaSecurity::default();
        let client = connect(&[kafka.brokers()], &security).await.unwrap();
        let committed = Committed {
            brokers: kafka.brokers(),
            security,
        };
        let at = TopicPartition::new("t", 0);
        let log = Log::open(&client, &committed, &at).await.unwrap();
        let mut reader = log.read_from(log.begin);
        let mut values = Vec::new();
        loop {
            match reader.next().await.unwrap() {
                Read::Records(records) => {
                    values.extend(records.into_iter().filter_map(|read| read.record.value));
                }
                Read::Transaction => panic!("there is none"),
                Read::End => break,
            }
        }
        assert_eq!(values, [b"1", b"2", b"3"]);
        let letters = letters(&client, &committed, "t").await.unwrap();
        let expected = OfPartition::from([(44, Refused::Whole)]);
        assert_eq!(letters[&TopicPartition::new("d", 3)], expected);
        drop(kafka);
    }
}
