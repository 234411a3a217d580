//! `iot-consumer replay`: a part of the log once more, to look at or into a topic,
//! as fast as it can or at the speed it came.

mod merge;
mod sink;

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iot_service::config::{Sources, load};
use iot_service::moment;
use jiff::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::{ConsumerConfig, KafkaConfig};
use crate::kafka;
use crate::kafka::context::Quiet;
use crate::mapping::{Mappings, MappingsConfig};
use crate::parse;
use crate::record::batch_of;
use merge::{Merge, Taken};
use sink::Sink;

/// How long Kafka may take to answer a question.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long one look for records takes.
const POLL: Duration = Duration::from_millis(100);
/// Without a record for so long, though there are some, something is wrong.
const SILENCE: Duration = Duration::from_secs(60);

/// Reads a part of the log again.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    /// Begin: RFC 3339 (2026-01-31T08:00:00Z), or how long ago (2h). Kafka's time
    /// of the records
    #[arg(long, value_name = "TIME", value_parser = moment::parse, allow_hyphen_values = true)]
    from: Timestamp,
    /// End, not included [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment::parse, allow_hyphen_values = true)]
    to: Option<Timestamp>,
    /// Topic to read [default: the first in kafka.topics that is no pattern]
    #[arg(long)]
    topic: Option<String>,
    /// Only messages of this device; may be repeated
    #[arg(long)]
    device: Vec<String>,
    /// How much faster than they came: 1 as they came, 60 an hour in a minute
    /// [default: as fast as it goes]
    #[arg(long, value_name = "TIMES", value_parser = speed)]
    speed: Option<f64>,
    /// Where they go: stdout (one line of JSON each), or a Kafka topic
    #[arg(long, value_name = "stdout|TOPIC", default_value = "stdout")]
    sink: String,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed > 0.0 && speed.is_finite() => Ok(speed),
        _ => Err(format!("{text:?} is not a number above 0")),
    }
}

/// Replays, and says on standard error how many there were.
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
    let filter = Filter::new(&args.device, &topic, &config.mappings);
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

/// Which records are wanted.
struct Filter<'a> {
    devices: &'a [String],
    topic: &'a str,
    mappings: Mappings,
}

impl<'a> Filter<'a> {
    fn new(devices: &'a [String], topic: &'a str, mappings: &MappingsConfig) -> Self {
        Self {
            devices,
            topic,
            mappings: Mappings::new(mappings),
        }
    }

    /// By the device that the payload names; of what can't be read, by the key.
    fn wants(&self, record: &Taken) -> bool {
        if self.devices.is_empty() {
            return true;
        }
        let batch = batch_of(&record.message);
        let is_wanted = |device: &str| self.devices.iter().any(|wanted| wanted == device);
        let mut records = batch.records();
        records.any(
            |read| match parse::message(&read, self.topic, &self.mappings) {
                Ok(message) => is_wanted(&message.device_id),
                Err(_) => read
                    .key()
                    .and_then(|key| std::str::from_utf8(key).ok())
                    .is_some_and(is_wanted),
            },
        )
    }
}

/// Lets records pass as far apart as they came, or by a factor closer.
struct Pace {
    speed: f64,
    /// When the first passed, and its time.
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
        for partition in kafka::partitions(&consumer, topic)? {
            let (_, end) = consumer.fetch_watermarks(topic, partition, DEADLINE)?;
            let begin = kafka::offset_at(&consumer, topic, partition, from)?;
            if let Some(begin) = begin.filter(|begin| *begin < end) {
                assigned.add_partition_offset(topic, partition, Offset::Offset(begin))?;
                merge.add(partition, end);
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
                        message: message.detach(),
                    };
                    self.merge.take(record, &self.range);
                    heard = Instant::now();
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.merge.finish(partition),
                // It tries on by itself; the silence has an end.
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

    /// Doesn't read partitions that are far ahead of others.
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
    fn a_speed_is_above_zero() {
        assert!(speed("0").is_err() && speed("x").is_err());
        assert_eq!(speed("2.5"), Ok(2.5));
    }

    #[test]
    fn at_a_speed_records_are_as_far_apart_as_they_came() {
        let (mut pace, begun) = (Pace::new(100.0), Instant::now());
        for time in [5_000, 4_000, 10_000, 15_000] {
            pace.wait(time);
        }
        assert!(begun.elapsed() >= Duration::from_millis(100));
    }
}
