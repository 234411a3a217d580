//! Section `kafka`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use iot_service::config::{ByteSize, HumanDuration, Problems};
use iot_service::kafka::{Client, KafkaSecurity, LIBRDKAFKA_PROPERTIES, check_brokers};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::client;

/// Section `kafka`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of some brokers of the cluster.
    pub brokers: Vec<String>,
    /// Encryption and login.
    pub security: KafkaSecurity,
    /// Whether settings may be used that can lose or reorder messages.
    pub delivery: DeliveryGuarantee,
    /// How many replicas must have a record for it to count as confirmed.
    pub acks: Acks,
    /// Whether Kafka recognises what it is sent twice.
    pub idempotence: Idempotence,
    /// How long a record waits for others to share its batch.
    pub linger: HumanDuration,
    /// Bytes of a batch before compression.
    pub batch_size: ByteSize,
    /// Compression of batches.
    pub compression: Compression,
    /// How long a broker may take to answer; after it the request is sent again.
    pub request_timeout: HumanDuration,
    /// Whether records carry MQTT topic, QoS, retain flag and receive time.
    pub headers: bool,
    /// Larger payloads go to the dead-letter topic.
    pub max_message_bytes: ByteSize,
    /// After how long without a confirmation the bridge counts as stalled.
    pub stalled_after: HumanDuration,
    /// Further librdkafka properties.
    pub properties: BTreeMap<String, String>,
}

/// What the bridge promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryGuarantee {
    /// What was acknowledged to MQTT is in Kafka, in order: settings that
    /// break this are refused.
    #[default]
    Guaranteed,
    /// Settings may break it.
    BestEffort,
}

/// Replicas that confirm a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Acks {
    /// All that are in sync.
    #[default]
    All,
    /// The leader only: lost if it fails before the others have it.
    One,
    /// None: it counts as confirmed once it is sent.
    Zero,
}

/// Whether Kafka recognises what it is sent twice, and keeps the order of
/// requests that are sent again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Idempotence {
    /// Yes with [`Acks::All`], no with others, where it can't be.
    #[default]
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

/// Reads and writes an enum as one of some names, the first of which is
/// written: YAML has `1` and `true` as something else than text.
macro_rules! as_text {
    ($type:ident: $($variant:ident = $name:literal $(| $alias:literal)*),*) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $name),* })
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($name $(| $alias)* => Ok(Self::$variant),)*
                    _ => Err(format!("{text:?} is none of {}", [$($name),*].join(", "))),
                }
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Acks: All = "all" | "-1", One = "1", Zero = "0");
as_text!(Idempotence: Auto = "auto", On = "true", Off = "false");

/// Compression of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    /// As librdkafka calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["localhost:9092".into()],
            security: KafkaSecurity::default(),
            delivery: DeliveryGuarantee::Guaranteed,
            acks: Acks::All,
            idempotence: Idempotence::Auto,
            linger: HumanDuration::from_millis(10),
            batch_size: ByteSize(1_000_000),
            compression: Compression::Snappy,
            request_timeout: HumanDuration::from_secs(10),
            headers: true,
            max_message_bytes: ByteSize(1_000_000),
            stalled_after: HumanDuration::from_secs(10),
            properties: BTreeMap::new(),
        }
    }
}

/// librdkafka properties that can't be given, and why.
const OWN_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
    ("acks", "use kafka.acks"),
    ("request.required.acks", "use kafka.acks"),
    ("enable.idempotence", "use kafka.idempotence"),
    ("linger.ms", "use kafka.linger"),
    ("queue.buffering.max.ms", "use kafka.linger"),
    ("batch.size", "use kafka.batch_size"),
    ("compression.type", "use kafka.compression"),
    ("compression.codec", "use kafka.compression"),
    ("request.timeout.ms", "use kafka.request_timeout"),
    ("socket.timeout.ms", "use kafka.request_timeout"),
    ("message.max.bytes", "use kafka.max_message_bytes"),
    ("queue.buffering.max.messages", "use in_flight.messages"),
    ("queue.buffering.max.kbytes", "use in_flight.bytes"),
    ("allow.auto.create.topics", "use topics.create"),
    (
        "topic.metadata.propagation.max.ms",
        "the bridge creates topics before it writes to them",
    ),
    ("log_level", "use log.level"),
    ("log.queue", "the bridge's log needs it as it is"),
    ("enabled_events", "the bridge's callbacks need it as it is"),
    (
        "statistics.interval.ms",
        "the bridge does not read librdkafka's statistics",
    ),
    (
        "topic.blacklist",
        "the bridge writes to what route.topic says",
    ),
    (
        "delivery.report.only.error",
        "without its report no message would be acknowledged",
    ),
    (
        "transactional.id",
        "the bridge does not write in transactions",
    ),
    (
        "transaction.timeout.ms",
        "the bridge does not write in transactions",
    ),
];

const EXPIRES: &str = "a record that librdkafka gives up is sent again after later ones";
const ONE_POISONS_ALL: &str = "one record that Kafka refuses would end the producer";

/// librdkafka properties that break the guarantee, whatever their value, and why.
const WEAK_PROPERTIES: &[(&str, &str)] = &[
    ("message.timeout.ms", EXPIRES),
    ("delivery.timeout.ms", EXPIRES),
    ("retries", EXPIRES),
    ("message.send.max.retries", EXPIRES),
    ("enable.gapless.guarantee", ONE_POISONS_ALL),
    (
        "queuing.strategy",
        "records must leave in the order they came in",
    ),
];

impl KafkaConfig {
    /// Whether Kafka recognises what it is sent twice.
    pub(crate) fn idempotent(&self) -> bool {
        self.acks == Acks::All && self.idempotence != Idempotence::Off
    }

    /// The settings that can lose, repeat or reorder messages, and how.
    pub(crate) fn weaknesses(&self) -> Vec<(String, &'static str)> {
        let mut found = Vec::new();
        match self.acks {
            Acks::All => {}
            Acks::One => found.push((
                "kafka.acks".into(),
                "what only the leader has is lost when it fails",
            )),
            Acks::Zero => found.push((
                "kafka.acks".into(),
                "nobody tells whether Kafka has a message",
            )),
        }
        if self.idempotence == Idempotence::Off {
            let message = "a request that is sent again repeats its messages";
            found.push(("kafka.idempotence".into(), message));
        }
        for (name, value) in &self.properties {
            let weak = WEAK_PROPERTIES.iter().find(|(weak, _)| weak == name);
            let reason = match (name.as_str(), value.as_str()) {
                ("partitioner", "random") => Some("messages of one key would lose their order"),
                _ => weak.map(|(_, reason)| *reason),
            };
            found.extend(reason.map(|reason| (format!("kafka.properties.{name}"), reason)));
        }
        found
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        check_brokers(&self.brokers, problems);
        self.security.validate(librdkafka(), problems);
        if self.delivery == DeliveryGuarantee::Guaranteed {
            for (path, reason) in self.weaknesses() {
                problems.add(
                    path,
                    format!("{reason}; only with kafka.delivery: best_effort"),
                );
            }
        }
        if self.idempotence == Idempotence::On && self.acks != Acks::All {
            let message = "needs kafka.acks: all (auto is off with others)";
            problems.add("kafka.idempotence", message);
        }
        self.validate_sizes(problems);
        self.validate_properties(problems);
    }

    fn validate_sizes(&self, problems: &mut Problems) {
        if *self.linger >= *self.stalled_after {
            problems.add("kafka.linger", "must be shorter than kafka.stalled_after");
        }
        let timeouts = Duration::from_secs(1)..=Duration::from_secs(300);
        if !timeouts.contains(&*self.request_timeout) {
            problems.add("kafka.request_timeout", "must be between 1s and 5m");
        }
        for (path, size) in [
            ("kafka.batch_size", self.batch_size),
            ("kafka.max_message_bytes", self.max_message_bytes),
        ] {
            if !(1..=8 << 20).contains(&size.0) {
                problems.add(path, "must be between 1 and 8 MiB");
            }
        }
    }

    fn validate_properties(&self, problems: &mut Problems) {
        let mut usable = self.clone();
        for (name, value) in &self.properties {
            let mut own = OWN_PROPERTIES.iter().chain(LIBRDKAFKA_PROPERTIES);
            let problem = match own.find(|(own, _)| own == name) {
                Some((_, reason)) => Some(format!("can't be set: {reason}")),
                None => client::check_property(name, value).err(),
            };
            if let Some(problem) = problem {
                problems.add(format!("kafka.properties.{name}"), problem);
                usable.properties.remove(name);
            }
        }
        let mut security = Problems::default();
        self.security.validate(librdkafka(), &mut security);
        if !security.is_empty() {
            usable.security = KafkaSecurity::default();
        }
        if let Err(found) = client::check_producer(&usable) {
            problems.add("kafka.properties", found);
        }
    }
}

/// What the librdkafka of this build can do.
fn librdkafka() -> Client {
    if cfg!(feature = "tls") {
        Client::Complete
    } else {
        Client::WithoutOpenssl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(settings: &[(&str, &str)]) -> String {
        let sources = iot_service::config::Sources {
            flags: settings
                .iter()
                .map(|(path, value)| ((*path).into(), (*value).into()))
                .collect(),
            ..Default::default()
        };
        match iot_service::config::load::<crate::config::BridgeConfig>(&sources) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn what_breaks_the_guarantee_needs_best_effort() {
        for (path, value, reason) in [
            ("kafka.acks", "1", "is lost when it fails"),
            ("kafka.acks", "0", "nobody tells"),
            ("kafka.idempotence", "false", "repeats"),
            (
                "kafka.properties.message.timeout.ms",
                "60000",
                "after later ones",
            ),
            (
                "kafka.properties.delivery.timeout.ms",
                "60000",
                "after later ones",
            ),
            ("kafka.properties.retries", "3", "after later ones"),
            (
                "kafka.properties.message.send.max.retries",
                "3",
                "after later ones",
            ),
            (
                "kafka.properties.enable.gapless.guarantee",
                "true",
                "end the producer",
            ),
            (
                "kafka.properties.queuing.strategy",
                "lifo",
                "order they came in",
            ),
            ("kafka.properties.partitioner", "random", "lose their order"),
        ] {
            let found = problems(&[(path, value)]);
            let line = found.lines().find(|line| line.starts_with(path));
            let line = line.unwrap_or_else(|| panic!("{path} is not in:\n{found}"));
            assert!(line.contains(reason), "{line}");
            assert!(
                line.ends_with("only with kafka.delivery: best_effort"),
                "{line}"
            );
            // Idempotence forbids some of them for reasons of its own.
            let best_effort = [
                ("kafka.delivery", "best_effort"),
                ("kafka.acks", "1"),
                (path, value),
            ];
            if path != "kafka.properties.enable.gapless.guarantee" {
                assert_eq!(problems(&best_effort), "", "{path}");
            }
        }
    }

    #[test]
    fn idempotence_needs_all_acks_and_few_requests() {
        let found = problems(&[
            ("kafka.delivery", "best_effort"),
            ("kafka.acks", "1"),
            ("kafka.idempotence", "true"),
        ]);
        assert!(
            found.starts_with("kafka.idempotence (command line): needs kafka.acks: all"),
            "{found}"
        );
        assert_eq!(
            problems(&[("kafka.idempotence", "true"), ("kafka.acks", "-1")]),
            ""
        );
        let found = problems(&[("kafka.properties.max.in.flight", "6")]);
        assert!(
            found.contains("max.in.flight") && found.contains("enable.idempotence"),
            "{found}"
        );
    }

    #[test]
    fn properties_with_a_setting_of_their_own_are_refused_always() {
        for (name, _) in OWN_PROPERTIES.iter().chain(LIBRDKAFKA_PROPERTIES) {
            let path = format!("kafka.properties.{name}");
            let found = problems(&[("kafka.delivery", "best_effort"), (&path, "1")]);
            let expected = format!("{path} (command line): can't be set: ");
            assert!(found.starts_with(&expected), "{found}");
            let known = client::check_property(name, "1");
            assert!(
                known.is_ok() || !known.unwrap_err().contains("No such"),
                "librdkafka does not know {name}"
            );
        }
    }

    #[test]
    fn unknown_useless_and_bad_properties_are_named() {
        for (name, value, reason) in [
            ("linger.mss", "1", "No such configuration property"),
            ("socket.keepalive.enable", "maybe", "Expected bool"),
            ("retry.backoff.ms", "0", "outside allowed range"),
        ] {
            let path = format!("kafka.properties.{name}");
            let found = problems(&[(&path, value)]);
            assert!(
                found.starts_with(&path) && found.contains(reason),
                "{found}"
            );
        }
        for (name, reason) in [
            (
                "fetch.min.bytes",
                "is a consumer property and will be ignored",
            ),
            ("socket.blocking.max.ms", "No longer used"),
        ] {
            let found = problems(&[(&format!("kafka.properties.{name}"), "10")]);
            assert!(found.contains(name) && found.contains(reason), "{found}");
        }
        assert_eq!(
            problems(&[("kafka.properties.socket.keepalive.enable", "true")]),
            ""
        );
    }

    #[test]
    fn sizes_and_times_are_within_what_works() {
        for (path, value) in [
            ("kafka.linger", "10s"),
            ("kafka.batch_size", "0"),
            ("kafka.batch_size", "9 MiB"),
            ("kafka.request_timeout", "10ms"),
            ("kafka.brokers", "kafka"),
            ("kafka.acks", "2"),
            ("kafka.delivery", "maybe"),
        ] {
            let found = problems(&[(path, value)]);
            assert!(found.starts_with(path), "{path}={value}: {found}");
        }
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn tls_is_refused_by_a_build_without_it() {
        let found = problems(&[("kafka.security.protocol", "SASL_SSL")]);
        assert!(
            found.contains("kafka.security.protocol (command line): this build has no TLS"),
            "{found}"
        );
    }
}
