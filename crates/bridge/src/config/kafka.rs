//! Section `kafka`.

use std::collections::BTreeMap;

use iot_service::config::{ByteSize, HumanDuration, Problems};
use serde::{Deserialize, Serialize};

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

impl KafkaConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.brokers.is_empty() {
            problems.add("kafka.brokers", "needs at least one host:port");
        }
        for name in self.properties.keys() {
            if OWNED.contains(&name.as_str()) {
                let message = "has a setting of its own, or delivery rests on it";
                problems.add(format!("kafka.properties.{name}"), message);
            }
        }
        if !(1..=8 << 20).contains(&self.max_message_bytes.0) {
            problems.add("kafka.max_message_bytes", "must be between 1 and 8 MiB");
        }
    }
}
