//! `iot-ledger consume`: reads a topic as fast as librdkafka delivers.
//!
//! A consumer that does nothing else, and so the limit of any that uses librdkafka: records
//! are fetched, decompressed, copied out of the client's memory, and discarded.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iot_kafka::lookup;
use iot_service::config::HumanDuration;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::Serialize;

use crate::security::KafkaArgs;

const ANSWER: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Topic to read, from its start
    #[arg(long)]
    topic: String,
    /// Number of messages to read
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Fail after this long without a message
    #[arg(long, default_value = "60s")]
    timeout: HumanDuration,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// What was read.
#[derive(Debug, Serialize)]
struct Summary {
    messages: u64,
    payload_bytes: u64,
    /// From the first message to the last.
    seconds: f64,
    rate: f64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.json;
    // librdkafka's calls block.
    let summary = tokio::task::spawn_blocking(move || take(&args)).await??;
    if json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!(
            "{} messages, {} payload bytes, in {:.2} s: {:.0} msg/s",
            summary.messages, summary.payload_bytes, summary.seconds, summary.rate
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn take(args: &Args) -> anyhow::Result<Summary> {
    let consumer = open(args)?;
    let (mut messages, mut payload_bytes) = (0, 0);
    let mut copy = Vec::new();
    let mut first = None;
    while messages < args.messages {
        let Some(message) = consumer.poll(*args.timeout) else {
            bail!(
                "no message for {}, after {messages} of {}",
                args.timeout,
                args.messages
            );
        };
        let message = message.context("reading Kafka")?;
        first.get_or_insert_with(Instant::now);
        copy.clear();
        copy.extend_from_slice(message.payload().unwrap_or_default());
        messages += 1;
        payload_bytes += std::hint::black_box(&copy).len() as u64;
    }
    let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
    Ok(Summary {
        messages,
        payload_bytes,
        seconds,
        rate: messages as f64 / seconds.max(f64::MIN_POSITIVE),
    })
}

/// A client that reads all partitions from their start, in no group.
fn open(args: &Args) -> anyhow::Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    args.kafka.security.clone().checked().apply(&mut config)?;
    let brokers = args.kafka.brokers.join(",");
    for (name, value) in [
        ("bootstrap.servers", brokers.as_str()),
        ("client.id", "iot-ledger"),
        ("group.id", "iot-ledger"),
        ("enable.auto.commit", "false"),
        // The default of a second costs most of the speed.
        ("fetch.queue.backoff.ms", "5"),
    ] {
        config.set(name, value);
    }
    let consumer: BaseConsumer = config.create().context("creating the client")?;
    let mut assignment = TopicPartitionList::new();
    for at in lookup::partitions(consumer.client(), &args.topic, ANSWER)? {
        assignment.add_partition_offset(&at.topic, at.partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    Ok(consumer)
}
