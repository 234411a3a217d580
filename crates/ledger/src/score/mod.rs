//! `iot-ledger score`: how many of the simulator's anomalies have an alert, and how many
//! alerts are right.
//!
//! 1. read the devices' messages, whose headers have labels
//! 2. read the truth file instead of the labels, if there is one
//! 3. read the alerts that a consumer wrote to Kafka, and compare

mod tally;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use iot_core::dead_letter;
use iot_core::headers::LABEL;
use iot_core::message::Quality;
use iot_core::partition::TopicPartition;
use rskafka::client::Client;
use rskafka::record::{Record, RecordAndOffset};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kafka::connect;
use crate::log::{self, Log, Read};
use crate::reading::{Units, message, owner};
use crate::security::KafkaArgs;
use tally::{Alert, Evidence, Score, Series};

/// How long connecting to Kafka may take.
const CONNECT: Duration = Duration::from_secs(30);
/// Events of alerts that are raised.
const RAISED: &str = "alert.created";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Topics with the devices' messages, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "device-data")]
    topic: Vec<String>,
    /// Topic with the consumer's alerts (outputs.alerts).
    #[arg(long, default_value = "alert-events")]
    alerts: String,
    /// Topic with the records that the consumer refused (dead_letter.topic).
    #[arg(long, default_value = dead_letter::DEFAULT_TOPIC)]
    dead_letter_topic: String,
    /// The simulator's anomaly.truth_file; without, the labels in the messages count, and
    /// labelled readings in a row are one anomaly.
    #[arg(long)]
    truth: Option<PathBuf>,
    /// Anomalies before so many readings of their sensor don't count.
    #[arg(long, default_value_t = 200)]
    warm_up: usize,
    /// What has to be reached, such as stuck.recall=0.9, separated by commas; else the exit
    /// code is 1.
    #[arg(long, value_delimiter = ',')]
    at_least: Vec<Least>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// What a kind has to reach.
#[derive(Debug, Clone, PartialEq)]
struct Least {
    kind: String,
    measure: Measure,
    least: f64,
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

/// The event of an alert.
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
    let kafka = connect(&args.kafka.brokers, &args.kafka.security.checked(), CONNECT).await?;
    let letters = log::letters(&kafka, &args.dead_letter_topic).await?;
    let by_labels = args.truth.is_none();
    for topic in &args.topic {
        each_record(&kafka, topic, |at, record| {
            let refused = letters.get(at);
            if !refused.is_some_and(|offsets| offsets.contains(&record.offset)) {
                take_message(topic, &record.record, by_labels, &mut evidence);
            }
        })
        .await?;
    }
    each_record(&kafka, &args.alerts, |_, record| {
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
    Ok(report.judge(&args.at_least))
}

/// Reads what is in a topic now.
async fn each_record(
    kafka: &Client,
    topic: &str,
    mut take: impl FnMut(&TopicPartition, &RecordAndOffset),
) -> anyhow::Result<()> {
    for partition in log::partitions(kafka, &[topic.to_owned()]).await? {
        let log = Log::open(kafka, &partition).await?;
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

/// Of a record that is no message nothing is taken: the consumer took nothing either.
fn take_message(topic: &str, record: &Record, by_labels: bool, evidence: &mut Evidence) {
    // The simulator's sensors are the standard ones.
    let units = Units::new();
    let Ok(message) = message(record, &units) else {
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

/// `temperature=spike,current=drift`.
fn parse_labels(labels: &str) -> impl Iterator<Item = (&str, &str)> {
    labels.split(',').filter_map(|label| label.split_once('='))
}

/// Events of other kinds may be in the same topic.
fn evidence_of_alert(record: &Record, evidence: &mut Evidence) {
    let event = record.value.as_deref().map(serde_json::from_slice::<Event>);
    if let Some(Ok(event)) = event
        && event.kind == RAISED
        && let Ok(alert) = serde_json::from_value::<Alert>(event.data)
    {
        evidence.add_alert(alert);
    }
}

impl FromStr for Least {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('=').and_then(|(name, least)| {
            let (kind, measure) = name.split_once('.')?;
            let measure = match measure {
                "recall" => Measure::Recall,
                "precision" => Measure::Precision,
                _ => return None,
            };
            Some(Self {
                kind: kind.to_owned(),
                measure,
                least: least.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| format!("{text:?} is not KIND.recall=SHARE or KIND.precision=SHARE"))
    }
}

impl Report {
    /// Whether everything was reached; what was not is said.
    fn judge(&self, wanted: &[Least]) -> ExitCode {
        let missed = wanted.iter().filter(|least| !self.reaches(least));
        let missed: Vec<_> = missed.collect();
        for least in &missed {
            let Least { kind, least, .. } = least;
            eprintln!("iot-ledger: {kind} does not reach {least}");
        }
        if missed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// What could not be measured was not reached.
    fn reaches(&self, least: &Least) -> bool {
        let share = self
            .kinds
            .get(&least.kind)
            .and_then(|score| match least.measure {
                Measure::Recall => score.recall,
                Measure::Precision => score.precision,
            });
        share.is_some_and(|share| share >= least.least)
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
    fn what_has_to_be_reached_is_read_and_judged() {
        let least: Least = "stuck.recall=0.9".parse().unwrap();
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
        assert!(score(Some(0.9)).reaches(&least));
        assert!(!score(Some(0.89)).reaches(&least));
        assert!(!score(None).reaches(&least), "not measured");
        for wrong in [
            "stuck=0.9",
            "stuck.delay=1",
            "stuck.recall=much",
            "recall<0.9",
        ] {
            assert!(wrong.parse::<Least>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_are_of_sensors() {
        let labels: Vec<_> = parse_labels("temperature=spike,switch=toggling").collect();
        assert_eq!(labels, [("temperature", "spike"), ("switch", "toggling")]);
        assert_eq!(parse_labels("nothing").count(), 0);
    }
}
