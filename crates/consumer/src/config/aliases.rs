//! Other names of settings. docs/consumer.md lists them.

use iot_service::config::{Alias, Aliases};
use serde_json::Value;

pub(crate) const ALIASES: Aliases = &[
    ("auth", Alias::Of("auth.mode")),
    ("kafka.consumer.group_id", Alias::Of("kafka.group")),
    (
        "kafka.consumer.session_timeout",
        Alias::Of("kafka.session_timeout"),
    ),
    ("kafka.consumer.brokers", Alias::Of("kafka.brokers")),
    ("kafka.consumer.topics", Alias::Of("kafka.topics")),
    ("kafka.consumer.topic", Alias::Of("kafka.topics")),
    ("kafka.topic", Alias::Of("kafka.topics")),
    ("kafka.group_id", Alias::Of("kafka.group")),
    (
        "kafka.consumer.group_instance_id",
        Alias::Of("kafka.group_instance_id"),
    ),
    (
        "kafka.consumer.client_id",
        Alias::Nothing("kafka.properties has client.id"),
    ),
    (
        "kafka.consumer.auto_offset_reset",
        Alias::Made("kafka.from", from),
    ),
    (
        "kafka.consumer.initial_offset",
        Alias::Made("kafka.from", from),
    ),
    ("kafka.consumer.rebalance_strategy", ASSIGNMENT),
    ("kafka.consumer.assignment_strategy", ASSIGNMENT),
    ("kafka.consumer.partition_assignment_strategy", ASSIGNMENT),
    (
        "kafka.consumer.heartbeat_interval",
        Alias::Nothing("kafka.properties has heartbeat.interval.ms, 3000 by default"),
    ),
    ("kafka.consumer.rebalance_timeout", MAX_POLL),
    ("kafka.consumer.max_processing_time", MAX_POLL),
    ("kafka.consumer.max_poll_interval", MAX_POLL),
    (
        "kafka.consumer.max_poll_records",
        Alias::Nothing("what has been fetched is handed over at once, at most 500 together"),
    ),
    ("kafka.consumer.enable_auto_commit", OFFSETS),
    ("kafka.consumer.auto_commit", OFFSETS),
    ("kafka.consumer.auto_commit_interval", OFFSETS),
    ("kafka.consumer.commit_interval", OFFSETS),
    (
        "processing.worker_pool_size",
        Alias::Nothing("each partition has one task of its own, which keeps its order"),
    ),
    (
        "processing.batch_size",
        Alias::Nothing("what has been fetched is processed at once"),
    ),
    (
        "processing.processing_timeout",
        Alias::Nothing("processing does not wait for anything, and what does is repeated"),
    ),
    ("cache.redis.endpoints", Alias::Made("store.url", endpoints)),
    ("cache.redis.password", Alias::Of("store.password")),
    ("cache.redis.db", Alias::Of("store.db")),
    ("cache.redis.pool_size", Alias::Of("store.connections")),
    (
        "monitoring.prometheus.enabled",
        Alias::Nothing("metrics are always there"),
    ),
    (
        "monitoring.prometheus.port",
        Alias::Made("ops.listen", port),
    ),
    (
        "monitoring.prometheus.path",
        Alias::Nothing("metrics are at /metrics"),
    ),
];

const MAX_POLL: Alias =
    Alias::Nothing("kafka.properties has max.poll.interval.ms, 300000 by default");
const OFFSETS: Alias = Alias::Nothing("offsets move with the stored state only");

const ASSIGNMENT: Alias = Alias::Nothing(
    "assignment is always cooperative-sticky, which moves as few partitions as it can",
);

/// `oldest` and `newest` are what other clients call these positions.
fn from(given: &Value) -> Value {
    let text = given.as_str().map(str::to_ascii_lowercase);
    match text.as_deref() {
        Some("oldest") => "earliest".into(),
        Some("newest") => "latest".into(),
        Some(other) => other.into(),
        None => given.clone(),
    }
}

/// A list of `host:port`, one for a server and several for a cluster.
fn endpoints(given: &Value) -> Value {
    match given.as_array() {
        Some(list) => {
            let hosts = list.iter().filter_map(Value::as_str);
            hosts.collect::<Vec<_>>().join(",").into()
        }
        // A variable has text, which may be a JSON list.
        None => match given.as_str().map(serde_json::from_str::<Vec<String>>) {
            Some(Ok(list)) => list.join(",").into(),
            _ => given.clone(),
        },
    }
}

/// On loopback, where everything is unless `ops.listen` itself says otherwise.
fn port(given: &Value) -> Value {
    let port = given
        .as_str()
        .map_or_else(|| given.to_string(), str::to_owned);
    format!("127.0.0.1:{port}").into()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use iot_service::config::{Settings as _, Sources, load};

    use crate::config::{ConsumerConfig, From};

    /// The settings of a file and of variables, or all their problems.
    pub(crate) fn read(yaml: &str, env: &[(&str, &str)]) -> Result<ConsumerConfig, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), yaml).unwrap();
        let env = env.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let sources = Sources {
            file: Some(file.path().into()),
            env: env.collect(),
            ..Sources::default()
        };
        load(&sources).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_file_with_other_names_is_taken_as_it_is() {
        let yaml = "kafka:\n  brokers: [k:9092]\n  consumer:\n    group_id: g\n    \
                    session_timeout: 30s\n    auto_offset_reset: latest\n    \
                    max_poll_records: 500\nprocessing:\n  worker_pool_size: 100\n  \
                    batch_size: 50\n  processing_timeout: 5s\ncache:\n  redis:\n    \
                    endpoints: ['a:1', 'b:2']\n    password: hunter2\n    db: 0\n    \
                    pool_size: 7\nmonitoring:\n  prometheus:\n    enabled: true\n    \
                    port: 9191\n    path: /metrics\n";
        let config = read(yaml, &[]).unwrap();
        assert_eq!(
            (&*config.kafka.group, config.kafka.from),
            ("g", From::Latest)
        );
        assert_eq!(*config.kafka.session_timeout, Duration::from_secs(30));
        assert_eq!(config.store.url.to_string(), "a:1,b:2");
        assert_eq!(config.store.password.expose(), "hunter2");
        assert_eq!((config.store.db, config.store.connections), (0, 7));
        assert_eq!(config.ops.listen, "127.0.0.1:9191");
    }

    #[test]
    fn variables_have_other_names_too() {
        let env = [
            ("IOT_CACHE__REDIS__ENDPOINTS", "a:1"),
            ("IOT_CACHE__REDIS__DB", "3"),
            ("IOT_MONITORING__PROMETHEUS__PORT", "9191"),
            ("IOT_PROCESSING__BATCH_SIZE", "50"),
        ];
        let config = read("", &env).unwrap();
        assert_eq!(config.store.url.to_string(), "a:1");
        assert_eq!(
            (config.store.db, &*config.ops.listen),
            (3, "127.0.0.1:9191")
        );
        // The later layer wins, under whichever name.
        let yaml = "cache: {redis: {endpoints: ['file:1']}}\n";
        let config = read(yaml, &[("REDIS_URL", "redis://env:2")]).unwrap();
        assert_eq!(config.store.url.to_string(), "redis://env:2");
    }

    #[test]
    fn problems_name_what_was_given() {
        let yaml = "kafka: {group: a, consumer: {group_id: b, grup_id: c}}\n\
                    cache: {redis: {pool_size: 0}}\nprocessing: {workers: 1}\n";
        let env = [("IOT_CACHE__REDIS__DB", "x"), ("IOT_CACHE__MEMCACHED", "x")];
        let found = read(yaml, &env).unwrap_err();
        for expected in [
            "kafka.consumer.group_id: is another name of kafka.group, and both are given",
            "kafka.consumer.grup_id: unknown setting, known here: group_id, session_timeout",
            "store.connections (cache.redis.pool_size): must be between 1 and 1000",
            "processing.workers: unknown setting, known here: worker_pool_size",
            "store.db (IOT_CACHE__REDIS__DB): invalid type",
            "cache.memcached (IOT_CACHE__MEMCACHED): unknown setting, known here: redis",
        ] {
            assert!(found.contains(expected), "{expected} is not in:\n{found}");
        }
        let env = [
            ("IOT_KAFKA__GROUP", "a"),
            ("IOT_KAFKA__CONSUMER__GROUP_ID", "b"),
        ];
        let found = read("", &env).unwrap_err();
        let expected = "kafka.consumer.group_id (IOT_KAFKA__CONSUMER__GROUP_ID): is another name";
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(
            read("kafka: {group: a, consumer: {group_id: a}}\n", &[])
                .unwrap()
                .kafka
                .group,
            "a"
        );
    }

    #[test]
    fn a_complete_file_in_other_names_loads() {
        let config = read(include_str!("other-names.yaml"), &[]).unwrap();
        let own = "kafka: {brokers: [k1:9092, k2:9092, k3:9092], topics: [device-data]}\n\
                   store: {url: 'redis-1:6379,redis-2:6379', password: 0049170, connections: 10}\n";
        let own = read(own, &[]).unwrap();
        // What is not named there is the default of both.
        assert_eq!(config, own);
        assert_eq!(config.store.password.expose(), "0049170");
    }

    #[test]
    fn values_of_other_clients_are_understood() {
        for (given, expected) in [
            (
                "kafka: {consumer: {initial_offset: newest}}\n",
                From::Latest,
            ),
            (
                "kafka: {consumer: {auto_offset_reset: Oldest}}\n",
                From::Earliest,
            ),
        ] {
            assert_eq!(read(given, &[]).unwrap().kafka.from, expected);
        }
        for (name, topics) in [
            ("IOT_KAFKA__CONSUMER__TOPICS", r#"["a", "b.c"]"#),
            ("IOT_KAFKA__CONSUMER__TOPICS", "a,b.c"),
            ("IOT_KAFKA__TOPIC", r#"["a","b.c"]"#),
        ] {
            assert_eq!(
                read("", &[(name, topics)]).unwrap().kafka.topics,
                ["a", "b.c"]
            );
        }
        let env = [("IOT_CACHE__REDIS__ENDPOINTS", r#"["a:1", "b:2"]"#)];
        assert_eq!(read("", &env).unwrap().store.url.to_string(), "a:1,b:2");
        let found = read("kafka: {consumer: {topcis: [a]}}\nprocesing: {}\n", &[]).unwrap_err();
        for expected in ["did you mean \"topics\"?", "did you mean \"processing\"?"] {
            assert!(found.contains(expected), "{expected} is not in:\n{found}");
        }
    }

    #[test]
    fn what_another_name_stands_for_is_a_setting() {
        use iot_service::config::Alias;
        let settings = serde_json::to_value(ConsumerConfig::default()).unwrap();
        for (name, alias) in ConsumerConfig::ALIASES {
            if let Alias::Of(path) | Alias::Made(path, _) = alias {
                let pointer = format!("/{}", path.replace('.', "/"));
                assert!(settings.pointer(&pointer).is_some(), "{name}: {path}");
            }
        }
    }
}
