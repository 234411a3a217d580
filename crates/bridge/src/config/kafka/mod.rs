//! Section `kafka`.

mod client;
mod properties;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use iot_kafka::librdkafka::SUPPORT;
use iot_kafka::security::{KafkaSecurity, check_brokers};
use iot_service::config::{ByteSize, HumanDuration, Problems};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use properties::{RESERVED, WEAK};

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
    /// Whether Kafka recognises a request that is sent twice.
    pub idempotence: Idempotence,
    /// How long a record waits for others to share its batch.
    pub linger: HumanDuration,
    /// Bytes of a batch before compression.
    pub batch_size: ByteSize,
    /// Compression of batches.
    pub compression: Compression,
    /// How long a broker may take to answer before the request is sent again.
    pub request_timeout: HumanDuration,
    /// Whether records carry MQTT topic, QoS, retain flag and receive time.
    pub headers: bool,
    /// Larger payloads go to the dead-letter topic.
    pub max_message_bytes: ByteSize,
    /// The bridge counts as stalled after this long without a confirmation.
    pub stalled_after: HumanDuration,
    /// Further librdkafka properties.
    pub properties: BTreeMap<String, String>,
}

/// What the bridge promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryGuarantee {
    /// Acknowledged messages are in Kafka, in order: settings that break this are
    /// rejected.
    #[default]
    Guaranteed,
    /// Settings may lose, repeat or reorder messages.
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
    /// None: a record counts as confirmed once it is sent.
    Zero,
}

/// Whether Kafka recognises a request that is sent twice, and keeps the order of requests
/// that are sent again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Idempotence {
    /// Yes with [`Acks::All`], no with others, which rule it out.
    #[default]
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

/// Reads an enum by any of its names and writes the first: as text, because `1` and `true`
/// are not strings in YAML.
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
    /// librdkafka's name.
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
            request_timeout: HumanDuration::from_secs(5),
            headers: true,
            max_message_bytes: ByteSize(1_000_000),
            stalled_after: HumanDuration::from_secs(10),
            properties: BTreeMap::new(),
        }
    }
}

impl KafkaConfig {
    /// Whether Kafka recognises a request that is sent twice.
    pub(crate) fn idempotent(&self) -> bool {
        self.acks == Acks::All && self.idempotence != Idempotence::Off
    }

    /// The settings that can lose, repeat or reorder messages, and how they do.
    pub(crate) fn weaknesses(&self) -> Vec<(String, &'static str)> {
        let mut found = Vec::new();
        match self.acks {
            Acks::All => {}
            Acks::One => found.push((
                "kafka.acks".into(),
                "a record that only the leader has is lost when the leader fails",
            )),
            Acks::Zero => found.push(("kafka.acks".into(), "delivery is unconfirmed")),
        }
        if self.idempotence == Idempotence::Off {
            let message = "a retried request repeats its messages";
            found.push(("kafka.idempotence".into(), message));
        }
        for (name, value) in &self.properties {
            let weak = WEAK.iter().find(|(weak, _)| weak == name);
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
        self.security.validate(SUPPORT, problems);
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
        usable.properties = RESERVED.check(&self.properties, problems);
        let mut security = Problems::default();
        self.security.validate(SUPPORT, &mut security);
        if !security.is_empty() {
            usable.security = KafkaSecurity::default();
        }
        if let Err(found) = usable.check_producer() {
            problems.add("kafka.properties", found);
        }
    }
}

#[cfg(test)]
mod tests;
