//! Checks of the topic for dead letters.

use iot_core::dead_letter::{MAX_RECORD, TOPIC_MAX_MESSAGE_BYTES};
use iot_kafka::lookup::{Cluster, Configs, Shape};

use super::{Facts, replicas};
use crate::config::BridgeConfig;
use crate::preflight::Check;

pub(super) const LETTERS: &str = "kafka: dead-letter topic";
pub(super) const LETTERS_LARGEST: &str = "kafka: largest dead letter";
pub(super) const LETTERS_DURABILITY: &str = "kafka: acks=all of dead letters";
pub(super) const LETTERS_CLEANUP: &str = "kafka: cleanup of dead letters";

pub(super) fn dead_letters(facts: &Facts, config: &BridgeConfig) -> Vec<Check> {
    let topic = &config.dead_letter.topic;
    let Some(shape) = facts.cluster.topics.get(topic) else {
        return vec![missing_dead_letters(facts, config)];
    };
    let mut checks = vec![Check::ok(
        LETTERS,
        format!("{topic}, partitions: {}", shape.partitions),
    )];
    match &facts.letters {
        Some(configs) => checks.extend(dead_letter_configs(configs, *shape, &facts.cluster)),
        None => checks.push(Check::warning(
            LETTERS_LARGEST,
            "the topic's settings cannot be read: this user has no right to, or Kafka does not answer",
            format!("check that its max.message.bytes is at least {TOPIC_MAX_MESSAGE_BYTES}"),
        )),
    }
    checks
}

fn missing_dead_letters(facts: &Facts, config: &BridgeConfig) -> Check {
    let topic = &config.dead_letter.topic;
    let auto = facts
        .broker
        .get("auto.create.topics.enable")
        .map(String::as_str);
    match (facts.creation, auto) {
        (Some(Ok(())), _) => Check::ok(
            LETTERS,
            format!("{topic} is created with the first dead letter"),
        ),
        (_, Some("true")) => Check::warning(
            LETTERS,
            format!("{topic} does not exist; the broker creates it, for small records"),
            "create it with `iot-bridge topics create`, so that it takes records of 8 MiB",
        ),
        _ => Check::problem(
            LETTERS,
            format!("{topic} does not exist, and the bridge can't create it"),
            "create it with `iot-bridge topics create`: the first dead letter would block all messages behind it",
        ),
    }
}

fn dead_letter_configs(configs: &Configs, shape: Shape, cluster: &Cluster) -> Vec<Check> {
    let mut checks = Vec::new();
    let limit = configs
        .get("max.message.bytes")
        .and_then(|limit| limit.parse::<usize>().ok());
    if let Some(limit) = limit {
        let found = format!("its max.message.bytes is {limit}");
        checks.push(if limit <= MAX_RECORD {
            let advice = format!(
                "set it to {TOPIC_MAX_MESSAGE_BYTES}: larger dead letters are truncated to 64 KiB"
            );
            Check::warning(LETTERS_LARGEST, found, advice)
        } else {
            Check::ok(LETTERS_LARGEST, found)
        });
    }
    let in_sync = configs
        .get("min.insync.replicas")
        .and_then(|text| text.parse().ok());
    if let Some(in_sync) = in_sync {
        let (counts, brokers) = ((shape.replication, in_sync), cluster.brokers.len());
        checks.push(replicas(LETTERS_DURABILITY, "it has", counts, brokers));
    }
    if let Some(policy) = configs.get("cleanup.policy") {
        let found = format!("its cleanup.policy is {policy}");
        checks.push(if policy.contains("compact") {
            let advice = "set it to delete: a compacted topic rejects records without a key, which dead letters are";
            Check::problem(LETTERS_CLEANUP, found, advice)
        } else {
            Check::ok(LETTERS_CLEANUP, found)
        });
    }
    checks
}
