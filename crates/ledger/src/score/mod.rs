//! `iot-ledger score`: the recall and precision of alerts against the simulator's
//! anomalies.
//!
//! 1. read the devices' messages, with the labels in their headers
//! 2. read the truth file instead of the labels, if one is given
//! 3. read the alerts that a consumer wrote to Kafka, and compare

mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, bail};
use iot_core::dead_letter;
use iot_core::headers::LABEL;
use iot_core::message::Quality;
use iot_core::partition::TopicPartition;
use rskafka::client::Client;
use rskafka::record::{Record, RecordAndOffset};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::committed::Committed;
use crate::kafka::connect;
use crate::log::{self, Log, OfPartition, Read, Refused};
use crate::reading::{Units, message, owner};
use crate::security::KafkaArgs;
use tally::{Alert, Evidence, Score, Series};

/// Type of the event of a raised alert.
const RAISED: &str = "alert.created";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Read the devices' messages from these topics, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "device-data")]
    topic: Vec<String>,
    /// Read the consumer's alerts from this topic (outputs.alerts).
    #[arg(long, default_value = "alert-events")]
    alerts: String,
    /// Read the consumer's dead letters from this topic (dead_letter.topic).
    #[arg(long, default_value = dead_letter::DEFAULT_TOPIC)]
    dead_letter_topic: String,
    /// Read the anomalies from this file (the simulator's anomaly.truth_file); by default,
    /// consecutive readings with a label in the messages are one anomaly.
    #[arg(long)]
    truth: Option<PathBuf>,
    /// Ignore anomalies within this number of first readings of their sensor.
    #[arg(long, default_value_t = 200)]
    warm_up: usize,
    /// Exit with 1 unless these minimums are reached, such as stuck.recall=0.9; separate
    /// several with commas.
    #[arg(long, value_delimiter = ',')]
    at_least: Vec<Minimum>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The minimum of one measure of a kind.
#[derive(Debug, Clone, PartialEq)]
struct Minimum {
    kind: String,
    measure: Measure,
    share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Recall,
    Precision,
}

#[derive(Debug, Serialize)]
struct Report {
    readings: usize,
    sensors: usize,
    kinds: BTreeMap<String, Score>,
}

/// An event in the alerts' topic.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    data: Value,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut evidence = Evidence::default();
    if let Some(path) = &args.truth {
        read_truth(path, &mut evidence)?;
    }
    let committed = Committed::new(&args.kafka);
    let kafka = connect(&args.kafka.brokers, &committed.security).await?;
    let letters = log::letters(&kafka, &committed, &args.dead_letter_topic).await?;
    let none = OfPartition::new();
    let by_labels = args.truth.is_none();
    for topic in &args.topic {
        each_record(&kafka, &committed, topic, |at, record| {
            let letters = letters.get(at).unwrap_or(&none);
            let refused = match letters.get(&record.offset) {
                None => None,
                Some(Refused::Whole) => return,
                Some(Refused::Readings(readings)) => Some(readings),
            };
            take_message(topic, &record.record, refused, by_labels, &mut evidence);
        })
        .await?;
    }
    each_record(&kafka, &committed, &args.alerts, |_, record| {
        evidence_of_alert(&record.record, &mut evidence);
    })
    .await?;
    let (readings, sensors) = evidence.counts();
    let report = Report {
        readings,
        sensors,
        kinds: evidence.score(args.warm_up),
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    Ok(report.exit_code(&args.at_least))
}

/// Reads the current records of a topic.
async fn each_record(
    kafka: &Client,
    committed: &Committed,
    topic: &str,
    mut take: impl FnMut(&TopicPartition, &RecordAndOffset),
) -> anyhow::Result<()> {
    for partition in log::partitions(kafka, &[topic.to_owned()]).await? {
        let log = Log::open(kafka, committed, &partition).await?;
        let mut reader = log.read_from(log.begin);
        loop {
            match reader.next().await? {
                Read::Records(records) => records.iter().for_each(|r| take(&partition, r)),
                Read::Transaction => bail!("{topic} has transactions, which are not read"),
                Read::End => break,
            }
        }
    }
    Ok(())
}

fn read_truth(path: &Path, evidence: &mut Evidence) -> anyhow::Result<()> {
    let context = || format!("reading {}", path.display());
    let file = File::open(path).with_context(context)?;
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let anomaly = serde_json::from_str(&line.with_context(context)?);
        let anomaly = anomaly.with_context(|| format!("line {number} of {}", path.display()));
        evidence.add_anomaly(anomaly?);
    }
    Ok(())
}

/// Adds the readings and labels of a record, without those at the positions `refused`. Invalid
/// messages are ignored, as the consumer ignores them.
fn take_message(
    topic: &str,
    record: &Record,
    refused: Option<&BTreeSet<usize>>,
    by_labels: bool,
    evidence: &mut Evidence,
) {
    // The simulator's sensors are the standard ones.
    let units = Units::new();
    let Ok(message) = message(record, &units, refused) else {
        return;
    };
    let Ok((tenant, project)) = owner(topic, &message) else {
        return;
    };
    let series = |sensor: &str| Series {
        tenant: tenant.to_owned(),
        project: project.to_owned(),
        device: message.device_id.to_string(),
        sensor: sensor.to_owned(),
    };
    for reading in &message.readings {
        if reading.quality != Quality::Bad {
            let series = series(&reading.sensor);
            evidence.add_reading(series, message.timestamp, reading.value);
        }
    }
    let labels = record.headers.get(LABEL).filter(|_| by_labels);
    let labels = labels.and_then(|labels| std::str::from_utf8(labels).ok());
    for (sensor, kind) in labels.iter().flat_map(|labels| parse_labels(labels)) {
        evidence.add_label(series(sensor), kind, message.timestamp);
    }
}

/// Parses sensors and kinds from a label such as `temperature=spike,current=drift`.
fn parse_labels(labels: &str) -> impl Iterator<Item = (&str, &str)> {
    labels.split(',').filter_map(|label| label.split_once('='))
}

/// Adds the alert of an event. The topic also has events of other types.
fn evidence_of_alert(record: &Record, evidence: &mut Evidence) {
    let event = record.value.as_deref().map(serde_json::from_slice::<Event>);
    if let Some(Ok(event)) = event
        && event.kind == RAISED
        && let Ok(alert) = serde_json::from_value::<Alert>(event.data)
    {
        evidence.add_alert(alert);
    }
}

impl FromStr for Minimum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('=').and_then(|(name, share)| {
            let (kind, measure) = name.split_once('.')?;
            let measure = match measure {
                "recall" => Measure::Recall,
                "precision" => Measure::Precision,
                _ => return None,
            };
            Some(Self {
                kind: kind.to_owned(),
                measure,
                share: share.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| format!("{text:?} is not KIND.recall=SHARE or KIND.precision=SHARE"))
    }
}

impl Report {
    /// The exit code; minimums that are not reached are printed.
    fn exit_code(&self, minimums: &[Minimum]) -> ExitCode {
        let missed = minimums.iter().filter(|minimum| !self.reaches(minimum));
        let missed: Vec<_> = missed.collect();
        for Minimum { kind, share, .. } in &missed {
            eprintln!("iot-ledger: {kind} does not reach the minimum of {share}");
        }
        if missed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Whether a minimum is reached; a measure without a value does not reach it.
    fn reaches(&self, minimum: &Minimum) -> bool {
        let share = self
            .kinds
            .get(&minimum.kind)
            .and_then(|score| match minimum.measure {
                Measure::Recall => score.recall,
                Measure::Precision => score.precision,
            });
        share.is_some_and(|share| share >= minimum.share)
    }

    fn print(&self) {
        println!("{} readings of {} sensors", self.readings, self.sensors);
        println!(
            "{:<10} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9} {:>10} {:>4}",
            "kind",
            "anomalies",
            "found",
            "recall",
            "alerts",
            "right",
            "precision",
            "delay P50",
            "P95"
        );
        let share = |share: Option<f64>| share.map_or("-".into(), |share| format!("{share:.3}"));
        let delay = |delay: Option<usize>| delay.map_or("-".into(), |delay| delay.to_string());
        for (kind, score) in &self.kinds {
            println!(
                "{kind:<10} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9} {:>10} {:>4}",
                score.anomalies,
                score.found,
                share(score.recall),
                score.alerts,
                score.right,
                share(score.precision),
                delay(score.delay_p50),
                delay(score.delay_p95),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimums_are_parsed_and_compared() {
        let minimum: Minimum = "stuck.recall=0.9".parse().unwrap();
        let score = |recall| Report {
            readings: 0,
            sensors: 0,
            kinds: [(
                "stuck".to_owned(),
                Score {
                    recall,
                    ..Score::default()
                },
            )]
            .into(),
        };
        assert!(score(Some(0.9)).reaches(&minimum));
        assert!(!score(Some(0.89)).reaches(&minimum));
        assert!(!score(None).reaches(&minimum), "not measured");
        for wrong in [
            "stuck=0.9",
            "stuck.delay=1",
            "stuck.recall=much",
            "recall<0.9",
        ] {
            assert!(wrong.parse::<Minimum>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_are_parsed() {
        let labels: Vec<_> = parse_labels("temperature=spike,switch=toggling").collect();
        assert_eq!(labels, [("temperature", "spike"), ("switch", "toggling")]);
        assert_eq!(parse_labels("nothing").count(), 0);
    }
}
