//! `push-load publish`: the messages of a fleet at a steady rate, each stamped when it is sent.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use iot_service::config::HumanDuration;
use jiff::Timestamp;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use serde::Serialize;

use super::fleet::{CHANNELS, Message, Style, order};
use crate::security::KafkaArgs;

/// How often messages are sent that are due.
const TICK: Duration = Duration::from_millis(1);
/// For the last messages to be confirmed.
const FLUSH: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Topic to write; it must exist
    #[arg(long)]
    topic: String,
    /// Devices; they send in turn
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    devices: u32,
    /// Floors over which the devices are spread
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    floors: u32,
    /// Messages a second
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// How long to publish
    #[arg(long, default_value = "30s")]
    duration: HumanDuration,
    /// Number of the first message of each device
    #[arg(long, default_value_t = 0)]
    first_seq: u64,
    /// How long a message waits for others of its batch
    #[arg(long, default_value = "5ms")]
    linger: HumanDuration,
    /// What the records hold
    #[arg(long, value_enum, default_value = "device")]
    style: Style,
}

/// What was published.
#[derive(Debug, Serialize)]
struct Summary {
    messages: u64,
    failed: u64,
    seconds: f64,
    /// The number after the last one of any device.
    next_seq: u64,
}

/// Counts the messages that Kafka did not confirm.
#[derive(Default)]
struct Failures(AtomicU64);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // librdkafka's calls block.
    let summary = tokio::task::spawn_blocking(move || publish(&args)).await??;
    println!("{}", serde_json::to_string(&summary)?);
    Ok(if summary.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn publish(args: &Args) -> anyhow::Result<Summary> {
    let producer = producer(args)?;
    let order = order(args.devices);
    let began = Instant::now();
    let mut value = String::new();
    let mut sent = 0;
    let mut turns = (args.first_seq..).flat_map(|seq| order.iter().map(move |of| (*of, seq)));
    let total = (args.duration.as_secs_f64() * args.rate as f64) as u64;
    while sent < total {
        let due = (began.elapsed().as_secs_f64() * args.rate as f64) as u64;
        for (device, seq) in turns
            .by_ref()
            .take(due.min(total).saturating_sub(sent) as usize)
        {
            let message = Message {
                device,
                floor: device % args.floors,
                seq,
                time: Timestamp::now().as_millisecond(),
            };
            message.write(args.style, &mut value);
            send(&producer, args, message, &value)?;
            sent += 1;
        }
        sleep(TICK);
    }
    let seconds = began.elapsed().as_secs_f64();
    producer.flush(FLUSH).context("writing Kafka")?;
    Ok(Summary {
        messages: sent,
        failed: producer.context().0.load(Ordering::Relaxed),
        seconds,
        next_seq: args.first_seq + sent.div_ceil(u64::from(args.devices)),
    })
}

fn producer(args: &Args) -> anyhow::Result<ThreadedProducer<Failures>> {
    let mut config = ClientConfig::new();
    args.kafka.security.clone().checked().apply(&mut config)?;
    let linger = args.linger.as_millis().to_string();
    for (name, value) in [
        ("bootstrap.servers", args.kafka.brokers.join(",").as_str()),
        ("client.id", "iot-ledger"),
        // Keeps the order of a device.
        ("enable.idempotence", "true"),
        ("compression.type", "lz4"),
        ("linger.ms", linger.as_str()),
    ] {
        config.set(name, value);
    }
    let producer = config.create_with_context(Failures::default());
    producer.context("creating the client")
}

fn send(
    producer: &ThreadedProducer<Failures>,
    args: &Args,
    message: Message,
    value: &str,
) -> anyhow::Result<()> {
    let (key, floor) = (message.key(), message.floor());
    let mut record = BaseRecord::to(&args.topic).key(&key).payload(value);
    if args.style == Style::Publication {
        let channels = Header {
            key: CHANNELS,
            value: Some(&floor),
        };
        record = record.headers(OwnedHeaders::new().insert(channels));
    }
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                sleep(TICK);
            }
            Err((error, _)) => return Err(error).context("writing Kafka"),
        }
    }
}
