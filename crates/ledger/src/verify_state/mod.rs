//! `iot-ledger verify-state`: folds the log with its own rules and compares the result
//! with a consumer's state in Redis, value by value.
//!
//! 1. read the stored state, partition by partition
//! 2. read the dead letters, whose records do not count
//! 3. read and fold each partition of the log, and compare at the stored offset
//!
//! It shares no code with the consumer, because a fault there would go unnoticed here.

mod compare;
pub(crate) mod fold;
mod layout;
pub(crate) mod model;
mod partition;
mod report;
mod rules;
mod store;
mod wait;

use std::collections::BTreeSet;
use std::process::ExitCode;

use iot_core::dead_letter;
use iot_core::partition::TopicPartition;
use iot_service::config::HumanDuration;
use tokio::time::Instant;

use crate::committed::Committed;
use crate::kafka::connect;
use crate::log::{self, Log};
use crate::reading::Units;
use crate::security::KafkaArgs;
use compare::Comparison;
use fold::Rules;
use partition::Check;
use report::{Kind, Report};
pub(crate) use rules::RuleArgs;
use rules::millis;
use store::Store;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Verify the state of these topics, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "device-data")]
    topic: Vec<String>,
    /// Read the consumer's dead letters from this topic (dead_letter.topic).
    #[arg(long, default_value = dead_letter::DEFAULT_TOPIC)]
    dead_letter_topic: String,
    /// Connect to the consumer's store: redis://USER:PASSWORD@HOST:PORT/DB, or rediss://
    /// for TLS.
    #[arg(
        long,
        env = "REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379"
    )]
    redis: String,
    /// Set the prefix of all keys (store.key_prefix).
    #[arg(long, default_value = "iot")]
    key_prefix: String,
    /// Set the lengths of windows (windows.sizes), separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1m,5m,1h", value_parser = window_size)]
    size: Vec<HumanDuration>,
    /// Set the allowed lateness of windows (windows.allowed_lateness).
    #[arg(long, default_value = "30s")]
    lateness: HumanDuration,
    /// Set how many sealed windows of each length are kept (windows.keep).
    #[arg(long, default_value_t = 15)]
    keep: u32,
    #[command(flatten)]
    rules: RuleArgs,
    /// Set how far messages may be ahead of their records (validate.max_future); used if
    /// the start of the log is gone.
    #[arg(long, default_value = "5m")]
    max_future: HumanDuration,
    /// Wait at most this long until the consumer has stored everything in the log.
    #[arg(long)]
    wait: Option<HumanDuration>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The settings of the consumer that determine its state.
#[derive(Debug, Clone)]
struct Settings {
    rules: Rules,
    /// Units of other than standard sensors, and units that replace standard ones.
    units: Units,
    /// How long sealed windows are kept, as a multiple of their length.
    keep: i64,
    /// How far messages may be ahead of their records, in milliseconds.
    max_future: i64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = match Settings::new(&args) {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("iot-ledger: --threshold {why}");
            return Ok(ExitCode::from(2));
        }
    };
    // Not a `value_parser`, whose error would contain the password.
    let redis = match store::valid_url(&args.redis) {
        Ok(redis) => redis,
        Err(why) => {
            eprintln!("iot-ledger: --redis {why}");
            return Ok(ExitCode::from(2));
        }
    };
    let committed = Committed::new(&args.kafka);
    let kafka = connect(&args.kafka.brokers, &committed.security).await?;
    let store = Store::connect(&redis, &args.key_prefix).await?;
    let partitions = log::partitions(&kafka, &args.topic).await?;
    if let Some(patience) = args.wait {
        let deadline = Instant::now() + *patience;
        for partition in &partitions {
            let log = Log::open(&kafka, &committed, partition).await?;
            wait::until_stored(&log, &store, &committed, partition, deadline).await?;
        }
    }
    let mut stored = Vec::new();
    for partition in &partitions {
        stored.push(store.snapshot(partition).await?);
    }
    // Read after the state, because a dead letter is written before the offset passes it.
    let mut letters = log::letters(&kafka, &committed, &args.dead_letter_topic).await?;
    let mut report = Report::default();
    for (partition, snapshot) in partitions.iter().zip(&stored) {
        let log = Log::open(&kafka, &committed, partition).await?;
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
        0 => Err("must be at least 1 ms".into()),
        _ => Ok(size),
    }
}

/// The report of a partition without state, which is correct only if it never had a record.
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
    /// # Errors
    /// A sensor has two thresholds.
    fn new(args: &Args) -> Result<Self, String> {
        // A set, because a length can be given twice.
        let sizes: BTreeSet<i64> = args.size.iter().map(|size| millis(*size)).collect();
        Ok(Self {
            rules: Rules {
                sizes: sizes.into_iter().collect(),
                lateness: millis(args.lateness),
                ..args.rules.rules()?
            },
            units: args.rules.units(),
            keep: args.keep.into(),
            max_future: millis(args.max_future),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_sensor_has_one_threshold_and_the_band_is_a_number() {
        let parsed = |args: &[&str]| {
            let line = Line::try_parse_from([&["verify-state"][..], args].concat());
            line.map(|line| {
                Settings::new(&line.args).map(|settings| settings.rules.thresholds.len())
            })
        };
        let (a, b) = (["--threshold", "a:above=5"], ["--threshold", "b:above=5"]);
        assert_eq!(parsed(&[a, b].concat()).unwrap(), Ok(2));
        let other = ["--threshold", "a:below=1"];
        let twice = parsed(&[a, other].concat()).unwrap();
        assert_eq!(twice, Err("is given twice for a".to_owned()));
        for band in ["NaN", "-0.1", "inf"] {
            let error = parsed(&[&format!("--band={band}")]).unwrap_err();
            assert!(error.to_string().contains("at least 0"), "{error}");
        }
        assert_eq!(parsed(&["--band=0"]).unwrap(), Ok(0));
    }
}
