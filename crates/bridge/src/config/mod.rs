//! The configuration of the bridge, as plain data.

mod filter;
mod kafka;
mod mqtt;

use std::collections::BTreeMap;

use iot_core::dead_letter;
use iot_core::route::RouteRules;
use iot_service::config::{ByteSize, HumanDuration, LogConfig, OpsConfig, Problems, Settings};
use serde::{Deserialize, Serialize};

pub use kafka::{Acks, Compression, DeliveryGuarantee, Idempotence, KafkaConfig};
pub(crate) use mqtt::SessionPlan;
pub use mqtt::{Isolation, MqttConfig};

/// The upper limit of [`InFlightConfig::messages`]: deduplication can tell
/// messages apart only within one cycle of 65,535 packet identifiers.
pub(crate) const MAX_IN_FLIGHT: usize = 32_768;

/// All settings of the bridge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeConfig {
    /// Where messages come from.
    pub mqtt: MqttConfig,
    /// How an MQTT topic becomes a Kafka topic and key.
    pub route: RouteRules,
    /// The Kafka cluster and the producer.
    pub kafka: KafkaConfig,
    /// How missing Kafka topics are created.
    pub topics: TopicsConfig,
    /// How much may be in flight between MQTT and Kafka.
    pub in_flight: InFlightConfig,
    /// Where messages go that can't be delivered.
    pub dead_letter: DeadLetterConfig,
    /// What counts as a duplicate.
    pub dedupe: DedupeConfig,
    /// What happens to the MQTT sessions when the bridge stops.
    pub shutdown: ShutdownMode,
    /// Which labels metrics have.
    pub metrics: MetricsConfig,
    /// Logs.
    pub log: LogConfig,
    /// Metrics and health.
    pub ops: OpsConfig,
}

/// Section `topics`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicsConfig {
    /// Whether the bridge creates missing topics. If not, they must exist, or the
    /// broker must create them at the first record.
    pub create: bool,
    /// Partitions of a new topic; -1 for the broker's default.
    pub partitions: i32,
    /// Replication factor of a new topic; -1 for the broker's default.
    pub replication: i32,
    /// Topic configs of a new topic, such as `retention.ms`; not of the
    /// dead-letter topic.
    pub configs: BTreeMap<String, String>,
    /// How many topics one tenant may open through this bridge.
    pub max_per_tenant: usize,
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self {
            create: true,
            partitions: -1,
            replication: -1,
            configs: BTreeMap::new(),
            max_per_tenant: 1000,
        }
    }
}

/// Section `in_flight`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InFlightConfig {
    /// Memory for messages in flight, of all sessions together.
    pub bytes: ByteSize,
    /// Messages in flight in each session.
    pub messages: usize,
}

impl Default for InFlightConfig {
    fn default() -> Self {
        Self {
            bytes: ByteSize::mib(16),
            messages: 20_000,
        }
    }
}

/// Section `dead_letter`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetterConfig {
    /// The dead-letter topic.
    pub topic: String,
}

impl Default for DeadLetterConfig {
    fn default() -> Self {
        Self {
            topic: dead_letter::DEFAULT_TOPIC.into(),
        }
    }
}

/// Section `dedupe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DedupeConfig {
    /// Whether MQTT redeliveries are deduplicated. Requires `kafka.headers`.
    pub redeliveries: bool,
    /// Field of JSON payloads that identifies a message, such as `messageId`;
    /// empty for none.
    pub field: String,
    /// How long an id is remembered.
    pub window: HumanDuration,
    /// How many ids are remembered in each session.
    pub max_ids: usize,
}

impl Default for DedupeConfig {
    fn default() -> Self {
        Self {
            redeliveries: true,
            field: String::new(),
            window: HumanDuration::from_secs(600),
            max_ids: 100_000,
        }
    }
}

/// What happens to the MQTT sessions when the bridge stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownMode {
    /// The broker keeps them, and queues what is published meanwhile.
    #[default]
    KeepSession,
    /// They are drained and ended, for a bridge that does not return.
    Drain,
}

/// Section `metrics`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// How many tenants have a label of their own; the others share `other`.
    pub tenants: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { tenants: 50 }
    }
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            mqtt: MqttConfig::default(),
            route: RouteRules::default(),
            kafka: KafkaConfig::default(),
            topics: TopicsConfig::default(),
            in_flight: InFlightConfig::default(),
            dead_letter: DeadLetterConfig::default(),
            dedupe: DedupeConfig::default(),
            shutdown: ShutdownMode::default(),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
            ops: OpsConfig {
                listen: "127.0.0.1:9100".into(),
            },
        }
    }
}

impl Settings for BridgeConfig {
    const SERVICE: &'static str = "iot-bridge";
    const EXAMPLE: &'static str = include_str!("../../../../configs/bridge.yaml");
    const ENV: &'static [(&'static str, &'static str)] = &[
        ("KAFKA_BROKERS", "kafka.brokers"),
        ("MQTT_URL", "mqtt.brokers"),
    ];
    const LIVE: &'static [&'static str] = &[
        "mqtt.filters",
        "mqtt.tenants",
        "in_flight",
        "topics.max_per_tenant",
        "kafka.max_message_bytes",
        "kafka.stalled_after",
        "shutdown",
    ];

    fn validate(&self, problems: &mut Problems) {
        self.mqtt.validate(problems);
        for (field, message) in self.route.validate() {
            problems.add(format!("route.{field}"), message);
        }
        self.kafka.validate(problems);
        for (path, value) in [
            ("topics.partitions", self.topics.partitions),
            ("topics.replication", self.topics.replication),
        ] {
            if value != -1 && !(1..=10_000).contains(&value) {
                problems.add(path, "must be -1 (the broker's default) or at least 1");
            }
        }
        if self.topics.max_per_tenant == 0 {
            problems.add("topics.max_per_tenant", "must be at least 1");
        }
        if !(1..=MAX_IN_FLIGHT).contains(&self.in_flight.messages) {
            let message = format!("must be between 1 and {MAX_IN_FLIGHT}");
            problems.add("in_flight.messages", message);
        }
        let sessions = self.mqtt.sessions().len().max(1);
        if self.in_flight.bytes.bytes() / sessions < 1 << 20 {
            let message = format!("must be at least 1 MiB for each of {sessions} sessions");
            problems.add("in_flight.bytes", message);
        }
        if self.dedupe.max_ids == 0 {
            problems.add("dedupe.max_ids", "must be at least 1");
        }
        if self.dead_letter.topic.is_empty() {
            problems.add("dead_letter.topic", "must not be empty");
        }
    }

    fn warnings(&self, warnings: &mut Problems) {
        self.mqtt.warnings(warnings);
    }

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn ops(&self) -> &OpsConfig {
        &self.ops
    }
}

#[cfg(test)]
mod tests {
    use iot_service::config::HumanDuration;

    use super::*;

    #[test]
    fn the_example_has_the_defaults() {
        iot_service::config::assert_example::<BridgeConfig>();
    }

    #[test]
    fn the_defaults_are_valid() {
        let mut problems = Problems::default();
        BridgeConfig::default().validate(&mut problems);
        assert!(problems.is_empty(), "{problems}");
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let mut config = BridgeConfig::default();
        config.mqtt.brokers = vec!["http://x".into()];
        config.mqtt.fail_back = HumanDuration::from_millis(1);
        config.mqtt.tls.ca_file = "/missing.pem".into();
        config.mqtt.filters = vec!["a/#/b".into()];
        config.mqtt.qos = 3;
        config.kafka.properties.insert("acks".into(), "0".into());
        let mut problems = Problems::default();
        config.validate(&mut problems);
        let problems = problems.to_string();
        for path in [
            "mqtt.brokers",
            "mqtt.fail_back",
            "mqtt.tls: ",
            "mqtt.tls.ca_file: /missing.pem: No such file",
            "mqtt.filters",
            "mqtt.qos",
            "kafka.properties.acks",
        ] {
            assert!(problems.contains(path), "{path} is not in:\n{problems}");
        }
    }
}
