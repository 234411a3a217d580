//! The settings of the bridge.

use std::collections::BTreeMap;

use iot_core::headers::DEAD_LETTER_TOPIC;
use iot_core::mqtt_url::MqttUrl;
use iot_core::route::RouteRules;
use iot_service::config::{
    ByteSize, HumanDuration, LogConfig, OpsConfig, Problems, Secret, Settings,
};
use serde::{Deserialize, Serialize};

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

/// Section `mqtt`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// `mqtt://host:port`, the preferred broker first.
    pub brokers: Vec<String>,
    /// Topic filters to subscribe to.
    pub filters: Vec<String>,
    /// Quality of service of the subscription: 0, 1 or 2.
    pub qos: u8,
    /// Names the session at the broker: stable, and not used by anyone else.
    pub client_id: String,
    /// Shares the subscription among replicas, if not empty.
    pub share_group: String,
    /// User name, if not empty.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// File that holds the password, instead of `password`.
    pub password_file: String,
    /// How long the broker waits for a sign of life.
    pub keep_alive: HumanDuration,
    /// How long the broker keeps the session, and what arrives for it, while
    /// the bridge is away.
    pub session_expiry: HumanDuration,
    /// How many unacknowledged messages the broker may send.
    pub receive_maximum: u16,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["mqtt://localhost:1883".into()],
            filters: vec!["mtic/msg/client/realtime/+/#".into()],
            qos: 1,
            client_id: "iot-bridge".into(),
            share_group: String::new(),
            username: String::new(),
            password: Secret::default(),
            password_file: String::new(),
            keep_alive: HumanDuration::from_secs(60),
            session_expiry: HumanDuration::from_secs(24 * 3600),
            receive_maximum: 2000,
        }
    }
}

/// Section `kafka`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of some brokers of the cluster.
    pub brokers: Vec<String>,
    /// How long a record waits for others to share its batch.
    pub linger: HumanDuration,
    /// Compression of batches.
    pub compression: Compression,
    /// Whether records carry MQTT topic, QoS, retain flag and receive time.
    pub headers: bool,
    /// Larger payloads go to the dead-letter topic.
    pub max_message_bytes: ByteSize,
    /// After how long without a confirmation the bridge counts as stalled.
    pub stalled_after: HumanDuration,
    /// Further librdkafka properties.
    pub properties: BTreeMap<String, String>,
}

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
            linger: HumanDuration::from_millis(10),
            compression: Compression::Snappy,
            headers: true,
            max_message_bytes: ByteSize(1_000_000),
            stalled_after: HumanDuration::from_secs(10),
            properties: BTreeMap::new(),
        }
    }
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

/// librdkafka properties that delivery rests on.
const OWNED: &[&str] = &[
    "acks",
    "bootstrap.servers",
    "metadata.broker.list",
    "compression.codec",
    "compression.type",
    "delivery.report.only.error",
    "linger.ms",
    "message.send.max.retries",
    "queue.buffering.max.ms",
    "transactional.id",
    "enable.idempotence",
    "message.max.bytes",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "request.required.acks",
    "retries",
];

impl Settings for BridgeConfig {
    const SERVICE: &'static str = "iot-bridge";
    const EXAMPLE: &'static str = include_str!("../../../configs/bridge.yaml");
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
        if self.kafka.brokers.is_empty() {
            problems.add("kafka.brokers", "needs at least one host:port");
        }
        for name in self
            .kafka
            .properties
            .keys()
            .filter(|name| OWNED.contains(&name.as_str()))
        {
            let message = "has a setting of its own, or delivery rests on it";
            problems.add(format!("kafka.properties.{name}"), message);
        }
        if !(1..=8 << 20).contains(&self.kafka.max_message_bytes.0) {
            problems.add("kafka.max_message_bytes", "must be between 1 and 8 MiB");
        }
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

impl MqttConfig {
    fn validate(&self, problems: &mut Problems) {
        if self.brokers.is_empty() {
            problems.add("mqtt.brokers", "needs at least one mqtt://host:port");
        }
        for broker in &self.brokers {
            match broker.parse::<MqttUrl>() {
                Ok(url) if url.tls => {
                    problems.add("mqtt.brokers", format!("{url}: TLS is not supported yet"));
                }
                Ok(_) => {}
                // Without the text itself: a password may be in it.
                Err(error) => problems.add("mqtt.brokers", error.to_string()),
            }
        }
        if self.filters.is_empty() {
            problems.add("mqtt.filters", "needs at least one topic filter");
        }
        for filter in &self.filters {
            if !rumqttc::v5::mqttbytes::valid_filter(filter) {
                problems.add("mqtt.filters", format!("{filter:?} is not a topic filter"));
            }
        }
        if self.qos > 2 {
            problems.add("mqtt.qos", "must be 0, 1 or 2");
        }
        if self.client_id.is_empty() {
            problems.add("mqtt.client_id", "must not be empty: it names the session");
        }
        if self.share_group.contains(['/', '+', '#']) {
            problems.add("mqtt.share_group", "must not contain /, + or #");
        }
        if !self.password.is_empty() && !self.password_file.is_empty() {
            problems.add("mqtt.password_file", "set either this or mqtt.password");
        }
        let has_password = !self.password.is_empty() || !self.password_file.is_empty();
        if self.username.is_empty() && has_password {
            problems.add("mqtt.username", "is needed with a password");
        }
        if u16::try_from(self.keep_alive.as_secs()).is_err() || self.keep_alive.as_secs() < 10 {
            problems.add("mqtt.keep_alive", "must be between 10s and 18h");
        }
        if !(60..=u64::from(u32::MAX)).contains(&self.session_expiry.as_secs()) {
            let message = "must be at least 1m: the broker drops messages with the session";
            problems.add("mqtt.session_expiry", message);
        }
        if self.receive_maximum == 0 {
            problems.add("mqtt.receive_maximum", "must be at least 1");
        }
    }

    /// The filters as they are subscribed to.
    pub(crate) fn subscriptions(&self) -> impl Iterator<Item = String> {
        self.filters
            .iter()
            .map(|filter| match self.share_group.as_str() {
                "" => filter.clone(),
                group => format!("$share/{group}/{filter}"),
            })
    }
}

#[cfg(test)]
mod tests {
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
        config.mqtt.brokers = vec!["http://x".into(), "ssl://x".into()];
        config.mqtt.filters = vec!["a/#/b".into()];
        config.mqtt.qos = 3;
        config.kafka.properties.insert("acks".into(), "0".into());
        let mut problems = Problems::default();
        config.validate(&mut problems);
        let problems = problems.to_string();
        for path in [
            "mqtt.brokers",
            "mqtt.filters",
            "mqtt.qos",
            "kafka.properties.acks",
        ] {
            assert!(problems.contains(path), "{path} is not in:\n{problems}");
        }
    }
}
