//! The settings of the bridge.

mod kafka;
mod mqtt;

use iot_core::headers::DEAD_LETTER_TOPIC;
use iot_core::route::RouteRules;
use iot_service::config::{ByteSize, LogConfig, OpsConfig, Problems, Settings};
use serde::{Deserialize, Serialize};

pub use kafka::{Compression, KafkaConfig};
pub use mqtt::{MqttConfig, Protocol};

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeConfig {
    /// Where messages come from.
    pub mqtt: MqttConfig,
    /// How an MQTT topic becomes a Kafka topic and key.
    pub route: RouteRules,
    /// Where messages go to.
    pub kafka: KafkaConfig,
    /// How topics that don't exist yet are created.
    pub topics: TopicsConfig,
    /// How much may be on its way at once.
    pub in_flight: InFlightConfig,
    /// Where messages go that can't be routed.
    pub dead_letter: DeadLetterConfig,
    /// Logs.
    pub log: LogConfig,
    /// Metrics and health.
    pub ops: OpsConfig,
}

/// Section `topics`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicsConfig {
    /// Whether the bridge creates them. If not, they must be there, or the
    /// broker must create them at their first record.
    pub create: bool,
    /// Partitions of a new topic; -1 leaves it to the broker.
    pub partitions: i32,
    /// Replicas of a new topic; -1 leaves it to the broker.
    pub replication: i32,
    /// How many topics one tenant may open through this bridge.
    pub max_per_tenant: usize,
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self {
            create: true,
            partitions: -1,
            replication: -1,
            max_per_tenant: 1000,
        }
    }
}

/// Section `in_flight`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InFlightConfig {
    /// Memory for messages that Kafka has not confirmed.
    pub bytes: ByteSize,
    /// Number of messages that Kafka has not confirmed.
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
            topic: DEAD_LETTER_TOPIC.into(),
        }
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
    const LIVE: &'static [&'static str] = &[];

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
        if self.in_flight.messages == 0 {
            problems.add("in_flight.messages", "must be at least 1");
        }
        if self.in_flight.bytes < ByteSize::mib(1) {
            problems.add("in_flight.bytes", "must be at least 1 MiB");
        }
        if self.dead_letter.topic.is_empty() {
            problems.add("dead_letter.topic", "must not be empty");
        }
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
    fn the_example_holds_the_defaults() {
        iot_service::config::assert_example::<BridgeConfig>();
    }

    #[test]
    fn the_defaults_are_valid() {
        let mut problems = Problems::default();
        BridgeConfig::default().validate(&mut problems);
        assert!(problems.is_empty(), "{problems}");
    }

    #[test]
    fn problems_are_named_all_at_once() {
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
