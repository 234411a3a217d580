//! Verdicts on clusters that are made up.

use iot_kafka::lookup::Shape;

use super::dead_letters::*;
use super::*;
use crate::preflight::Status;
use crate::preflight::tests::status;

fn configs(pairs: &[(&str, &str)]) -> Configs {
    pairs
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect()
}

/// A cluster of three brokers without problems.
fn good() -> Facts {
    let shape = Shape {
        partitions: 1,
        replication: 3,
    };
    let broker = configs(&[
        ("auto.create.topics.enable", "false"),
        ("message.max.bytes", "1048588"),
        ("default.replication.factor", "3"),
        ("min.insync.replicas", "2"),
        ("unclean.leader.election.enable", "false"),
    ]);
    let letters = configs(&[
        ("max.message.bytes", "8454144"),
        ("min.insync.replicas", "2"),
        ("cleanup.policy", "delete"),
    ]);
    Facts {
        cluster: Cluster {
            brokers: (1..=3).map(|id| (id, format!("kafka-{id}:9092"))).collect(),
            topics: [("iot.dead-letter".to_string(), shape)].into(),
        },
        broker,
        creation: Some(Ok(())),
        letters: Some(letters),
    }
}

fn judged(change: impl FnOnce(&mut Facts, &mut BridgeConfig)) -> Vec<Check> {
    let (mut facts, mut config) = (good(), BridgeConfig::default());
    change(&mut facts, &mut config);
    judge(&facts, &config)
}

#[test]
fn a_good_cluster_has_neither_problem_nor_warning() {
    let checks = judged(|_, _| {});
    assert_eq!(checks.len(), 9);
    for check in &checks {
        assert_eq!(status(&checks, check.name), Status::Ok);
    }
}

#[test]
fn unreadable_settings_are_not_checked() {
    let checks = judged(|facts, _| facts.broker = Configs::new());
    assert!(
        checks
            .iter()
            .all(|check| check.name != DURABILITY && check.name != LARGEST)
    );
    let checks = judged(|facts, _| facts.letters = None);
    assert_eq!(status(&checks, LETTERS_LARGEST), Status::Warning);
}

#[test]
fn topics_that_cannot_be_created_are_a_problem() {
    for code in [
        RDKafkaErrorCode::TopicAuthorizationFailed,
        RDKafkaErrorCode::InvalidConfig,
        RDKafkaErrorCode::UnsupportedVersion,
    ] {
        let checks = judged(|facts, _| facts.creation = Some(Err(code)));
        assert_eq!(status(&checks, CREATE), Status::Problem);
    }
    let checks = judged(|facts, config| {
        config.topics.create = false;
        facts.creation = None;
    });
    assert_eq!(status(&checks, CREATE), Status::Ok);
    let checks = judged(|facts, _| {
        facts.creation = None;
        facts
            .broker
            .insert("auto.create.topics.enable".into(), "true".into());
    });
    assert_eq!(status(&checks, CREATE), Status::Warning);
}

#[test]
fn payloads_that_kafka_would_reject_are_a_warning() {
    for (limit, expected) in [("1002047", Status::Warning), ("1002048", Status::Ok)] {
        let checks = judged(|facts, _| {
            facts
                .broker
                .insert("message.max.bytes".into(), limit.into());
        });
        assert_eq!(status(&checks, LARGEST), expected, "{limit}");
    }
    let checks = judged(|_, config| {
        config
            .topics
            .configs
            .insert("max.message.bytes".into(), "1000".into());
    });
    assert_eq!(status(&checks, LARGEST), Status::Warning);
}

#[test]
fn replicas_that_cannot_confirm_are_a_problem_and_risky_ones_a_warning() {
    for (replication, in_sync, brokers, expected) in [
        (3, 2, 3, Status::Ok),
        (1, 1, 1, Status::Ok),
        (1, 1, 3, Status::Warning),
        (3, 1, 3, Status::Warning),
        (2, 2, 3, Status::Warning),
        (1, 2, 3, Status::Problem),
    ] {
        let check = replicas(DURABILITY, "", (replication, in_sync), brokers);
        assert_eq!(check.status, expected, "{check:?}");
    }
    let checks = judged(|facts, _| {
        facts
            .broker
            .insert("min.insync.replicas".into(), "4".into());
    });
    assert_eq!(status(&checks, DURABILITY), Status::Problem);
}

#[test]
fn unclean_leader_election_is_a_warning() {
    let checks = judged(|facts, _| {
        facts
            .broker
            .insert("unclean.leader.election.enable".into(), "true".into());
    });
    assert_eq!(status(&checks, ELECTION), Status::Warning);
}

#[test]
fn the_dead_letter_topic_must_take_dead_letters() {
    let missing = |creation, auto: &str| {
        let checks = judged(|facts, _| {
            facts.cluster.topics.clear();
            facts.creation = creation;
            facts
                .broker
                .insert("auto.create.topics.enable".into(), auto.into());
        });
        status(&checks, LETTERS)
    };
    assert_eq!(missing(Some(Ok(())), "false"), Status::Ok);
    assert_eq!(missing(None, "true"), Status::Warning);
    assert_eq!(missing(None, "false"), Status::Problem);
    for (name, value, check, expected) in [
        (
            "max.message.bytes",
            "1048588",
            LETTERS_LARGEST,
            Status::Warning,
        ),
        (
            "cleanup.policy",
            "compact,delete",
            LETTERS_CLEANUP,
            Status::Problem,
        ),
        (
            "min.insync.replicas",
            "4",
            LETTERS_DURABILITY,
            Status::Problem,
        ),
    ] {
        let checks = judged(|facts, _| {
            let letters = facts.letters.get_or_insert_default();
            letters.insert(name.into(), value.into());
        });
        assert_eq!(status(&checks, check), expected, "{name}={value}");
    }
}
