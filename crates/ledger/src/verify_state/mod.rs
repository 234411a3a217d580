//! `iot-ledger verify-state`: folds the log with rules of its own and compares the
//! outcome with what a consumer keeps in Redis, value by value.
//!
//! 1. read everything that is stored, partition by partition
//! 2. read the dead letters: those records do not count
//! 3. read each partition of the log, fold it, and compare at the stored offset
//!
//! No code of the consumer is used: a fault in it would be in the proof as well.

mod committed;
mod compare;
mod fold;
mod layout;
mod model;
mod partition;
mod report;
mod store;
mod wait;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use iot_core::dead_letter;
use iot_core::partition::TopicPartition;
use iot_service::config::HumanDuration;
use tokio::time::Instant;

use crate::kafka::connect;
use crate::log::{self, Log};
use crate::reading::Units;
use crate::security::KafkaArgs;
use committed::Committed;
use compare::Comparison;
use fold::Rules;
use partition::Check;
use report::{Kind, Report};
use store::Store;

/// How long connecting to Kafka may take.
const CONNECT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Topics whose state is verified, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "device-data")]
    topic: Vec<String>,
    /// Topic with the records that the consumer refused (dead_letter.topic).
    #[arg(long, default_value = dead_letter::DEFAULT_TOPIC)]
    dead_letter_topic: String,
    /// The consumer's store: redis://USER:PASSWORD@HOST:PORT/DB, or rediss:// for TLS.
    #[arg(
        long,
        env = "REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379"
    )]
    redis: String,
    /// Begin of every key (store.key_prefix).
    #[arg(long, default_value = "iot")]
    key_prefix: String,
    /// Lengths of windows (windows.sizes), separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1m,5m,1h", value_parser = window_size)]
    size: Vec<HumanDuration>,
    /// How long windows take late values (windows.allowed_lateness).
    #[arg(long, default_value = "30s")]
    lateness: HumanDuration,
    /// How many sealed windows of each length are kept (windows.keep).
    #[arg(long, default_value_t = 15)]
    keep: u32,
    /// A sensor of the consumer's section sensors and the unit there, NAME=UNIT; may be
    /// repeated.
    #[arg(long, value_name = "NAME=UNIT", value_parser = sensor_unit)]
    sensor: Vec<(String, String)>,
    /// How far messages may be ahead of their records (validate.max_future); used
    /// where the begin of the log is gone.
    #[arg(long, default_value = "5m")]
    max_future: HumanDuration,
    /// Wait until the consumer has stored everything that is in the log, so long.
    #[arg(long)]
    wait: Option<HumanDuration>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The consumer's settings that its state depends on.
#[derive(Debug, Clone)]
struct Settings {
    rules: Rules,
    /// Units of sensors that are not the standard ones, or not in their standard unit.
    units: Units,
    /// How long sealed windows are kept, in lengths.
    keep: i64,
    /// In milliseconds.
    max_future: i64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::new(&args);
    // Not a parser of the argument, which would repeat it, password and all.
    let redis = match store::valid_url(&args.redis) {
        Ok(redis) => redis,
        Err(why) => {
            eprintln!("iot-ledger: --redis {why}");
            return Ok(ExitCode::from(2));
        }
    };
    let committed = Committed {
        brokers: args.kafka.brokers.join(","),
        security: args.kafka.security.checked(),
    };
    let kafka = connect(&args.kafka.brokers, &committed.security, CONNECT).await?;
    let store = Store::connect(&redis, &args.key_prefix).await?;
    let partitions = log::partitions(&kafka, &args.topic).await?;
    if let Some(patience) = args.wait {
        let deadline = Instant::now() + *patience;
        for partition in &partitions {
            let log = Log::open(&kafka, partition).await?;
            wait::until_stored(&log, &store, &committed, partition, deadline).await?;
        }
    }
    let mut stored = Vec::new();
    for partition in &partitions {
        stored.push(store.snapshot(partition).await?);
    }
    // After the state: a dead letter is there before the offset moves past it.
    let mut letters = log::letters(&kafka, &args.dead_letter_topic).await?;
    let mut report = Report::default();
    for (partition, snapshot) in partitions.iter().zip(&stored) {
        let log = Log::open(&kafka, partition).await?;
        report.add(match snapshot {
            Some(snapshot) => {
                let check = Check {
                    settings: &settings,
                    partition,
                    log: &log,
                    snapshot,
                    letters: letters.remove(partition).unwrap_or_default(),
                    committed: &committed,
                };
                check.run().await?
            }
            None => no_state(partition, &log),
        });
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    Ok(if report.is_exact() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn window_size(text: &str) -> Result<HumanDuration, String> {
    let size: HumanDuration = text.parse()?;
    match size.as_millis() {
        0 => Err("must be 1 ms or longer".into()),
        _ => Ok(size),
    }
}

fn sensor_unit(text: &str) -> Result<(String, String), String> {
    // A unit may have the sign in it, a name rather not.
    match text.split_once('=') {
        Some((name, unit)) if !name.is_empty() && !unit.is_empty() => {
            Ok((name.to_owned(), unit.to_owned()))
        }
        _ => Err("must be NAME=UNIT".into()),
    }
}

/// A partition without state is as it must be only if it never had a record.
fn no_state(partition: &TopicPartition, log: &Log) -> Report {
    let mut comparison = Comparison::new(partition);
    comparison.report.partitions = 1;
    if log.end > 0 {
        let expected = format!("the state up to an offset ({} in the log)", log.end);
        comparison.find(Kind::Missing, "state", "", &expected, "no state");
    }
    comparison.report
}

impl Settings {
    fn new(args: &Args) -> Self {
        let millis = |d: HumanDuration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        // A length that is given twice is one length.
        let sizes: BTreeSet<i64> = args.size.iter().map(|size| millis(*size)).collect();
        Self {
            rules: Rules {
                sizes: sizes.into_iter().collect(),
                lateness: millis(args.lateness),
            },
            units: args.sensor.iter().cloned().collect(),
            keep: args.keep.into(),
            max_future: millis(args.max_future),
        }
    }
}
