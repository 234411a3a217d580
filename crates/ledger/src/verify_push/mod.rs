//! `iot-ledger verify-push`: subscribes through several replicas as any client does, and compares
//! what it receives with the log.
//!
//! 1. receive changes, with reconnects, for a while
//! 2. read the log once, to know the last change of each partition
//! 3. receive until every client has it; also new clients, one at each replica
//! 4. fold the log with the ledger's own rules, and compare changes, snapshots and views
//!
//! It shares no code with the service, because a fault there would go unnoticed here.

mod alerts;
mod client;
mod filter;
mod proof;
mod report;
mod seen;
mod view;
mod views;
mod watch;
mod wire;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::ensure;
use iot_core::dead_letter;
use iot_core::partition::TopicPartition;
use iot_service::config::HumanDuration;
use rskafka::client::Client as Kafka;

use crate::committed::Committed;
use crate::kafka::connect;
use crate::log::{self, Letters, Log, OfPartition};
use crate::reading::Units;
use crate::security::KafkaArgs;
use crate::verify_state::RuleArgs;
use crate::verify_state::fold::Rules;
use filter::Filter;
use proof::{FindLast, Last, Proof, Source};
use report::Report;
use seen::Seen;
use views::{Outcome, Views};
use watch::{Clients, Watch};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Connect to this replica (ws://HOST:PORT/ws); may be repeated. A client continues at the
    /// next replica when its connection breaks.
    #[arg(long = "url", required = true, value_parser = url)]
    urls: Vec<String>,
    /// Connect this many clients, spread over the replicas; by default one for each.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    clients: Option<u16>,
    /// Subscribe to devices and alerts with this filter only (building=b1&floor=2); may be
    /// repeated: clients take the filters in turn.
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<Filter>,
    /// Compare with the log of these topics, separated by commas: all that the consumer reads.
    #[arg(long, value_delimiter = ',', default_value = "device-data")]
    topic: Vec<String>,
    /// Read the consumer's dead letters from this topic (dead_letter.topic).
    #[arg(long, default_value = dead_letter::DEFAULT_TOPIC)]
    dead_letter_topic: String,
    /// Receive for this long; without --duration and --records until SIGINT or SIGTERM.
    #[arg(long)]
    duration: Option<HumanDuration>,
    /// Receive until each client has received this many changes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// Wait at most this long without progress: for the first snapshots, and at the end for
    /// what is in the log and for equal alerts.
    #[arg(long, default_value = "30s")]
    patience: HumanDuration,
    /// Accept snapshots after reconnects: what was pushed before them is not verified.
    #[arg(long)]
    allow_snapshots: bool,
    /// Accept such snapshots of alerts only: where alerts are rare, positions are old, and a replica
    /// that has started since does not know what was before.
    #[arg(long)]
    allow_alert_snapshots: bool,
    #[command(flatten)]
    rules: RuleArgs,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The settings of the consumer that determine what it shows.
struct Settings {
    rules: Rules,
    units: Units,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = match Settings::new(&args.rules) {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("iot-ledger: --threshold {why}");
            return Ok(ExitCode::from(2));
        }
    };
    let report = verify(&args, &settings).await?;
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

async fn verify(args: &Args, settings: &Settings) -> anyhow::Result<Report> {
    let committed = Committed::new(&args.kafka);
    let kafka = connect(&args.kafka.brokers, &committed.security).await?;
    let mut topics = Topics {
        partitions: log::partitions(&kafka, &args.topic).await?,
        kafka,
        committed,
        letters: &args.dead_letter_topic,
        settings,
    };
    let mut watch = Watch::new(args);
    watch.until_ready().await?;
    // Scripts wait for this line before they break anything.
    eprintln!("subscribed");
    watch
        .receive(args.duration.map(|duration| *duration), args.records)
        .await?;
    // Partitions may have other leaders by now.
    topics.kafka = connect(&args.kafka.brokers, &topics.committed.security).await?;
    let filters = watch.filters.clone();
    let goal = watch.receive_during(topics.goal(&filters)).await?;
    watch.join_at_the_end();
    watch.until_equal(&goal).await;
    let (clients, mut report) = watch.finish();
    for client in clients.seen.iter().filter(|client| !client.is_ready()) {
        report.unreachable(&client.name);
    }
    topics.prove(&goal, &clients, &mut report).await?;
    Ok(report)
}

/// The last change of each partition.
struct Goal(BTreeMap<TopicPartition, ByPartition>);

struct ByPartition {
    name: String,
    /// The end of the log.
    end: i64,
    /// By filter.
    last: Vec<Option<Last>>,
}

impl Goal {
    /// Whether a client has everything.
    fn is_reached(&self, seen: &Seen) -> bool {
        let mut partitions = self.0.values();
        partitions.all(|of| {
            let last = of.last[seen.filter].as_ref();
            last.is_none_or(|last| last.is_in(&of.name, seen))
        })
    }
}

/// The log of all partitions.
struct Topics<'a> {
    kafka: Kafka,
    committed: Committed,
    partitions: Vec<TopicPartition>,
    letters: &'a str,
    settings: &'a Settings,
}

impl Topics<'_> {
    async fn letters(&self) -> anyhow::Result<Letters> {
        log::letters(&self.kafka, &self.committed, self.letters).await
    }

    async fn open(&self, at: &TopicPartition) -> anyhow::Result<Log> {
        Log::open(&self.kafka, &self.committed, at).await
    }

    fn source<'a>(
        &'a self,
        at: &'a TopicPartition,
        log: &'a Log,
        letters: &'a OfPartition,
    ) -> Source<'a> {
        Source {
            at,
            log,
            committed: &self.committed,
            letters,
            units: &self.settings.units,
            rules: &self.settings.rules,
        }
    }

    /// Where the log ends now.
    async fn goal(&self, filters: &[Filter]) -> anyhow::Result<Goal> {
        let mut logs = Vec::new();
        for at in &self.partitions {
            let log = self.open(at).await?;
            ensure!(
                log.begin == 0,
                "{at}: the records before offset {} are deleted; the fold begins with the first",
                log.begin
            );
            logs.push((at, log));
        }
        let mut letters = self.letters().await?;
        let mut goal = BTreeMap::new();
        for (at, log) in &logs {
            let letters = letters.remove(at).unwrap_or_default();
            let source = self.source(at, log, &letters);
            let (_, FindLast { last, .. }) = source.fold(|| FindLast::new(filters)).await?;
            let of = ByPartition {
                name: format!("{}:{}", at.topic, at.partition),
                end: log.end,
                last,
            };
            goal.insert((*at).clone(), of);
        }
        Ok(Goal(goal))
    }

    /// Compares what clients have received with the log.
    async fn prove(
        &self,
        goal: &Goal,
        clients: &Clients,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let views = Views::of(&clients.seen);
        let mut outcomes: Vec<_> = views.shown.iter().map(|_| Outcome::default()).collect();
        let mut letters = self.letters().await?;
        let last = &clients.seen[clients.at_the_end..];
        let mut is_quiet = true;
        for (at, of) in &goal.0 {
            let log = self.open(at).await?;
            let letters = letters.remove(at).unwrap_or_default();
            let source = self.source(at, &log, &letters);
            let new = || Proof::new(&of.name, of.end, clients, &views);
            let (fold, mut proof) = source.fold(new).await?;
            proof.finish(&fold);
            report.add(proof.report);
            for (sum, outcome) in outcomes.iter_mut().zip(proof.outcomes) {
                sum.add(outcome);
            }
            if log.end == of.end {
                alerts::compare_with_log(&fold, &of.name, last, report);
            } else {
                is_quiet = false;
            }
        }
        views.report(outcomes, &clients.seen, report);
        seen::of_other_partitions(&clients.seen, goal.0.values().map(|of| &*of.name), report);
        // While messages arrive, two replicas are not at the same offset.
        if is_quiet {
            alerts::compare(clients, report);
        }
        Ok(())
    }
}

impl Settings {
    /// # Errors
    /// A sensor has two thresholds.
    fn new(args: &RuleArgs) -> Result<Self, String> {
        Ok(Self {
            // Windows are not pushed.
            rules: args.rules()?,
            units: args.units(),
        })
    }
}

fn url(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("ws://");
    let address = address.ok_or("must start with ws://; TLS is not supported")?;
    match address.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => Ok(text.to_owned()),
        _ => Err("must be ws://HOST:PORT/ws".into()),
    }
}

#[cfg(test)]
mod tests;
