//! The log itself, read through rskafka: topics, their dead letters, and the
//! records of a partition one after the other.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use iot_core::headers;
use iot_service::config::HumanDuration;
use rskafka::client::Client;
use rskafka::client::partition::{OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::record::{Record, RecordAndOffset};
use tokio::time::timeout;

/// One call to Kafka; rskafka has no deadline of its own and retries for ever.
const CALL: Duration = Duration::from_secs(15);
const FETCH_BYTES: i32 = 4 * 1024 * 1024;
const FETCH_WAIT_MS: i32 = 250;
/// Answers without records, below the end of the log, until they are believed.
const EMPTY: u32 = 3;
/// What that means.
const HOLES: &str = "a compacted log can't be folded again";

/// A partition of a topic.
pub(crate) type Partition = (String, i32);

/// The partitions of topics, in order.
///
/// # Errors
/// Kafka does not answer, or there is no such topic.
pub(crate) async fn partitions(
    client: &Client,
    topics: &[String],
) -> anyhow::Result<Vec<Partition>> {
    let known = call("listing topics", client.list_topics()).await?;
    let mut found = Vec::new();
    for topic in topics {
        let known = known.iter().find(|known| known.name == *topic);
        let known = known.with_context(|| format!("there is no topic {topic}"))?;
        let partitions = known.partitions.iter();
        found.extend(partitions.map(|partition| (topic.clone(), *partition)));
    }
    Ok(found)
}

/// A partition of the log, as long as it was when it was opened.
pub(crate) struct Log {
    client: PartitionClient,
    /// First offset kept.
    pub(crate) begin: i64,
    /// Offset after the last record that is not in an open transaction.
    pub(crate) end: i64,
}

impl Log {
    /// # Errors
    /// Kafka does not answer.
    pub(crate) async fn open(client: &Client, partition: &Partition) -> anyhow::Result<Self> {
        let (topic, number) = partition;
        let open = client.partition_client(topic, *number, UnknownTopicHandling::Error);
        let client = call("opening a partition", open).await?;
        let begin = call("asking for offsets", client.get_offset(OffsetAt::Earliest)).await?;
        let end = call("asking for offsets", client.get_offset(OffsetAt::Latest)).await?;
        Ok(Self { client, begin, end })
    }

    /// Reads from an offset on, which must not be below the begin.
    pub(crate) fn read_from(&self, offset: i64) -> Reader<'_> {
        Reader {
            log: self,
            next: offset,
        }
    }
}

/// Reads a partition to its end.
pub(crate) struct Reader<'l> {
    log: &'l Log,
    next: i64,
}

/// What comes next in a partition.
pub(crate) enum Read {
    Records(Vec<RecordAndOffset>),
    /// The marker that ends a transaction: rskafka reads no further.
    Transaction,
    End,
}

impl Reader<'_> {
    /// What comes next.
    ///
    /// # Errors
    /// Kafka does not answer, or the log has holes.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Read> {
        let (next, end) = (self.next, self.log.end);
        for _ in 0..EMPTY {
            if next >= end {
                return Ok(Read::End);
            }
            let client = &self.log.client;
            let fetch = client.fetch_records(next, 1..FETCH_BYTES, FETCH_WAIT_MS);
            let mut records = match call("reading records", fetch).await {
                Ok((records, _)) => records,
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
}

/// rskafka takes a marker for a record of a format that it does not know, and has no
/// error of its own for it.
fn is_marker(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("control batch")
}

/// Offsets of the records that the consumer refused, by partition.
pub(crate) type Letters = HashMap<Partition, BTreeSet<i64>>;

/// Reads the dead letters of all topics; none if there is no such topic.
///
/// # Errors
/// Kafka does not answer.
pub(crate) async fn letters(client: &Client, topic: &str) -> anyhow::Result<Letters> {
    let mut letters = Letters::new();
    let known = call("listing topics", client.list_topics()).await?;
    let Some(known) = known.into_iter().find(|known| known.name == topic) else {
        return Ok(letters);
    };
    for partition in known.partitions {
        let log = Log::open(client, &(topic.to_owned(), partition)).await?;
        let mut reader = log.read_from(log.begin);
        loop {
            let records = match reader.next().await? {
                Read::Records(records) => records,
                Read::Transaction => bail!("{topic} has transactions, which are not read"),
                Read::End => break,
            };
            // Those of the bridge come from MQTT and have no offset.
            for (partition, offset) in records.iter().filter_map(|r| origin(&r.record)) {
                letters.entry(partition).or_default().insert(offset);
            }
        }
    }
    Ok(letters)
}

fn origin(record: &Record) -> Option<(Partition, i64)> {
    let header = |name| std::str::from_utf8(record.headers.get(name)?).ok();
    let partition = header(headers::DLQ_PARTITION)?.parse().ok()?;
    let offset = header(headers::DLQ_OFFSET)?.parse().ok()?;
    Some(((header(headers::DLQ_TOPIC)?.to_owned(), partition), offset))
}

async fn call<T>(
    doing: &str,
    call: impl Future<Output = rskafka::client::error::Result<T>>,
) -> anyhow::Result<T> {
    match timeout(CALL, call).await {
        Ok(answer) => answer.with_context(|| format!("{doing} from Kafka")),
        Err(_) => bail!(anyhow!(
            "{doing} from Kafka: no answer within {}",
            HumanDuration(CALL)
        )),
    }
}
