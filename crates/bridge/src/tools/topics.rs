//! `iot-bridge topics`: creates topics in advance, and lists the existing ones.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use iot_core::headers::BRIDGE_SESSIONS_TOPIC;
use iot_core::partition::TopicPartition;
use iot_core::route::collision_key;
use iot_kafka::context::Quiet;
use iot_kafka::errors::Named;
use iot_kafka::lookup::{self, Cluster, Configs, Shape, Watermarks};
use iot_kafka::topics::{self, Existing, Topic};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::{Outcome, Tool, topics_file};
use crate::cluster::{DEADLINE, cluster};
use crate::config::BridgeConfig;
use crate::creator::{self, Admin};

/// The commands of `topics`.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// Create the topics listed in a file; compare those that exist
    Create(Create),
    /// List the topics that messages are routed to
    List(List),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// YAML file; see configs/topics.yaml
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Ask Kafka whether it would create them, and create nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only topics of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[expect(private_interfaces, reason = "as in the trait")]
impl Tool for TopicsCommand {
    fn run(self, config: &BridgeConfig, runtime: &Runtime) -> anyhow::Result<Outcome> {
        match self {
            Self::Create(command) => create(&command, config, runtime),
            Self::List(command) => list(&command, config, runtime),
        }
    }
}

/// The result for one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Created,
    /// With `--dry-run`: Kafka would create it.
    WouldBeCreated,
    Exists,
    /// Each difference: what is asked for, and what exists.
    Differs(Vec<String>),
    Refused(String),
}

impl State {
    fn is_as_asked(&self) -> bool {
        matches!(self, Self::Created | Self::WouldBeCreated | Self::Exists)
    }

    fn line(&self) -> String {
        match self {
            Self::Created => "created".into(),
            Self::WouldBeCreated => "would be created".into(),
            Self::Exists => "exists".into(),
            Self::Differs(differences) => format!("exists but differs: {}", differences.join("; ")),
            Self::Refused(why) => format!("refused: {why}"),
        }
    }
}

fn create(command: &Create, config: &BridgeConfig, runtime: &Runtime) -> anyhow::Result<Outcome> {
    let wanted = topics_file::read(&command.file, config)?;
    let admin = creator::admin(&config.kafka)?;
    let states = runtime.block_on(settle(&admin, &wanted, command.dry_run))?;
    let mut out = io::stdout().lock();
    for (topic, state) in wanted.iter().zip(&states) {
        writeln!(out, "{}: {}", topic.name, state.line())?;
    }
    Ok(Outcome::when(states.iter().all(State::is_as_asked)))
}

/// Compares the topics that exist and creates the others.
async fn settle(admin: &Arc<Admin>, wanted: &[Topic], dry_run: bool) -> anyhow::Result<Vec<State>> {
    let cluster = cluster(admin).await?;
    let there: Vec<&str> = wanted
        .iter()
        .map(|topic| topic.name.as_str())
        .filter(|name| cluster.topics.contains_key(*name))
        .collect();
    let configs = lookup::topic_configs(admin, &there, DEADLINE).await?;
    let missing: Vec<Topic> = wanted
        .iter()
        .filter(|topic| !cluster.topics.contains_key(&topic.name))
        .map(creatable)
        .collect();
    let created = create_missing(admin, &missing, &cluster, dry_run).await?;
    let state = |topic: &Topic| match cluster.topics.get(&topic.name) {
        Some(shape) => compare(topic, *shape, configs.get(&topic.name)),
        None => created[&topic.name].clone(),
    };
    Ok(wanted.iter().map(state).collect())
}

/// The topic to create. The bridge depends on the settings of its sessions topic, so a file
/// does not change them.
fn creatable(wanted: &Topic) -> Topic {
    if wanted.name == BRIDGE_SESSIONS_TOPIC {
        creator::sessions_topic(wanted.replication)
    } else {
        wanted.clone()
    }
}

fn compare(wanted: &Topic, there: Shape, configs: Option<&Configs>) -> State {
    let mut differences = Vec::new();
    for (name, asked, there) in [
        ("partitions", wanted.partitions, there.partitions),
        ("replication", wanted.replication, there.replication),
    ] {
        // -1 asks for nothing.
        if usize::try_from(asked).is_ok_and(|asked| asked != there) {
            differences.push(format!("{name} asked {asked}, there {there}"));
        }
    }
    for (name, asked) in &wanted.configs {
        let there = match configs {
            None => "unknown (this user needs the right DescribeConfigs)",
            Some(configs) => match configs.get(name) {
                Some(there) if is_same(asked, there) => continue,
                Some(there) => there,
                None => "no such setting",
            },
        };
        differences.push(format!("{name} asked {asked}, there {there}"));
    }
    if differences.is_empty() {
        State::Exists
    } else {
        State::Differs(differences)
    }
}

/// Kafka writes numbers and lists in its own way.
fn is_same(asked: &str, there: &str) -> bool {
    let items = |text: &str| -> Vec<String> {
        text.split(',')
            .map(|item| item.trim().to_string())
            .collect()
    };
    match (asked.trim().parse::<f64>(), there.trim().parse::<f64>()) {
        (Ok(asked), Ok(there)) => asked == there,
        _ => items(asked) == items(there),
    }
}

async fn create_missing(
    admin: &Admin,
    missing: &[Topic],
    cluster: &Cluster,
    dry_run: bool,
) -> anyhow::Result<HashMap<String, State>> {
    let answers = if dry_run {
        topics::validate(admin, missing, DEADLINE).await
    } else {
        topics::create(admin, missing, DEADLINE).await
    };
    let answers = answers.context("asking Kafka to create topics")?;
    let there: HashMap<String, &str> = cluster
        .topics
        .keys()
        .map(|name| (collision_key(name), name.as_str()))
        .collect();
    let state = |Topic { name, .. }: &Topic| {
        let state = match answers.get(name) {
            Some(Ok(Existing::New)) if dry_run => State::WouldBeCreated,
            Some(Ok(Existing::New)) => State::Created,
            // Somebody else was faster.
            Some(Ok(Existing::Before)) => State::Exists,
            Some(Err(code)) => {
                let twin = there.get(&collision_key(name)).copied();
                State::Refused(refusal(*code, twin))
            }
            None => State::Refused("no answer from Kafka".into()),
        };
        (name.clone(), state)
    };
    Ok(missing.iter().map(state).collect())
}

/// Kafka's reason, and what to do.
fn refusal(code: RDKafkaErrorCode, twin: Option<&str>) -> String {
    use RDKafkaErrorCode as Code;
    let advice = match code {
        Code::InvalidTopic => match twin {
            Some(twin) => return format!("{twin} exists, and Kafka does not tell . and _ apart"),
            None => "choose another name",
        },
        Code::InvalidReplicationFactor => "replication must not be above the number of brokers",
        Code::InvalidPartitions => "partitions must be at least 1",
        Code::InvalidConfig => "a name or value in configs is not one of Kafka's",
        Code::PolicyViolation => "the cluster has a policy for new topics: see its logs",
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            "this user needs the right CREATE"
        }
        _ => return Named(code).to_string(),
    };
    format!("{}; {advice}", Named(code))
}

/// A topic as it is listed.
#[derive(Debug, Serialize)]
struct Row<'a> {
    topic: &'a str,
    tenant: Option<&'a str>,
    project: Option<&'a str>,
    dead_letters: bool,
    partitions: usize,
    replication: usize,
    /// Offsets from the start to the end of the log: more than records if it is compacted.
    records: u64,
}

fn list(command: &List, config: &BridgeConfig, runtime: &Runtime) -> anyhow::Result<Outcome> {
    let admin = creator::admin(&config.kafka)?;
    let cluster = runtime.block_on(cluster(&admin))?;
    let mut rows: Vec<Row<'_>> = cluster
        .topics
        .iter()
        .filter_map(|(name, shape)| row(name, *shape, config))
        .filter(|row| {
            command.tenant.is_none() || row.dead_letters || row.tenant == command.tenant.as_deref()
        })
        .collect();
    count(&mut rows, config)?;
    let mut out = io::stdout().lock();
    if command.json {
        for row in &rows {
            serde_json::to_writer(&mut out, row).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    } else {
        table(&mut out, &rows)?;
    }
    Ok(Outcome::Done)
}

fn row<'a>(topic: &'a str, shape: Shape, config: &BridgeConfig) -> Option<Row<'a>> {
    let dead_letters = topic == config.dead_letter.topic;
    let (tenant, project) = match config.route.names_in(topic) {
        Some(names) => names,
        None if dead_letters => (None, None),
        None => return None,
    };
    Some(Row {
        topic,
        tenant,
        project,
        dead_letters,
        partitions: shape.partitions,
        replication: shape.replication,
        records: 0,
    })
}

fn count(rows: &mut [Row<'_>], config: &BridgeConfig) -> anyhow::Result<()> {
    let consumer: BaseConsumer<Quiet> = config
        .kafka
        .client()?
        .create_with_context(Quiet)
        .context("creating the Kafka client")?;
    let partitions = rows.iter().flat_map(|row| {
        let topic: Arc<str> = row.topic.into();
        let numbers = (0..).take(row.partitions);
        numbers.map(move |number| TopicPartition::new(topic.clone(), number))
    });
    let partitions: Vec<TopicPartition> = partitions.collect();
    let all = lookup::all_watermarks(&consumer, &partitions, DEADLINE)?;
    let mut counts = all.into_iter().map(Watermarks::count);
    for row in rows {
        row.records = counts.by_ref().take(row.partitions).sum();
    }
    Ok(())
}

fn table(out: &mut impl Write, rows: &[Row<'_>]) -> io::Result<()> {
    let width = rows
        .iter()
        .map(|row| row.topic.len())
        .max()
        .unwrap_or(0)
        .max(5);
    writeln!(out, "{:width$}  PARTITIONS  REPLICATION  RECORDS", "TOPIC")?;
    for row in rows {
        let note = if row.dead_letters {
            "  (dead letters)"
        } else {
            ""
        };
        writeln!(
            out,
            "{:width$}  {:>10}  {:>11}  {:>7}{note}",
            row.topic, row.partitions, row.replication, row.records
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(partitions: i32, configs: &[(&str, &str)]) -> Topic {
        let configs = configs.iter();
        Topic {
            name: "t.p".into(),
            partitions,
            replication: -1,
            configs: configs
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
        }
    }

    #[test]
    fn only_settings_that_are_asked_for_are_compared() {
        let there = Shape {
            partitions: 3,
            replication: 2,
        };
        let configs = wanted(
            0,
            &[
                ("retention.ms", "1000"),
                ("cleanup.policy", "compact,delete"),
            ],
        )
        .configs;
        let compare = |wanted: &Topic| compare(wanted, there, Some(&configs));
        assert_eq!(compare(&wanted(-1, &[])), State::Exists);
        assert_eq!(
            compare(&wanted(3, &[("retention.ms", "1000.0")])),
            State::Exists
        );
        assert_eq!(
            compare(&wanted(3, &[("cleanup.policy", "compact, delete")])),
            State::Exists
        );
        assert_eq!(
            compare(&wanted(4, &[("retention.ms", "-1"), ("retention", "1")])).line(),
            "exists but differs: partitions asked 4, there 3; retention asked 1, there no such \
             setting; retention.ms asked -1, there 1000"
        );
    }

    #[test]
    fn unreadable_settings_count_as_different() {
        let there = Shape {
            partitions: 3,
            replication: 2,
        };
        assert_eq!(compare(&wanted(3, &[]), there, None), State::Exists);
        assert!(!compare(&wanted(3, &[("a", "1")]), there, None).is_as_asked());
    }

    #[test]
    fn a_refusal_has_advice() {
        let twin = refusal(RDKafkaErrorCode::InvalidTopic, Some("a_b.c"));
        assert!(twin.starts_with("a_b.c exists"), "{twin}");
        let rights = refusal(RDKafkaErrorCode::TopicAuthorizationFailed, None);
        assert!(rights.contains("CREATE"), "{rights}");
    }
}
