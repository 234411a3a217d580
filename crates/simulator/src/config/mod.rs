//! Settings of the simulator.

mod check;

use std::fmt;
use std::str::FromStr;

use iot_core::headers;
use iot_service::config::{
    ByteSize, HttpConfig, HumanDuration, LogConfig, OpsConfig, Problems, Secret, Settings,
};
use iot_service::kafka::KafkaSecurity;
use iot_service::mqtt::TlsConfig;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::figures::Condition;
use crate::sensors;
use crate::sensors::anomaly::Kind;

/// All settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatorConfig {
    /// Where messages go.
    pub sink: SinkKind,
    /// What they look like.
    pub format: Format,
    /// The devices and how often they send.
    pub fleet: FleetConfig,
    /// How that changes over time.
    pub load: LoadConfig,
    /// What is left out when the sink can't follow.
    pub flow: FlowConfig,
    /// When sending is given up for a while.
    pub circuit: CircuitConfig,
    /// What the devices measure.
    pub sensors: SensorsConfig,
    /// Anomalies in what they measure.
    pub anomaly: AnomalyConfig,
    /// When to end.
    pub run: RunConfig,
    /// Sink `kafka`.
    pub kafka: KafkaConfig,
    /// Sink `mqtt`.
    pub mqtt: MqttConfig,
    /// Sink `file`.
    pub file: FileConfig,
    /// How to stop.
    pub shutdown: ShutdownConfig,
    /// Logs.
    pub log: LogConfig,
    /// Metrics and health.
    pub ops: OpsConfig,
    /// The API that changes the fleet while it runs.
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
            circuit: CircuitConfig::default(),
            sensors: SensorsConfig::default(),
            anomaly: AnomalyConfig::default(),
            run: RunConfig::default(),
            kafka: KafkaConfig::default(),
            mqtt: MqttConfig::default(),
            file: FileConfig::default(),
            shutdown: ShutdownConfig::default(),
            log: LogConfig {
                // The Kafka client logs every attempt; the simulator says
                // itself what changed.
                level: "info,rskafka=off".into(),
                ..LogConfig::default()
            },
            ops: OpsConfig {
                listen: "127.0.0.1:9101".into(),
            },
            http: HttpConfig {
                listen: "127.0.0.1:8081".into(),
            },
        }
    }
}

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// A Kafka topic.
    Kafka,
    /// An MQTT broker.
    Mqtt,
    /// One line of JSON each on standard output.
    Stdout,
    /// One line of JSON each at the end of a file.
    File,
    /// Nowhere.
    Null,
}

impl SinkKind {
    /// Its name, as in the settings.
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

/// What messages look like.
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

/// Section `fleet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetConfig {
    /// Number of devices.
    pub devices: u32,
    /// Number of the first one. Several simulators with ranges that don't
    /// overlap make one fleet.
    pub first_device: u32,
    /// Which of the devices this simulator plays.
    pub shard: Shard,
    /// Device ids are this and the number in six digits.
    pub id_prefix: String,
    /// How often each device sends.
    pub interval: HumanDuration,
    /// Messages a second of the whole fleet: all intervals are made longer or
    /// shorter by the same factor.
    pub rate: Rate,
    /// Whether nobody sends.
    pub paused: bool,
    /// Kinds of devices; none for devices that are all alike.
    pub profiles: Vec<ProfileConfig>,
    /// Seed of all values.
    pub seed: u64,
    /// Tenants that devices are spread over.
    pub tenants: Vec<String>,
    /// Projects that the devices of each tenant are spread over.
    pub projects: Vec<String>,
    /// Tasks that make messages; 0 for one per CPU.
    pub workers: u16,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            devices: 100,
            first_device: 0,
            shard: Shard::default(),
            id_prefix: "device-".into(),
            interval: HumanDuration::from_secs(5),
            rate: Rate::None,
            paused: false,
            profiles: Vec::new(),
            seed: 1,
            tenants: vec!["acme".into(), "globex".into()],
            projects: vec!["plant".into(), "office".into()],
            workers: 0,
        }
    }
}

/// One of `fleet.profiles`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileConfig {
    /// What it is called.
    pub name: String,
    /// Its share of the devices, beside the weights of the others.
    #[serde(default = "one")]
    pub weight: u32,
    /// Sensors, in the order of the readings; none for `sensors.enabled`.
    #[serde(default)]
    pub sensors: Vec<String>,
    /// How often each device sends; none for `fleet.interval`.
    #[serde(default)]
    pub interval: Option<HumanDuration>,
}

fn one() -> u32 {
    1
}

/// Section `load`: what part of the full rate there is, over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadConfig {
    /// The shape.
    pub shape: Shape,
    /// The least part, 0 to 1.
    pub least: f64,
    /// How long a ramp or all steps take, or one wave, or from burst to burst.
    pub period: HumanDuration,
    /// Number of steps.
    pub steps: u32,
    /// How long a burst lasts.
    pub burst: HumanDuration,
}

impl Default for LoadConfig {
    fn default() -> Self {
        Self {
            shape: Shape::Constant,
            least: 0.1,
            period: HumanDuration::from_secs(60),
            steps: 5,
            burst: HumanDuration::from_secs(5),
        }
    }
}

/// The shape of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// The full rate.
    Constant,
    /// From the least to the full rate, and there it stays.
    Ramp,
    /// The same in equal steps.
    Step,
    /// A wave between the least and the full rate.
    Sine,
    /// The full rate for a while, then the least.
    Burst,
}

/// One of several simulators that play a fleet together: `I/N`, I from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

impl Shard {
    /// About its part of what the whole fleet does.
    #[must_use]
    pub fn part_of(self, whole: u64) -> u64 {
        whole / u64::from(self.count.max(1))
    }

    /// Whether this simulator plays the device in this place of the fleet.
    #[must_use]
    pub fn has(self, position: u32) -> bool {
        position % self.count == self.index
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.trim().split_once('/');
        let numbers = parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => Err(format!(
                "{text:?} is not I/N with I from 0 to N-1, such as 0/3, 1/3 and 2/3"
            )),
        }
    }
}

impl Serialize for Shard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Shard {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Messages a second of the whole fleet: `none` (the interval decides), a
/// number, or `max` (as fast as the sink confirms).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// The interval decides.
    None,
    /// So many messages a second.
    PerSecond(f64),
    /// As fast as the sink confirms.
    Max,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Max => f.write_str("max"),
            Self::PerSecond(rate) => write!(f, "{rate}"),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "none" => Ok(Self::None),
            "max" => Ok(Self::Max),
            number => match number.parse::<f64>() {
                Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(Self::PerSecond(rate)),
                _ => Err(format!(
                    "{text:?} is not \"none\", \"max\" or messages a second, above 0"
                )),
            },
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Number(f64),
            Text(String),
        }
        let text = match Given::deserialize(deserializer)? {
            Given::Number(rate) => rate.to_string(),
            Given::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

/// Section `flow`: what is left out, and counted, when the sink is slower than
/// the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfig {
    /// From so full a buffer on, some messages are left out; 1 for not before it
    /// is full, when all are.
    pub throttle_above: f64,
    /// The share of messages that is left out then, 0 to 1.
    pub drop_rate: f64,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            throttle_above: 0.8,
            drop_rate: 0.5,
        }
    }
}

/// Section `circuit`: the circuit breaker that each lane has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitConfig {
    /// So many failures in a row open it.
    pub failures: u32,
    /// How long it is open before a probe.
    pub open_for: HumanDuration,
}

impl Default for CircuitConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            open_for: HumanDuration::from_secs(5),
        }
    }
}

/// Section `sensors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SensorsConfig {
    /// Sensors of every device, in the order of the readings.
    pub enabled: Vec<String>,
    /// Whether values follow the time of day, the weather, the load.
    pub trend_enabled: bool,
    /// Factor on trends, 0 to 1.
    pub trend_strength: f64,
    /// Factor on the deviation of normal values, 0 to 1.
    pub variation: f64,
}

impl Default for SensorsConfig {
    fn default() -> Self {
        let names = sensors::PROFILES.iter().map(|profile| profile.name);
        Self {
            enabled: names.map(str::to_owned).collect(),
            trend_enabled: true,
            trend_strength: 1.0,
            variation: 1.0,
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
    /// How many readings an anomaly lasts that is no spike.
    pub readings: u32,
    /// File to which every anomaly is written; empty for none.
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
    /// One value jumps away.
    pub spike: f64,
    /// The value stays as it was.
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
    /// End after so many messages; 0 for no end.
    pub messages: u64,
    /// End after this time; 0 for no end.
    pub duration: HumanDuration,
    /// Conditions on the run's figures, such as `drops>0`. If one holds at the
    /// end, the run has failed.
    pub fail_when: Vec<Condition>,
    /// Whether the figures go to standard output at the end, as JSON.
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
    /// Partitions of the topic if it has to be created; those of an existing
    /// topic are used as they are.
    pub partitions: u16,
    /// Replicas of the topic if it has to be created; -1 leaves it to the broker.
    pub replication: i16,
    /// `all` is the only choice.
    pub acks: String,
    /// How long a message waits for others to share a batch with.
    pub linger: HumanDuration,
    /// Bytes of a batch before compression.
    pub batch_size: ByteSize,
    /// Messages of a batch.
    pub batch_messages: usize,
    /// Compression of batches.
    pub compression: CompressionKind,
    /// Bytes that may wait for Kafka in all partitions; beyond it messages are
    /// dropped and counted.
    pub buffer: ByteSize,
    /// Deadline of one request.
    pub request_timeout: HumanDuration,
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
        }
    }
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressionKind {
    /// Not at all.
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
    /// Topic, with `{tenant}` and `{project}` in it.
    pub topic: String,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Connections; a device always uses the same one.
    pub connections: u16,
    /// Client ids are this, a random part and the number of the connection.
    pub client_id: String,
    /// User name; empty for none.
    pub username: String,
    /// Password.
    pub password: Secret,
    /// Messages without acknowledgement in one connection.
    pub in_flight: usize,
    /// Keep-alive.
    pub keep_alive: HumanDuration,
    /// Bytes that may wait for the broker in all connections; beyond it
    /// messages are dropped and counted.
    pub buffer: ByteSize,
    /// Deadline for connecting and for each answer of the broker.
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
    /// Deadline for sending what waits when the simulator is told to stop.
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
