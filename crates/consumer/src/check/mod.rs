//! Checks the settings. Sections whose values only the Kafka client, the store or the
//! catalogue can judge are checked here, so that `config` stays plain data.

mod mappings;
mod properties;
mod replica;
mod sensors;

use std::ops::RangeInclusive;
use std::time::Duration;

use iot_core::route::{is_kafka_topic, is_reserved};
use iot_kafka::librdkafka::SUPPORT;
use iot_kafka::security::check_brokers;
use iot_service::config::{
    Aliases, ByteSize, HttpConfig, LogConfig, OpsConfig, Problems, Settings,
};

use crate::config::{
    self, ConsumerConfig, DeadLetterConfig, KafkaConfig, OutputsConfig, ValidateConfig,
    WindowsConfig,
};
use properties::RESERVED;

/// What Kafka accepts as the name of a topic.
const TOPIC_NAME: &str = "must be 1 to 249 letters, digits and ._- (and neither . nor ..)";

/// Longer than a heartbeat (3 s), at most as long as librdkafka lets a member be
/// busy (`max.poll.interval.ms`).
const SESSION_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(300);

/// The most sensors of a device: the changes of a message are stored in one step, whose size
/// is limited.
const MOST_SENSORS: usize = 1_000;

/// How far a message may be ahead of its record, as a multiple of the smallest window.
const MOST_AHEAD: u128 = 1_000;

impl Settings for ConsumerConfig {
    const SERVICE: &'static str = "iot-consumer";
    const EXAMPLE: &'static str = include_str!("../../../../configs/consumer.yaml");
    const ENV: &'static [(&'static str, &'static str)] = &[
        ("KAFKA_BROKERS", "kafka.brokers"),
        ("KAFKA_TOPIC", "kafka.topics"),
        ("REDIS_URL", "store.url"),
        ("REDIS_ENDPOINT", "store.url"),
    ];
    const ALIASES: Aliases = config::ALIASES;
    /// No rules of the fold are among them: the state would no longer follow from the log.
    const LIVE: &'static [&'static str] = &[
        "webhook.url",
        "webhook.bearer_token",
        "webhook.bearer_token_file",
        "webhook.ca_file",
        "webhook.timeout",
        "webhook.group_wait",
        "webhook.group_interval",
        "webhook.max_alerts",
        "webhook.max_age",
        "push.interval",
        "push.clients",
    ];

    fn validate(&self, problems: &mut Problems) {
        check_kafka(&self.kafka, problems);
        replica::check(self, problems);
        if self.role.serves() {
            self.auth.validate(&self.http.listen, problems);
        }
        self.store.validate(problems);
        self.windows.validate(problems);
        check_max_future(&self.validate, &self.windows, problems);
        self.detect.validate(problems);
        self.retention.validate(&self.detect, problems);
        if self.limits.sensors > MOST_SENSORS {
            problems.add(
                "limits.sensors",
                "must be at most 1000: a message is stored in one step",
            );
        }
        if self.limits.buffers < ByteSize::mib(1) {
            problems.add("limits.buffers", "must be at least 1MiB");
        }
        for (path, value) in [
            ("limits.devices", self.limits.devices),
            ("limits.sensors", self.limits.sensors),
        ] {
            if value == 0 {
                problems.add(path, "must be at least 1");
            }
        }
        for (path, value) in [
            ("push.interval", self.push.interval),
            ("push.gather", self.push.gather),
        ] {
            if value.is_zero() {
                problems.add(path, "must be longer than 0");
            }
        }
        if self.push.queue < ByteSize::kib(4) {
            problems.add("push.queue", "must be at least 4 KiB");
        }
        mappings::check(&self.mappings, problems);
        sensors::check(&self.sensors, &self.thresholds, problems);
        check_outputs(&self.outputs, problems);
        self.webhook.validate(problems);
        check_dead_letter(&self.dead_letter, problems);
    }

    fn warnings(&self, warnings: &mut Problems) {
        if self.role.serves() {
            self.auth.warnings(&self.http.listen, warnings);
        }
    }

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn ops(&self) -> &OpsConfig {
        &self.ops
    }

    fn http(&self) -> Option<&HttpConfig> {
        self.role.serves().then_some(&self.http)
    }
}

/// A clock that is ahead opens windows that its watermark does not seal.
fn check_max_future(validate: &ValidateConfig, windows: &WindowsConfig, problems: &mut Problems) {
    let sizes = windows.sizes.iter().map(|size| size.as_millis());
    let smallest = sizes.filter(|size| *size > 0).min();
    if smallest.is_some_and(|size| validate.max_future.as_millis() > MOST_AHEAD * size) {
        problems.add(
            "validate.max_future",
            format!(
                "must be at most {MOST_AHEAD} times the smallest of windows.sizes, which limits \
                 how many windows are open"
            ),
        );
    }
}

fn check_kafka(config: &KafkaConfig, problems: &mut Problems) {
    check_brokers(&config.brokers, problems);
    config.security.validate(SUPPORT, problems);
    if config.topics.is_empty() {
        problems.add("kafka.topics", "needs at least one topic");
    }
    if config.group.is_empty() {
        problems.add("kafka.group", "must not be empty");
    }
    if !SESSION_TIMEOUT.contains(&*config.session_timeout) {
        problems.add("kafka.session_timeout", "must be between 3s and 5m");
    }
    for topic in config.topics.iter().filter(|topic| is_reserved(topic)) {
        problems.add(
            "kafka.topics",
            format!("{topic} is reserved and never read"),
        );
    }
    RESERVED.check(&config.properties, problems);
}

fn check_outputs(config: &OutputsConfig, problems: &mut Problems) {
    let topics = [("alerts", &config.alerts), ("windows", &config.windows)];
    for (key, topic) in topics.into_iter().filter(|(_, topic)| !topic.is_empty()) {
        if !is_kafka_topic(topic) {
            problems.add(format!("outputs.{key}"), TOPIC_NAME);
        }
        if !is_reserved(topic) {
            let message = "must be a reserved name (alert-events, device-aggregates, or one \
                           that begins with \"iot.\"), so that no topic pattern reads it back";
            problems.add(format!("outputs.{key}"), message);
        }
    }
    if config.partitions < 1 {
        problems.add("outputs.partitions", "must be at least 1");
    }
    if config.replication == 0 || config.replication < -1 {
        let message = "must be at least 1, or -1 for the brokers' default";
        problems.add("outputs.replication", message);
    }
}

fn check_dead_letter(config: &DeadLetterConfig, problems: &mut Problems) {
    if !is_kafka_topic(&config.topic) {
        problems.add("dead_letter.topic", TOPIC_NAME);
    }
    if !is_reserved(&config.topic) || config.topic.starts_with("__") {
        problems.add(
            "dead_letter.topic",
            "must begin with \"iot.\", so that no topic pattern reads it back in",
        );
    }
    if config.partitions < 1 {
        problems.add("dead_letter.partitions", "must be at least 1");
    }
    if config.replication == 0 || config.replication < -1 {
        problems.add(
            "dead_letter.replication",
            "must be at least 1, or -1 for the brokers' default",
        );
    }
}

#[cfg(test)]
mod tests {
    use iot_auth::Mode;
    use iot_service::config::{Sources, assert_example, load};

    use super::*;

    fn problems(flags: &[(&str, &str)]) -> String {
        let sources = Sources {
            flags: flags
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            ..Sources::default()
        };
        match load::<ConsumerConfig>(&sources) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn the_example_holds_the_defaults() {
        assert_example::<ConsumerConfig>();
        assert_eq!(problems(&[]), "");
    }

    #[test]
    fn what_the_consumer_decides_itself_is_refused_with_the_reason() {
        let found = problems(&[
            ("kafka.properties.group.id", "mine"),
            ("kafka.properties.enable.auto.commit", "true"),
            ("kafka.properties.queued.min.messages", "1000"),
            (
                "kafka.properties.ssl.endpoint.identification.algorithm",
                "none",
            ),
        ]);
        for expected in [
            "queued.min.messages (command line): can't be set: records do not pass",
            "identification.algorithm (command line): can't be set: use kafka.security",
        ] {
            assert!(found.contains(expected), "{expected} is not in:\n{found}");
        }
        assert!(
            found.contains(
                "kafka.properties.group.id (command line): can't be set: use kafka.group"
            ),
            "{found}"
        );
        assert!(
            found.contains("enable.auto.commit (command line): can't be set"),
            "{found}"
        );
    }

    #[test]
    fn an_unknown_property_of_librdkafka_is_named() {
        let found = problems(&[("kafka.properties.fetch.wiat.max.ms", "10")]);
        let path = "kafka.properties.fetch.wiat.max.ms (command line): ";
        assert!(found.starts_with(path), "{found}");
    }

    #[test]
    fn security_is_checked_and_its_properties_are_settings() {
        let found = problems(&[
            ("kafka.security.username", "me"),
            ("kafka.properties.sasl.password", "hunter2"),
        ]);
        assert!(
            found.contains("kafka.security.username (command line): has no effect"),
            "{found}"
        );
        assert!(
            found.contains("can't be set: use kafka.security.password"),
            "{found}"
        );
        assert!(!found.contains("hunter2"), "{found}");
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let found = problems(&[
            ("store.url", "http://localhost"),
            ("windows.sizes", "0s,1m,60s"),
            ("windows.keep", "0"),
            ("limits.sensors", "1001"),
            ("limits.buffers", "1000KiB"),
            ("dead_letter.topic", "letters"),
            ("limits.devices", "0"),
            ("kafka.topics", "iot.dead-letter"),
            ("kafka.session_timeout", "1h"),
            ("webhook.url", "smtp://hunter2@host"),
            ("webhook.bearer_token", "hunter2"),
            ("webhook.bearer_token_file", "/nowhere"),
            ("webhook.max_alerts", "0"),
            ("detect.silence.after", "0s"),
            ("validate.max_future", "1001m"),
        ]);
        for expected in [
            "http:// is not a store",
            "windows.keep",
            "at most 1000",
            "between 1s and 7d",
            "1m is listed twice",
            "dead_letter.topic",
            "limits.devices",
            "limits.buffers (command line): must be at least 1MiB",
            "is reserved",
            "between 3s and 5m",
            "webhook.url (command line): must be http",
            "set either this or bearer_token",
            "/nowhere: No such file",
            "webhook.max_alerts",
            "detect.silence.after",
            "validate.max_future",
        ] {
            assert!(found.contains(expected), "{expected} is not in:\n{found}");
        }
        assert!(!found.contains("hunter2"), "{found}");
    }

    #[test]
    fn a_listener_that_others_reach_needs_auth() {
        let everywhere = ("http.listen", "0.0.0.0:8080");
        let found = problems(&[everywhere]);
        assert!(
            found.starts_with("http.listen (command line): 0.0.0.0:8080 can be reached by others"),
            "{found}"
        );
        for auth in ["auth", "auth.mode"] {
            assert_eq!(problems(&[everywhere, (auth, "none")]), "", "{auth}");
        }
        // Without a listener there is nothing to protect.
        assert_eq!(problems(&[everywhere, ("role", "fold")]), "");
        let found = problems(&[everywhere, ("auth", "jwt")]);
        assert!(found.contains("auth.jwt: needs keys"), "{found}");
    }

    #[test]
    fn auth_is_a_word_or_a_section() {
        for (yaml, expected) in [
            ("auth: none", Mode::None),
            ("auth: {mode: none}", Mode::None),
            ("auth: {}", Mode::Unset),
            ("auth:", Mode::Unset),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), yaml).unwrap();
            let mut sources = Sources {
                file: Some(file.path().into()),
                ..Sources::default()
            };
            let config: ConsumerConfig = load(&sources).unwrap();
            assert_eq!(config.auth.mode, expected, "{yaml}");
            for name in ["IOT_AUTH", "IOT_AUTH__MODE"] {
                sources.env = vec![(name.into(), "none".into())];
                let config: ConsumerConfig = load(&sources).unwrap();
                assert_eq!(config.auth.mode, Mode::None, "{name}, {yaml}");
            }
        }
    }

    #[test]
    fn silence_is_not_switched_off_by_sensor() {
        let mut config = ConsumerConfig::default();
        let off = vec![iot_fold::AlertKind::Silence];
        config.detect.off.insert("door".into(), off);
        let mut problems = Problems::default();
        config.validate(&mut problems);
        assert!(problems.to_string().contains("use detect.silence.enabled"));
    }

    #[test]
    fn a_device_is_silent_before_it_is_removed() {
        let found = problems(&[("retention.devices", "30m")]);
        assert!(
            found.contains("longer than detect.silence.after"),
            "{found}"
        );
        for settings in [
            &[("retention.devices", "31m")][..],
            &[
                ("retention.devices", "1m"),
                ("detect.silence.enabled", "false"),
            ],
            &[("retention.devices", "0s")],
        ] {
            assert_eq!(problems(settings), "");
        }
        let found = problems(&[
            ("retention.devices", "10ms"),
            ("detect.silence.enabled", "false"),
        ]);
        assert!(found.contains("must be at least 1s"), "{found}");
    }

    #[test]
    fn names_that_kafka_refuses_are_refused() {
        let long = format!("iot.{}", "x".repeat(246));
        let found = problems(&[
            ("outputs.alerts", "iot.my alerts"),
            ("outputs.windows", "iot.über"),
            ("dead_letter.topic", &long),
        ]);
        for path in ["outputs.alerts", "outputs.windows", "dead_letter.topic"] {
            let expected = format!("{path} (command line): must be 1 to 249 letters");
            assert!(found.contains(&expected), "{expected} is not in:\n{found}");
        }
        assert_eq!(found.lines().count(), 3, "{found}");
        let longest = format!("iot.{}", "x".repeat(245));
        assert_eq!(problems(&[("dead_letter.topic", &longest)]), "");
    }

    #[test]
    fn the_short_variables_are_known() {
        let sources = Sources {
            env: vec![
                ("KAFKA_BROKERS".into(), "a:1,b:2".into()),
                ("KAFKA_TOPIC".into(), "device-data".into()),
                ("REDIS_ENDPOINT".into(), "localhost:7000".into()),
            ],
            ..Sources::default()
        };
        let config: ConsumerConfig = load(&sources).unwrap();
        assert_eq!(config.kafka.brokers, ["a:1", "b:2"]);
        assert_eq!(config.kafka.topics, ["device-data"]);
        assert_eq!(config.store.url, "localhost:7000".into());
    }
}
