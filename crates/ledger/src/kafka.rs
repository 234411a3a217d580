//! `iot-ledger verify-kafka`: reads topics from their start, or from a time on, and reports
//! what became of a run.
//!
//! Topics with transactions can't be read: nothing here writes any, and rskafka fails at the
//! markers that end them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use iot_core::headers;
use iot_core::partition::TopicPartition;
use iot_kafka::rskafka::{partitions, within};
use iot_kafka::security::KafkaSecurity;
use iot_service::Backoff;
use iot_service::config::HumanDuration;
use rskafka::BackoffConfig;
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::partition::{OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::RecordAndOffset;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::committed::{Committed, is_foreign};
use crate::payload;
use crate::security::KafkaArgs;
use crate::verify::{Entry, Place, Plan, Report, Tally};

/// Deadline of connecting to Kafka.
const CONNECT: Duration = Duration::from_secs(30);
/// Deadline of one call to it.
const CALL: Duration = Duration::from_secs(15);
const FETCH_BYTES: i32 = 4 * 1024 * 1024;
const FETCH_WAIT_MS: i32 = 250;
/// Records that are taken from librdkafka together.
const FOREIGN: usize = 1_000;
/// Fetches read ahead of the tally, over all partitions.
const READ_AHEAD: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Topics to read, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "tenant123.project456")]
    topic: Vec<String>,
    /// Name of the run, as given to or printed by publish.
    #[arg(long, value_parser = payload::valid_run)]
    run: String,
    /// Connections the run was published with.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Messages the run was published with, over all connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Read only records written since this long ago [default: all]
    #[arg(long)]
    since: Option<HumanDuration>,
    /// Stop after this long without a further message of the run
    #[arg(long, default_value = "60s")]
    timeout: HumanDuration,
    /// Write the messages that arrived to this file: a line "CONNECTION FIRST LAST" for each
    /// sequence without a gap
    #[arg(long)]
    found: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Records from the reader of a partition.
struct Batch {
    at: TopicPartition,
    records: Vec<RecordAndOffset>,
    /// The partition had no further record.
    at_end: bool,
}

/// The last error of the readers, by topic; printed when the run is not complete.
type Troubles = Arc<Mutex<HashMap<String, String>>>;

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let plan = Plan {
        run: args.run.clone(),
        connections: args.connections,
        messages: args.messages,
    };
    let since = args.since.and_then(time_ago);
    let committed = Committed::new(&args.kafka);
    let client = Arc::new(connect(&args.kafka.brokers, &committed.security).await?);
    let troubles = Troubles::default();
    let (sender, batches) = mpsc::channel(READ_AHEAD);
    let mut readers = JoinSet::new();
    for topic in args.topic {
        let topic = TopicReader {
            client: client.clone(),
            committed: committed.clone(),
            topic,
            since,
            sender: sender.clone(),
            troubles: troubles.clone(),
        };
        readers.spawn(topic.read());
    }
    drop(sender);
    let mut tally = Tally::new(plan);
    fill(&mut tally, batches, *args.timeout).await;
    readers.shutdown().await;
    if let Some(path) = &args.found {
        write_found(&tally, path).with_context(|| format!("writing {}", path.display()))?;
    }
    let report = tally.report();
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    if report.complete() {
        return Ok(ExitCode::SUCCESS);
    }
    for (topic, trouble) in &*troubles.lock().unwrap_or_else(PoisonError::into_inner) {
        eprintln!("iot-ledger: topic {topic}: {trouble}");
    }
    Ok(ExitCode::FAILURE)
}

/// `None` if that is before the epoch.
fn time_ago(ago: HumanDuration) -> Option<DateTime<Utc>> {
    let since = Duration::from_micros(payload::now_us()).checked_sub(*ago)?;
    DateTime::from_timestamp_millis(i64::try_from(since.as_millis()).ok()?)
}

/// Connects to Kafka.
///
/// # Errors
/// For half a minute no broker can be reached, none answers, or all refuse the login.
pub(crate) async fn connect(
    brokers: &[String],
    security: &KafkaSecurity,
) -> anyhow::Result<Client> {
    let backoff = BackoffConfig {
        max_backoff: Duration::from_secs(1),
        // This counts the pauses between the client's attempts, not the attempts.
        deadline: Some(CONNECT / 10),
        ..BackoffConfig::default()
    };
    let until = Instant::now() + CONNECT;
    let mut failed = None;
    // Its retries end several times before that, so that the error names their cause.
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        let client = ClientBuilder::new(brokers.to_vec())
            .client_id("iot-ledger")
            .backoff_config(backoff.clone());
        match within(left, security.secure(client)?.build()).await {
            Ok(client) => return Ok(client),
            // Without an answer in the time that is left, the last cause says more.
            Err(error) => failed = failed.filter(|_| Instant::now() >= until).or(Some(error)),
        }
    }
    let failed = failed.unwrap_or_else(|| anyhow!("no answer"));
    Err(failed).with_context(|| format!("connecting to Kafka at {}", brokers.join(",")))
}

/// Feeds the tally until the run is complete and every partition was read to its end, where
/// duplicates may be, or until nothing new arrives for `patience`.
async fn fill(tally: &mut Tally, mut batches: mpsc::Receiver<Batch>, patience: Duration) {
    let mut at_end: HashMap<TopicPartition, bool> = HashMap::new();
    let mut progress = Instant::now();
    while let Ok(Some(batch)) = timeout_at(progress + patience, batches.recv()).await {
        let arrived = tally.arrived();
        record(tally, &batch);
        at_end.insert(batch.at, batch.at_end);
        if tally.arrived() > arrived {
            progress = Instant::now();
        }
        if tally.all_arrived() && at_end.values().all(|at_end| *at_end) {
            break;
        }
    }
}

fn write_found(tally: &Tally, path: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for (conn, first, last) in tally.found() {
        writeln!(file, "{conn} {first} {last}")?;
    }
    file.flush()
}

fn record(tally: &mut Tally, batch: &Batch) {
    for RecordAndOffset { record, offset } in &batch.records {
        let received = record.headers.get(headers::MQTT_RECEIVED_AT);
        tally.record(Entry {
            place: Place {
                topic: &batch.at.topic,
                partition: batch.at.partition,
                offset: *offset,
            },
            value: record.value.as_deref().unwrap_or_default(),
            timestamp_ms: record.timestamp.timestamp_millis(),
            received_ms: received.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()),
        });
    }
}

/// Finds a topic's partitions and reads them all.
struct TopicReader {
    client: Arc<Client>,
    committed: Committed,
    topic: String,
    since: Option<DateTime<Utc>>,
    sender: mpsc::Sender<Batch>,
    troubles: Troubles,
}

impl TopicReader {
    async fn read(self) {
        let partitions = self.partitions().await;
        let readers = partitions
            .into_iter()
            .map(|partition| self.read_partition(partition));
        futures::future::join_all(readers).await;
    }

    /// Waits for the topic, which may be created with its first message.
    async fn partitions(&self) -> Vec<i32> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            match partitions(&self.client, &self.topic, CALL).await {
                Ok(Some(partitions)) => return partitions,
                Ok(None) => self.trouble("does not exist".to_owned()),
                Err(error) => self.trouble(format!("{error:#}")),
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Reads until the reader is stopped.
    async fn read_partition(&self, partition: i32) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut next = None;
        loop {
            if self.follow(partition, &mut next).await.is_none() {
                sleep(backoff.next_delay()).await;
            }
        }
    }

    /// Reads from `next` on until a call fails; the caller retries.
    async fn follow(&self, partition: i32, next: &mut Option<i64>) -> Option<()> {
        let unknown = UnknownTopicHandling::Retry;
        let client = self
            .client
            .partition_client(&self.topic, partition, unknown);
        let client = self.call(client).await?;
        let at = TopicPartition::new(self.topic.as_str(), partition);
        let mut offset = match *next {
            Some(offset) => offset,
            None => self.start(&client).await?,
        };
        // What follows a record that rskafka can't decode, and where that is.
        let mut foreign = None;
        loop {
            let (records, at_end) = if let Some((from, records)) = &mut foreign {
                let read = next_foreign(records).await;
                let read = self.kept(read)?;
                if read.is_empty() {
                    if offset == *from {
                        return self.kept(Err(anyhow!("a record can't be decoded")));
                    }
                    foreign = None;
                    continue;
                }
                (read, false)
            } else {
                let fetch = client.fetch_records(offset, 1..FETCH_BYTES, FETCH_WAIT_MS);
                let (records, high_watermark) = match within(CALL, fetch).await {
                    Err(error) if is_foreign(&error) => {
                        let records = self.kept(self.committed.read(&at, offset))?;
                        foreign = Some((offset, records));
                        continue;
                    }
                    answer => self.kept(answer)?,
                };
                let next = records.last().map_or(offset, |last| last.offset + 1);
                let at_end = records.is_empty() || next >= high_watermark;
                (records, at_end)
            };
            offset = records.last().map_or(offset, |last| last.offset + 1);
            *next = Some(offset);
            let batch = Batch {
                at: at.clone(),
                records,
                at_end,
            };
            self.sender.send(batch).await.ok()?;
        }
    }

    async fn start(&self, client: &PartitionClient) -> Option<i64> {
        let Some(since) = self.since else {
            return self.call(client.get_offset(OffsetAt::Earliest)).await;
        };
        match self
            .call(client.get_offset(OffsetAt::Timestamp(since)))
            .await?
        {
            // Kafka's answer if every record is older.
            -1 => self.call(client.get_offset(OffsetAt::Latest)).await,
            offset => Some(offset),
        }
    }

    /// One call with a deadline; a failure is kept for the report.
    async fn call<T>(
        &self,
        call: impl Future<Output = rskafka::client::error::Result<T>>,
    ) -> Option<T> {
        self.kept(within(CALL, call).await)
    }

    /// Keeps an error for the report.
    fn kept<T>(&self, answer: anyhow::Result<T>) -> Option<T> {
        answer
            .map_err(|error| self.trouble(format!("{error:#}")))
            .ok()
    }

    fn trouble(&self, what: String) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.insert(self.topic.clone(), what);
    }
}

/// The next records from librdkafka; none at the end of the partition.
async fn next_foreign(
    records: &mut mpsc::Receiver<anyhow::Result<RecordAndOffset>>,
) -> anyhow::Result<Vec<RecordAndOffset>> {
    let mut next = Vec::new();
    records.recv_many(&mut next, FOREIGN).await;
    next.into_iter().collect()
}

fn print(report: &Report) {
    let verdict = if report.complete() {
        "complete"
    } else {
        "NOT complete"
    };
    println!(
        "run {}: {verdict}, {} of {} messages arrived",
        report.run, report.arrived, report.expected
    );
    println!(
        "  lost {}  duplicated {}  order regressions {}  corrupt {}  unplanned {}  (foreign records {})",
        report.lost,
        report.duplicated,
        report.regressions,
        report.corrupt,
        report.unplanned,
        report.foreign
    );
    if let Some(latency) = report.sent_to_received_ms {
        println!("  sent -> received by the bridge (ms)  {latency}");
    }
    if let Some(latency) = report.sent_to_record_ms {
        println!("  sent -> Kafka record timestamp (ms)  {latency}");
    }
    for missing in &report.missing {
        println!(
            "  missing: connection {}, messages {} to {}",
            missing.conn, missing.first, missing.last
        );
    }
    for example in &report.examples {
        println!(
            "  {}/{}@{}: {}",
            example.topic, example.partition, example.offset, example.what
        );
    }
    if report.unplanned > 0 {
        println!(
            "  some messages are beyond --connections and --messages: use the values of the publisher"
        );
    }
}
