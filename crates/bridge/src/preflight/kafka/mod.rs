//! Checks of Kafka.

mod dead_letters;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use iot_kafka::errors::{Named, code};
use iot_kafka::lookup::{self, Cluster, Configs};
use iot_kafka::topics;
use rdkafka::error::RDKafkaErrorCode;

use super::Check;
use crate::cluster::{DEADLINE, cluster};
use crate::config::BridgeConfig;
use crate::creator::{self, Admin};
use dead_letters::dead_letters;

/// Key, headers and framing of a record, bytes.
const RECORD_OVERHEAD: u64 = 2048;
/// A tenant and project that nobody has, to ask whether topics may be created.
const PROBE: &str = "iot-bridge-preflight";

const BROKERS: &str = "kafka: brokers";
const CREATE: &str = "kafka: creating topics";
const LARGEST: &str = "kafka: largest message";
const DURABILITY: &str = "kafka: acks=all";
const ELECTION: &str = "kafka: leader election";

/// What the checks need to know about a cluster.
#[derive(Debug, Clone, Default)]
struct Facts {
    cluster: Cluster,
    /// Settings of one broker; empty if they cannot be read.
    broker: Configs,
    /// Whether the bridge could create a topic; `None` with `topics.create` off.
    creation: Option<Result<(), RDKafkaErrorCode>>,
    /// Settings of the dead-letter topic, if it exists and they can be read.
    letters: Option<Configs>,
}

/// All checks of Kafka. They change nothing there.
pub(crate) async fn kafka_checks(admin: &Arc<Admin>, config: &BridgeConfig) -> Vec<Check> {
    match facts(admin, config).await {
        Ok(facts) => judge(&facts, config),
        Err(error) => vec![Check::problem(
            BROKERS,
            format!("{}: {error:#}", config.kafka.brokers.join(", ")),
            "check kafka.brokers, the network, and that Kafka is running",
        )],
    }
}

async fn facts(admin: &Arc<Admin>, config: &BridgeConfig) -> anyhow::Result<Facts> {
    let cluster = cluster(admin).await?;
    let broker = match cluster.brokers.keys().next() {
        // Without the right to read them some checks are skipped.
        Some(id) => lookup::broker_configs(admin, *id, DEADLINE)
            .await
            .unwrap_or_default(),
        None => Configs::new(),
    };
    let mut letters = HashMap::new();
    if cluster.topics.contains_key(&config.dead_letter.topic) {
        let topic = config.dead_letter.topic.as_str();
        let asked = lookup::topic_configs(admin, &[topic], DEADLINE).await;
        letters = asked.unwrap_or_default();
    }
    let creation = if config.topics.create {
        Some(try_create(admin, config).await)
    } else {
        None
    };
    Ok(Facts {
        cluster,
        broker,
        creation,
        letters: letters.remove(&config.dead_letter.topic),
    })
}

/// Whether the bridge could create a topic; creates none.
async fn try_create(admin: &Admin, config: &BridgeConfig) -> Result<(), RDKafkaErrorCode> {
    let name = config.route.kafka_topic(PROBE, PROBE);
    let name = name.unwrap_or_else(|_| PROBE.to_string());
    let topic = creator::new_topic(&name, &config.topics, &config.dead_letter.topic);
    let answers = topics::validate(admin, &[topic], DEADLINE).await;
    let answers = answers.map_err(|error| code(&error))?;
    answers
        .into_values()
        .try_for_each(|answer| answer.map(drop))
}

fn judge(facts: &Facts, config: &BridgeConfig) -> Vec<Check> {
    let mut checks = vec![brokers(&facts.cluster.brokers), creation(facts)];
    checks.extend(largest(facts, config));
    checks.extend(durability(facts, config));
    checks.extend(election(facts, config));
    checks.extend(dead_letters(facts, config));
    checks
}

fn brokers(brokers: &BTreeMap<i32, String>) -> Check {
    let named: Vec<_> = brokers
        .iter()
        .map(|(id, at)| format!("{id} at {at}"))
        .collect();
    Check::ok(BROKERS, named.join(", "))
}

fn creation(facts: &Facts) -> Check {
    use RDKafkaErrorCode as Code;
    let auto = facts
        .broker
        .get("auto.create.topics.enable")
        .map(String::as_str);
    match (facts.creation, auto) {
        (Some(Ok(())), _) => Check::ok(CREATE, "the bridge can create them"),
        (Some(Err(code)), _) => {
            let advice = match code {
                Code::InvalidReplicationFactor => {
                    "start more brokers, or lower topics.replication: it must not exceed their number"
                }
                Code::InvalidPartitions => "correct topics.partitions",
                Code::InvalidConfig => "topics.configs has a name or value that is not Kafka's",
                Code::PolicyViolation => {
                    "the cluster has a policy for new topics: see its logs, and adapt section topics"
                }
                Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                    "give this user the right CREATE, or create topics with `iot-bridge topics create` and set topics.create: false"
                }
                _ => "create topics with `iot-bridge topics create`, and set topics.create: false",
            };
            Check::problem(CREATE, format!("rejected: {}", Named(code)), advice)
        }
        (None, Some("true")) => Check::warning(
            CREATE,
            "topics.create is off, and the broker creates any topic at its first record",
            "set topics.create: true, so that topics get the bridge's settings, or auto.create.topics.enable=false on the broker",
        ),
        (None, _) => Check::ok(CREATE, "topics.create is off: all topics must exist"),
    }
}

fn largest(facts: &Facts, config: &BridgeConfig) -> Option<Check> {
    let (name, limit) = match config.topics.configs.get("max.message.bytes") {
        Some(limit) if config.topics.create => ("topics.configs.max.message.bytes", limit),
        _ => (
            "message.max.bytes of the broker",
            facts.broker.get("message.max.bytes")?,
        ),
    };
    let (limit, asked) = (limit.parse::<u64>().ok()?, config.kafka.max_message_bytes.0);
    let found = format!("{name} is {limit}, kafka.max_message_bytes is {asked}");
    Some(if asked + RECORD_OVERHEAD > limit {
        let advice = format!(
            "raise the first to at least {}, or lower the second: payloads in between become dead letters only after Kafka has rejected them",
            asked + RECORD_OVERHEAD
        );
        Check::warning(LARGEST, found, advice)
    } else {
        Check::ok(LARGEST, found)
    })
}

fn durability(facts: &Facts, config: &BridgeConfig) -> Option<Check> {
    let replication = match usize::try_from(config.topics.replication) {
        Ok(replication) if config.topics.create => replication,
        _ => facts
            .broker
            .get("default.replication.factor")?
            .parse()
            .ok()?,
    };
    let in_sync = match config.topics.configs.get("min.insync.replicas") {
        Some(given) if config.topics.create => given,
        _ => facts.broker.get("min.insync.replicas")?,
    };
    let (in_sync, brokers) = (in_sync.parse().ok()?, facts.cluster.brokers.len());
    Some(replicas(
        DURABILITY,
        "a new topic has",
        (replication, in_sync),
        brokers,
    ))
}

/// Checks how many replicas there are and how many of them confirm.
fn replicas(
    name: &'static str,
    what: &str,
    (replication, in_sync): (usize, usize),
    brokers: usize,
) -> Check {
    let found = format!(
        "{what} replication {replication}, min.insync.replicas {in_sync}; brokers: {brokers}"
    );
    if in_sync > replication {
        let advice =
            "lower min.insync.replicas or raise the replication: Kafka would confirm nothing";
        Check::problem(name, found, advice)
    } else if replication == 1 && brokers > 1 {
        let advice = "use replication 3 and min.insync.replicas 2: confirmed records are lost with one broker";
        Check::warning(name, found, advice)
    } else if replication > 1 && in_sync == 1 {
        let advice = "set min.insync.replicas to 2: with 1, records that only the leader has count as confirmed, and are lost with it";
        Check::warning(name, found, advice)
    } else if replication > 1 && in_sync == replication {
        let advice = "use one replica more than min.insync.replicas: the bridge stalls while any one broker is down";
        Check::warning(name, found, advice)
    } else {
        Check::ok(name, found)
    }
}

fn election(facts: &Facts, config: &BridgeConfig) -> Option<Check> {
    const NAME: &str = "unclean.leader.election.enable";
    let given = config
        .topics
        .configs
        .get(NAME)
        .filter(|_| config.topics.create);
    let unclean = given.or(facts.broker.get(NAME))?;
    let found = format!("{NAME} is {unclean}");
    Some(if unclean == "true" {
        let advice = format!(
            "set {NAME}=false: a replica that is behind may become the leader, and confirmed records are lost"
        );
        Check::warning(ELECTION, found, advice)
    } else {
        Check::ok(ELECTION, found)
    })
}
