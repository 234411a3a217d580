//! Settings of the simulator.

mod aliases;
mod check;
mod fleet;
mod flow;
mod sensors;

use iot_core::headers;
use iot_kafka::security::KafkaSecurity;
use iot_mqtt::TlsConfig;
use iot_service::config::{
    Aliases, ByteSize, HttpConfig, HumanDuration, LogConfig, OpsConfig, Problems, Secret, Settings,
};
use serde::{Deserialize, Serialize};

pub use self::fleet::{FleetConfig, LoadConfig, ProfileConfig, Rate, Shape, Shard};
pub use self::flow::{CircuitConfig, FlowConfig, RetryConfig};
pub use self::sensors::{SensorConfig, SensorsConfig, SwitchConfig};
use crate::figures::Condition;
use crate::sensors::anomaly::Kind;

/// All settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatorConfig {
    /// Where messages are sent.
    pub sink: SinkKind,
    /// Format of messages.
    pub format: Format,
    /// The devices and how often they send.
    pub fleet: FleetConfig,
    /// The load over time.
    pub load: LoadConfig,
    /// What happens when the sink is slower than the fleet.
    pub flow: FlowConfig,
    /// The delays between attempts to send or to connect.
    pub retry: RetryConfig,
    /// The circuit breaker of each lane.
    pub circuit: CircuitConfig,
    /// Sensors of the devices.
    pub sensors: SensorsConfig,
    /// Anomalies in the readings.
    pub anomaly: AnomalyConfig,
    /// When the run ends, and when it has failed.
    pub run: RunConfig,
    /// Sink `kafka`.
    pub kafka: KafkaConfig,
    /// Sink `mqtt`.
    pub mqtt: MqttConfig,
    /// Sink `file`.
    pub file: FileConfig,
    /// The shutdown.
    pub shutdown: ShutdownConfig,
    /// Logs.
    pub log: LogConfig,
    /// Metrics and health.
    pub ops: OpsConfig,
    /// The API that changes the running fleet.
    pub http: HttpConfig,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            sink: SinkKind::Kafka,
            format: Format::Json,
            fleet: FleetConfig::default(),
            load: LoadConfig::default(),
            flow: FlowConfig::default(),
            retry: RetryConfig::default(),
            circuit: CircuitConfig::default(),
            sensors: SensorsConfig::default(),
            anomaly: AnomalyConfig::default(),
            run: RunConfig::default(),
            kafka: KafkaConfig::default(),
            mqtt: MqttConfig::default(),
            file: FileConfig::default(),
            shutdown: ShutdownConfig::default(),
            log: LogConfig {
                // The Kafka client logs every attempt; the simulator itself logs
                // changes of state.
                level: "info,rskafka=off".into(),
                ..LogConfig::default()
            },
            ops: OpsConfig {
                listen: "127.0.0.1:9101".into(),
            },
            http: HttpConfig {
                listen: "127.0.0.1:8081".into(),
                ..HttpConfig::default()
            },
        }
    }
}

/// Where messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// A Kafka topic.
    Kafka,
    /// An MQTT broker.
    Mqtt,
    /// Standard output, one line of JSON per message.
    Stdout,
    /// A file, to which one line of JSON per message is appended.
    File,
    /// Nowhere: messages are discarded.
    Null,
}

impl SinkKind {
    /// The name in the settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Mqtt => "mqtt",
            Self::Stdout => "stdout",
            Self::File => "file",
            Self::Null => "null",
        }
    }
}

/// Format of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON.
    Json,
    /// Protobuf.
    Protobuf,
}

impl Format {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => headers::APPLICATION_JSON,
            Self::Protobuf => headers::APPLICATION_PROTOBUF,
        }
    }
}

/// Section `anomaly`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnomalyConfig {
    /// Share of all readings that are anomalous, 0 to 0.1.
    pub rate: f64,
    /// How that share is divided among the kinds that a sensor can have.
    pub kinds: KindWeights,
    /// How many readings an anomaly other than a spike lasts.
    pub readings: u32,
    /// File of the ground truth; empty for none.
    pub truth_file: String,
}

impl Default for AnomalyConfig {
    fn default() -> Self {
        Self {
            rate: 0.001,
            kinds: KindWeights::default(),
            readings: 20,
            truth_file: String::new(),
        }
    }
}

impl AnomalyConfig {
    pub(crate) fn weight(&self, kind: Kind) -> f64 {
        let kinds = &self.kinds;
        match kind {
            Kind::Spike => kinds.spike,
            Kind::Stuck => kinds.stuck,
            Kind::Drift => kinds.drift,
            Kind::Dropout => kinds.dropout,
            Kind::Toggling => kinds.toggling,
        }
    }
}

/// Section `anomaly.kinds`: weights, 0 for never.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KindWeights {
    /// One value is far off.
    pub spike: f64,
    /// The value does not change.
    pub stuck: f64,
    /// The value moves away, a little more with each reading.
    pub drift: f64,
    /// There are no readings.
    pub dropout: f64,
    /// A switch changes with each reading.
    pub toggling: f64,
}

impl Default for KindWeights {
    fn default() -> Self {
        Self {
            spike: 1.0,
            stuck: 1.0,
            drift: 1.0,
            dropout: 1.0,
            toggling: 1.0,
        }
    }
}

/// Section `run`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Stop after this many messages; 0 for no limit.
    pub messages: u64,
    /// Stop after this time; 0 for no limit.
    pub duration: HumanDuration,
    /// Conditions on the figures of the run, such as `drops>0`. If one holds at the
    /// end, the run has failed.
    pub fail_when: Vec<Condition>,
    /// Whether the figures are printed to standard output at the end, as JSON.
    pub json: bool,
}

/// Section `kafka`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Bootstrap brokers, `host:port`.
    pub brokers: Vec<String>,
    /// Encryption and login.
    pub security: KafkaSecurity,
    /// Topic.
    pub topic: String,
    /// Number of partitions if the topic is created; an existing topic keeps its own.
    pub partitions: u16,
    /// Number of replicas if the topic is created; -1 for the broker's default.
    pub replication: i16,
    /// `all` (or `-1`) is the only valid value.
    pub acks: String,
    /// How long a message waits for others to share its batch.
    pub linger: HumanDuration,
    /// Maximum size of a batch before compression.
    pub batch_size: ByteSize,
    /// Maximum number of messages in a batch.
    pub batch_messages: usize,
    /// Compression of batches.
    pub compression: CompressionKind,
    /// Maximum size of the messages that wait for Kafka, in all partitions together;
    /// beyond it messages are dropped and counted.
    pub buffer: ByteSize,
    /// Deadline of one request.
    pub request_timeout: HumanDuration,
    /// How often a batch is retried before it is dropped and counted; -1 for no limit.
    pub retries: i16,
    /// How often to check whether the topic has more partitions.
    pub metadata_refresh: HumanDuration,
    /// What happens to the messages for an unavailable partition.
    pub on_unavailable: OnUnavailable,
}

/// What happens to the messages for an unavailable partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnavailable {
    /// They wait, which preserves the order of each device.
    Hold,
    /// They are sent to another partition and counted.
    Reroute,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["localhost:9092".into()],
            security: KafkaSecurity::default(),
            topic: "device-data".into(),
            partitions: 10,
            replication: -1,
            acks: "all".into(),
            linger: HumanDuration::from_millis(5),
            batch_size: ByteSize::kib(256),
            batch_messages: 1_000,
            compression: CompressionKind::None,
            buffer: ByteSize::mib(32),
            request_timeout: HumanDuration::from_secs(10),
            retries: -1,
            metadata_refresh: HumanDuration::from_secs(30),
            on_unavailable: OnUnavailable::Hold,
        }
    }
}

/// Compression of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressionKind {
    /// No compression.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Section `mqtt`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// Brokers; the first one that answers is used.
    pub brokers: Vec<String>,
    /// Certificates, for brokers with TLS.
    pub tls: TlsConfig,
    /// Template of the topic, with the placeholders `{tenant}` and `{project}`.
    pub topic: String,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Number of connections; a device always uses the same one.
    pub connections: u16,
    /// Prefix of client ids, followed by a random part and the connection's number.
    pub client_id: String,
    /// User name; empty for none.
    pub username: String,
    /// Password.
    pub password: Secret,
    /// File with the password, instead of `password`; read at every connection.
    pub password_file: String,
    /// Maximum number of unacknowledged messages per connection.
    pub in_flight: usize,
    /// Keep-alive.
    pub keep_alive: HumanDuration,
    /// Maximum size of the messages that wait for the broker, in all connections
    /// together; beyond it messages are dropped and counted.
    pub buffer: ByteSize,
    /// Deadline of connecting and of each response of the broker.
    pub request_timeout: HumanDuration,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["mqtt://localhost:1883".into()],
            tls: TlsConfig::default(),
            topic: "mtic/msg/client/realtime/{tenant}/{project}".into(),
            qos: 1,
            connections: 4,
            client_id: "iot-simulator".into(),
            username: String::new(),
            password: Secret::default(),
            password_file: String::new(),
            in_flight: 100,
            keep_alive: HumanDuration::from_secs(60),
            buffer: ByteSize::mib(32),
            request_timeout: HumanDuration::from_secs(10),
        }
    }
}

/// Section `file`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileConfig {
    /// File to append to.
    pub path: String,
}

/// Section `shutdown`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// Deadline for sending the remaining messages during the shutdown.
    pub flush: HumanDuration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            flush: HumanDuration::from_secs(10),
        }
    }
}

impl Settings for SimulatorConfig {
    const SERVICE: &'static str = "iot-simulator";
    const EXAMPLE: &'static str = include_str!("../../../../configs/simulator.yaml");
    const ENV: &'static [(&'static str, &'static str)] = &[
        ("KAFKA_BROKERS", "kafka.brokers"),
        ("KAFKA_TOPIC", "kafka.topic"),
        ("MQTT_URL", "mqtt.brokers"),
    ];
    const ALIASES: Aliases = aliases::ALIASES;
    const LIVE: &'static [&'static str] = &[
        "anomaly.rate",
        "anomaly.kinds",
        "anomaly.readings",
        "fleet.devices",
        "fleet.interval",
        "fleet.paused",
        "fleet.rate",
        "flow",
        "load",
    ];

    fn validate(&self, problems: &mut Problems) {
        check::all(self, problems);
    }

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn ops(&self) -> &OpsConfig {
        &self.ops
    }

    fn http(&self) -> Option<&HttpConfig> {
        (!self.http.listen.is_empty()).then_some(&self.http)
    }
}

#[cfg(test)]
mod tests;
