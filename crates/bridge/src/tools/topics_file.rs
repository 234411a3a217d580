//! The file of `iot-bridge topics create`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use iot_core::route::{collision_key, is_kafka_topic};
use iot_kafka::lookup::Configs;
use iot_kafka::topics::Topic;
use iot_service::config::{Problems, extract, read_yaml_as};
use serde::Deserialize;
use serde_json::Value;

use crate::config::BridgeConfig;
use crate::creator;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicsFile {
    /// Values of topics that do not set them.
    #[serde(default)]
    defaults: Option<Value>,
    topics: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    tenant: Option<String>,
    project: Option<String>,
    partitions: Option<i32>,
    replication: Option<i32>,
    configs: Option<BTreeMap<String, Scalar>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Defaults {
    partitions: Option<i32>,
    replication: Option<i32>,
    configs: Option<BTreeMap<String, Scalar>>,
}

/// Kafka's settings are strings; numbers and booleans of the file arrive as written.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text, a number or a boolean")]
enum Scalar {
    Text(String),
}

/// Which scalars of the file are text, also if they look like numbers.
fn is_text(path: &[&str]) -> bool {
    matches!(
        path,
        [.., "configs", _] | ["topics", "", "name" | "tenant" | "project"]
    )
}

/// Reads the file. Values come from the topic, else from the file's defaults, else from the
/// settings of the bridge.
pub(super) fn read(path: &Path, config: &BridgeConfig) -> Result<Vec<Topic>, Problems> {
    wanted(&read_yaml_as(path, is_text)?, config)
}

fn wanted(tree: &Value, config: &BridgeConfig) -> Result<Vec<Topic>, Problems> {
    let mut problems = Problems::default();
    let Some(file) = extract::<TopicsFile>(tree, "", &mut problems) else {
        return Err(problems);
    };
    let defaults = file.defaults.unwrap_or(Value::Object(Default::default()));
    let defaults = extract::<Defaults>(&defaults, "defaults", &mut problems).unwrap_or_default();
    let defaults = Topic {
        name: String::new(),
        partitions: defaults.partitions.unwrap_or(config.topics.partitions),
        replication: defaults.replication.unwrap_or(config.topics.replication),
        configs: overlay(&config.topics.configs, defaults.configs),
    };
    validate(&defaults, "defaults", &mut problems);
    let mut all: Vec<Topic> = Vec::new();
    let mut places: HashMap<String, String> = HashMap::new();
    for (index, entry) in file.topics.iter().enumerate() {
        let path = format!("topics[{index}]");
        let Some(topic) = topic(entry, &path, (&defaults, config), &mut problems) else {
            continue;
        };
        let key = collision_key(&topic.name);
        if let Some(first) = places.insert(key, path.clone()) {
            let message = format!(
                "{} has the same name as {first}: Kafka does not tell . and _ apart",
                topic.name
            );
            problems.add(path, message);
        }
        all.push(topic);
    }
    problems.or(all)
}

fn topic(
    entry: &Value,
    path: &str,
    (defaults, config): (&Topic, &BridgeConfig),
    problems: &mut Problems,
) -> Option<Topic> {
    let entry: Entry = extract(entry, path, problems)?;
    let name = match name(&entry, config) {
        Ok(name) => name,
        Err(message) => {
            problems.add(path, message);
            return None;
        }
    };
    // The defaults are for messages; dead letters have no key and are large.
    let configs = if name == config.dead_letter.topic {
        creator::dead_letter_configs()
    } else {
        defaults.configs.clone()
    };
    let topic = Topic {
        name,
        partitions: entry.partitions.unwrap_or(defaults.partitions),
        replication: entry.replication.unwrap_or(defaults.replication),
        configs: overlay(&configs, entry.configs),
    };
    validate(&topic, path, problems);
    Some(topic)
}

fn name(entry: &Entry, config: &BridgeConfig) -> Result<String, String> {
    match (&entry.name, &entry.tenant, &entry.project) {
        (Some(name), None, None) if is_kafka_topic(name) => Ok(name.clone()),
        (Some(name), None, None) => Err(format!("{name:?} is not a Kafka topic")),
        (None, Some(tenant), Some(project)) => {
            let topic = config.route.kafka_topic(tenant, project);
            topic.map_err(|error| error.to_string())
        }
        _ => Err("needs either name, or tenant and project".into()),
    }
}

fn overlay(under: &Configs, over: Option<BTreeMap<String, Scalar>>) -> Configs {
    let over = over.into_iter().flatten();
    let mut configs = under.clone();
    configs.extend(over.map(|(name, Scalar::Text(value))| (name, value)));
    configs
}

fn validate(topic: &Topic, path: &str, problems: &mut Problems) {
    for (field, value) in [
        ("partitions", topic.partitions),
        ("replication", topic.replication),
    ] {
        if value != -1 && !(1..=10_000).contains(&value) {
            let message = "must be -1 (the broker's default) or at least 1";
            problems.add(format!("{path}.{field}"), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_service::config::parse_yaml_as;

    use super::*;

    fn parse(text: &str) -> Result<Vec<Topic>, String> {
        let mut config = BridgeConfig::default();
        config.topics.partitions = 7;
        config.topics.configs = Configs::from([("retention.ms".into(), "1000".into())]);
        let tree = parse_yaml_as(text, is_text).unwrap();
        wanted(&tree, &config).map_err(|problems| problems.to_string())
    }

    #[test]
    fn values_come_from_the_topic_then_the_defaults_then_the_settings() {
        let topics = parse(
            "defaults:\n  replication: 2\n  configs:\n    segment.bytes: 1048576\n\
             topics:\n  - tenant: acme\n    project: plant\n    partitions: 3\n\
             \n  - name: plain\n    configs: {retention.ms: -1, unclean.leader.election.enable: false}\n",
        );
        let topics = topics.unwrap();
        assert_eq!(topics[0].name, "acme.plant");
        assert_eq!((topics[0].partitions, topics[0].replication), (3, 2));
        assert_eq!(topics[0].configs["retention.ms"], "1000");
        assert_eq!(topics[0].configs["segment.bytes"], "1048576");
        assert_eq!(topics[1].name, "plain");
        assert_eq!((topics[1].partitions, topics[1].replication), (7, 2));
        assert_eq!(topics[1].configs["retention.ms"], "-1");
        assert_eq!(topics[1].configs["unclean.leader.election.enable"], "false");
    }

    #[test]
    fn names_and_values_that_look_like_numbers_stay_as_written() {
        let topics = parse(
            "topics:\n- {tenant: 0049170, project: 1e5}\n- name: 3.10\n  configs: \
             {min.cleanable.dirty.ratio: 0.10, segment.bytes: 1e6}\n",
        );
        let topics = topics.unwrap();
        let names: Vec<_> = topics.iter().map(|topic| &*topic.name).collect();
        assert_eq!(names, ["0049170.1e5", "3.10"]);
        assert_eq!(topics[1].configs["min.cleanable.dirty.ratio"], "0.10");
        assert_eq!(topics[1].configs["segment.bytes"], "1e6");
    }

    #[test]
    fn the_dead_letter_topic_takes_large_records_whatever_the_defaults() {
        let topics = parse("topics: [{name: iot.dead-letter}]").unwrap();
        let expected = Configs::from([("max.message.bytes".into(), "8454144".into())]);
        assert_eq!(topics[0].configs, expected);
    }

    #[test]
    fn every_problem_is_named_with_its_path() {
        let problems = parse(
            "defaults: {replication: 0}\ntopics:\n\
             - {tenant: a.b, project: c}\n- {name: x, tenant: y}\n- {name: 'a b'}\n\
             - {name: p, partitons: 3}\n- {name: q, partitions: many}\n\
             - {name: r, configs: {a: [1]}}\n- {name: a_b.c}\n- {name: a.b.c}\n\
             - {name: s, partitions: 0}\n- {tenant: iot, project: x}\n",
        );
        let problems = problems.unwrap_err();
        for expected in [
            "defaults.replication: must be -1",
            "topics[0]: tenant \"a.b\" must consist of letters",
            "topics[1]: needs either name, or tenant and project",
            "topics[2]: \"a b\" is not a Kafka topic",
            "topics[3].partitons: unknown field",
            "topics[4].partitions: invalid type",
            "topics[5].configs.a: expected a text, a number or a boolean",
            "topics[7]: a.b.c has the same name as topics[6]",
            "topics[8].partitions: must be -1",
            "topics[9]: the Kafka topic \"iot.x\" is reserved",
        ] {
            assert!(
                problems.contains(expected),
                "{expected} is not in:\n{problems}"
            );
        }
        assert!(
            parse("topic: []")
                .unwrap_err()
                .contains("topic: unknown field")
        );
    }

    #[test]
    fn the_example_is_a_valid_file() {
        let example = include_str!("../../../../configs/topics.yaml");
        let tree = parse_yaml_as(example, is_text).unwrap();
        let topics = wanted(&tree, &BridgeConfig::default()).unwrap();
        let names: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "tenant123.project456",
                "tenant123.archive",
                "iot.dead-letter"
            ]
        );
    }
}
