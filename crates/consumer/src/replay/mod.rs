//! `iot-consumer replay`: reads a part of the log again, to standard output or into a topic,
//! as fast as possible or at the speed of the records' times.

mod merge;
mod sink;

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iot_kafka::context::Quiet;
use iot_kafka::headers::detach;
use iot_kafka::lookup;
use iot_service::config::{Sources, load};
use iot_service::moment;
use jiff::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::{ConsumerConfig, KafkaConfig};
use crate::kafka::{self, TOOL_DEADLINE};
use crate::mapping::{Beside, Mappings};
use crate::parse;
use crate::record::batch_of;
use merge::{Merge, Taken};
use sink::Sink;

/// How long one poll takes.
const POLL: Duration = Duration::from_millis(100);
/// Fails after this long without a record before the end.
const SILENCE: Duration = Duration::from_secs(60);

/// Read a part of the log again.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    /// Start: RFC 3339 (2026-01-31T08:00:00Z), or how long ago (2h), by Kafka's time of the
    /// records
    #[arg(long, value_name = "TIME", value_parser = moment::parse, allow_hyphen_values = true)]
    from: Timestamp,
    /// End, exclusive [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment::parse, allow_hyphen_values = true)]
    to: Option<Timestamp>,
    /// Topic to read [default: the first in kafka.topics that is not a pattern]
    #[arg(long)]
    topic: Option<String>,
    /// Only messages of this device; may be repeated
    #[arg(long)]
    device: Vec<String>,
    /// Speed relative to the records' times: 1 is real time, 60 an hour in a minute
    /// [default: as fast as possible]
    #[arg(long, value_name = "TIMES", value_parser = speed)]
    speed: Option<f64>,
    /// Destination: stdout (one line of JSON each), or a Kafka topic
    #[arg(long, value_name = "stdout|TOPIC", default_value = "stdout")]
    sink: String,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed > 0.0 && speed.is_finite() => Ok(speed),
        _ => Err(format!("{text:?} is not a number above 0")),
    }
}

/// Replays, and prints the number of records to standard error.
#[must_use]
pub fn replay(args: &ReplayArgs, sources: &Sources) -> ExitCode {
    let config = match load::<ConsumerConfig>(sources) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("iot-consumer: the configuration is not valid\n{problems}");
            return ExitCode::from(2);
        }
    };
    match run(args, &config) {
        Ok(count) => {
            eprintln!("{count} records replayed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("iot-consumer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &ReplayArgs, config: &ConsumerConfig) -> anyhow::Result<u64> {
    let topic = kafka::plain_topic(args.topic.as_deref(), &config.kafka)?;
    if topic == args.sink {
        bail!("{topic} can't be replayed into itself: that would never end");
    }
    let to = args.to.unwrap_or_else(Timestamp::now);
    if to <= args.from {
        bail!("--to {to} is not after --from {}", args.from);
    }
    let mut log = Log::open(&config.kafka, &topic, args.from, to)?;
    let mut sink = Sink::open(&args.sink, &config.kafka)?;
    let mut pace = args.speed.map(Pace::new);
    let filter = Filter::new(&args.device, &topic, config);
    let mut count = 0;
    while let Some(record) = log.next()? {
        if !filter.wants(&record) {
            continue;
        }
        if let Some(pace) = &mut pace {
            pace.wait(record.time);
        }
        sink.write(&topic, &record)?;
        count += 1;
    }
    sink.finish()?;
    Ok(count)
}

/// Selects records.
struct Filter<'a> {
    devices: &'a [String],
    topic: &'a str,
    mappings: Mappings,
}

impl<'a> Filter<'a> {
    fn new(devices: &'a [String], topic: &'a str, config: &ConsumerConfig) -> Self {
        Self {
            devices,
            topic,
            mappings: Mappings::new(&config.mappings, &config.catalogue()),
        }
    }

    /// By the device in the payload; by the key if the payload can't be parsed.
    fn wants(&self, record: &Taken) -> bool {
        if self.devices.is_empty() {
            return true;
        }
        let batch = batch_of(&record.message);
        let is_wanted = |device: &str| self.devices.iter().any(|wanted| wanted == device);
        let mut records = batch.records();
        records.any(|read| {
            // A message that the consumer would only accept in part has its device too.
            let mut refused = Vec::new();
            match parse::message(
                &read,
                self.topic,
                &self.mappings,
                Some(&mut refused),
                &mut Beside::default(),
            ) {
                Ok(message) => is_wanted(&message.device_id),
                Err(_) => read
                    .key()
                    .and_then(|key| std::str::from_utf8(key).ok())
                    .is_some_and(is_wanted),
            }
        })
    }
}

/// Keeps the distances between the records' times, divided by a factor.
struct Pace {
    speed: f64,
    /// When the first record passed, and its time.
    first: Option<(Instant, i64)>,
}

impl Pace {
    fn new(speed: f64) -> Self {
        Self { speed, first: None }
    }

    fn wait(&mut self, time: i64) {
        let (begun, first) = *self.first.get_or_insert((Instant::now(), time));
        let after = (time - first).max(0) as f64 / 1e3 / self.speed;
        let due = Duration::try_from_secs_f64(after).unwrap_or(Duration::MAX);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
}

/// The part of a topic between two times, in the order of the times.
struct Log {
    consumer: BaseConsumer<Quiet>,
    topic: String,
    /// Times, milliseconds since the epoch.
    range: Range<i64>,
    merge: Merge,
}

impl Log {
    fn open(
        kafka: &KafkaConfig,
        topic: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> anyhow::Result<Self> {
        let mut client = kafka::consumer_config(kafka)?;
        // It joins no group and commits nothing.
        client.set("enable.partition.eof", "true");
        client.set("statistics.interval.ms", "0");
        client.remove("group.instance.id");
        let consumer: BaseConsumer<Quiet> = client
            .create_with_context(Quiet)
            .context("creating the consumer")?;
        let (mut assigned, mut merge) = (TopicPartitionList::new(), Merge::default());
        for at in lookup::partitions(consumer.client(), topic, TOOL_DEADLINE)? {
            let end = lookup::watermarks(&consumer, &at, TOOL_DEADLINE)?.high;
            let start = lookup::offset_at(&consumer, &at, from, TOOL_DEADLINE)?;
            if let Some(start) = start.filter(|start| *start < end) {
                assigned.add_partition_offset(topic, at.partition, Offset::Offset(start))?;
                merge.add(at.partition, end);
            }
        }
        consumer.assign(&assigned)?;
        Ok(Self {
            consumer,
            topic: topic.to_owned(),
            range: from.as_millisecond()..to.as_millisecond(),
            merge,
        })
    }

    /// The next record; none at the end.
    fn next(&mut self) -> anyhow::Result<Option<Taken>> {
        let mut heard = Instant::now();
        while self.merge.needs_more() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let record = Taken {
                        time: message.timestamp().to_millis().unwrap_or_default(),
                        message: detach(&message),
                    };
                    self.merge.take(record, &self.range);
                    heard = Instant::now();
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.merge.finish(partition),
                // librdkafka reconnects by itself, for as long as the silence may last.
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::Resolve,
                ))) if heard.elapsed() <= SILENCE => {}
                Some(Err(error)) => return Err(error).context("reading"),
                None if heard.elapsed() > SILENCE => {
                    bail!("no record of topic {} for {SILENCE:?}", self.topic)
                }
                None => {}
            }
            self.hold_back()?;
        }
        let next = self.merge.pop();
        self.hold_back()?;
        Ok(next)
    }

    /// Pauses partitions that are far ahead of the other ones.
    fn hold_back(&mut self) -> anyhow::Result<()> {
        let (pause, resume) = self.merge.flow();
        let list = |partitions: &[i32]| {
            let mut list = TopicPartitionList::new();
            for partition in partitions {
                list.add_partition(&self.topic, *partition);
            }
            list
        };
        if !pause.is_empty() {
            self.consumer.pause(&list(&pause)).context("pausing")?;
        }
        if !resume.is_empty() {
            self.consumer.resume(&list(&resume)).context("resuming")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_above_zero() {
        assert!(speed("0").is_err() && speed("x").is_err());
        assert_eq!(speed("2.5"), Ok(2.5));
    }

    #[test]
    fn a_pace_keeps_the_distances_between_records() {
        let (mut pace, begun) = (Pace::new(100.0), Instant::now());
        for time in [5_000, 4_000, 10_000, 15_000] {
            pace.wait(time);
        }
        assert!(begun.elapsed() >= Duration::from_millis(100));
    }
}
