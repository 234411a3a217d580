//! Settings of the consumer: plain data. `configs/consumer.yaml` explains each of them, and
//! `check` says which values are valid.

pub(crate) mod aliases;
mod detect;
pub(crate) mod mappings;
mod replica;
mod retention;
mod rules;
mod sensors;
mod store;
mod webhook;
mod windows;

use std::collections::BTreeMap;

use iot_auth::AuthConfig;
use iot_core::dead_letter;
use iot_fold::{Catalogue, FoldRules, LimitRules, ThresholdRule};
use iot_kafka::security::KafkaSecurity;
use iot_service::config::{ByteSize, HttpConfig, HumanDuration, LogConfig, OpsConfig};
use serde::{Deserialize, Serialize};

pub(crate) use aliases::ALIASES;
pub use detect::{DetectConfig, SilenceConfig};
pub(crate) use mappings::{MappingConfig, MappingsConfig, Ready};
pub use replica::{Follow, Role};
pub use retention::RetentionConfig;
pub use sensors::{SensorConfig, ThresholdRuleConfig};
pub use store::{Missing, StoreConfig, StoreUrl};
pub use webhook::WebhookConfig;
pub use windows::WindowsConfig;
pub(crate) use windows::millis;

/// All settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsumerConfig {
    /// What this replica does.
    pub role: Role,
    /// Which partitions it follows, of those that others own.
    pub follow: Follow,
    /// The topics to follow with `follow: topics`: names, and patterns that begin with `^`.
    pub follow_topics: Vec<String>,
    /// Log level and format.
    pub log: LogConfig,
    /// Metrics and health.
    pub ops: OpsConfig,
    /// Page, REST API and WebSocket.
    pub http: HttpConfig,
    /// Who may use them.
    pub auth: AuthConfig,
    /// The source of messages.
    pub kafka: KafkaConfig,
    /// Where state is kept.
    pub store: StoreConfig,
    /// Third-party formats.
    pub mappings: MappingsConfig,
    /// Sensors in addition to the standard ones, or in place of them.
    pub sensors: Vec<SensorConfig>,
    /// Other limits for some devices.
    pub thresholds: Vec<ThresholdRuleConfig>,
    /// What a message must satisfy.
    pub validate: ValidateConfig,
    /// Aggregation over time.
    pub windows: WindowsConfig,
    /// Detectors.
    pub detect: DetectConfig,
    /// How long devices are kept.
    pub retention: RetentionConfig,
    /// Limits of memory.
    pub limits: LimitsConfig,
    /// The topic for messages that cannot be used.
    pub dead_letter: DeadLetterConfig,
    /// Events for other programs.
    pub outputs: OutputsConfig,
    /// Alerts for people.
    pub webhook: WebhookConfig,
    /// Streaming to WebSocket clients.
    pub push: PushConfig,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        let listen = |address: &str| address.to_owned();
        Self {
            role: Role::All,
            follow: Follow::All,
            follow_topics: Vec::new(),
            log: LogConfig::default(),
            ops: OpsConfig {
                listen: listen("127.0.0.1:9090"),
            },
            http: HttpConfig {
                listen: listen("127.0.0.1:8080"),
                ..HttpConfig::default()
            },
            auth: AuthConfig::default(),
            kafka: KafkaConfig::default(),
            store: StoreConfig::default(),
            mappings: MappingsConfig::default(),
            sensors: Vec::new(),
            thresholds: Vec::new(),
            validate: ValidateConfig::default(),
            windows: WindowsConfig::default(),
            detect: DetectConfig::default(),
            retention: RetentionConfig::default(),
            limits: LimitsConfig::default(),
            dead_letter: DeadLetterConfig::default(),
            outputs: OutputsConfig::default(),
            webhook: WebhookConfig::default(),
            push: PushConfig::default(),
        }
    }
}

impl ConsumerConfig {
    /// The sensors that are known.
    pub(crate) fn catalogue(&self) -> Catalogue {
        Catalogue::new(self.sensors.iter().map(SensorConfig::known))
            .with_chips(self.mappings.has_chips())
    }

    fn threshold_rules(&self) -> Vec<ThresholdRule> {
        self.thresholds
            .iter()
            .map(ThresholdRuleConfig::rule)
            .collect()
    }

    /// The rules of the fold.
    pub(crate) fn fold_rules(&self) -> FoldRules {
        FoldRules {
            windows: self.windows.rules(),
            detect: self.detect.rules(),
            limits: LimitRules::new(&self.catalogue(), &self.threshold_rules()),
            silence: self.detect.silence.patience(),
            retention: self.retention.of_devices(),
            devices: self.limits.devices,
            sensors: self.limits.sensors,
        }
    }
}

/// Section `kafka`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of the first brokers to connect to.
    pub brokers: Vec<String>,
    /// Encryption and login.
    pub security: KafkaSecurity,
    /// Topics to read: names, and patterns that begin with `^`.
    pub topics: Vec<String>,
    /// Consumer group.
    pub group: String,
    /// Name of this member, with which it keeps its partitions over a restart; empty for
    /// none.
    pub group_instance_id: String,
    /// How long a member may be silent before its partitions are assigned to others.
    pub session_timeout: HumanDuration,
    /// Where to start in a partition without a stored offset.
    pub from: From,
    /// Any other property of librdkafka.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["127.0.0.1:9092".into()],
            security: KafkaSecurity::default(),
            topics: vec![
                "device-data".into(),
                r"^[a-zA-Z0-9_-]+\.[a-zA-Z0-9_-]+$".into(),
            ],
            group: "iot-consumer-group".into(),
            group_instance_id: String::new(),
            session_timeout: HumanDuration::from_secs(30),
            from: From::Earliest,
            properties: BTreeMap::new(),
        }
    }
}

/// Where to start in a partition without a stored offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// At the oldest record that is kept.
    Earliest,
    /// After the newest record.
    Latest,
}

/// Section `validate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidateConfig {
    /// How far the time of a message may be ahead of its record time.
    pub max_future: HumanDuration,
    /// What happens to a message of which only some readings are valid.
    pub partial: Partial,
}

/// What happens to a message of which only some readings are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partial {
    /// The valid readings are accepted, and a dead letter lists the others.
    Accept,
    /// The message is refused whole.
    Refuse,
}

impl Default for ValidateConfig {
    fn default() -> Self {
        Self {
            max_future: HumanDuration::from_secs(300),
            partial: Partial::Accept,
        }
    }
}

/// Section `limits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Devices in one partition.
    pub devices: usize,
    /// Sensors of one device.
    pub sensors: usize,
    /// Alerts that are kept; active ones are kept in any case.
    pub alerts: usize,
    /// Bytes of fetches, of decompressed batches and of dead letters on their way to Kafka, over
    /// all partitions.
    pub buffers: ByteSize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            devices: 100_000,
            sensors: 64,
            alerts: 1_000,
            buffers: ByteSize::mib(256),
        }
    }
}

/// Section `outputs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputsConfig {
    /// Topic for alerts; empty for none.
    pub alerts: String,
    /// Topic for sealed windows; empty for none.
    pub windows: String,
    /// Partitions of topics that the consumer creates.
    pub partitions: i32,
    /// Their replicas; -1 is the brokers' default.
    pub replication: i32,
}

impl Default for OutputsConfig {
    fn default() -> Self {
        Self {
            alerts: String::new(),
            windows: String::new(),
            partitions: 3,
            replication: -1,
        }
    }
}

/// Section `dead_letter`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetterConfig {
    /// Topic, a reserved name so that no pattern reads it back.
    pub topic: String,
    /// Partitions when the topic has to be created.
    pub partitions: i32,
    /// Replicas when the topic has to be created; -1 is the brokers' default.
    pub replication: i32,
}

impl Default for DeadLetterConfig {
    fn default() -> Self {
        Self {
            topic: dead_letter::DEFAULT_TOPIC.into(),
            partitions: 1,
            replication: -1,
        }
    }
}

/// Section `push`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushConfig {
    /// How often a subscription to newest values gets what changed.
    pub interval: HumanDuration,
    /// How long other changes are gathered into one frame; the first one is sent at once. Below
    /// 10 ms also the time between two small fetches.
    pub gather: HumanDuration,
    /// Recent changes kept for clients that were disconnected, of all partitions.
    pub history: ByteSize,
    /// By how much the clocks of replicas may differ.
    pub skew: HumanDuration,
    /// Clients at the same time.
    pub clients: usize,
    /// Frames that wait for one client, beside alerts and readings of `mode=all` that wait for all
    /// clients of a channel.
    pub queue: ByteSize,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            interval: HumanDuration::from_millis(200),
            gather: HumanDuration::from_millis(10),
            history: ByteSize::mib(64),
            skew: HumanDuration::from_secs(1),
            clients: 10_000,
            queue: ByteSize::kib(64),
        }
    }
}
