//! Checks of settings that their types do not express.

use std::collections::HashSet;
use std::time::Duration;

use iot_core::route;
use iot_kafka::security::{Client, check_brokers};
use iot_mqtt::MqttUrl;
use iot_service::config::{ByteSize, HumanDuration, Problems};

use super::{
    AnomalyConfig, FleetConfig, Format, KafkaConfig, KindWeights, LoadConfig, MqttConfig,
    SensorsConfig, Shape, SimulatorConfig, SinkKind,
};
use crate::lane::MIN_LANE_BYTES;
use crate::sensors;

/// Smallest and largest batch in bytes: room for a message of five readings with its key and
/// headers, and Kafka's default limit minus some framing.
const BATCH: std::ops::RangeInclusive<u64> = 1_024..=1_000_000;
/// Smallest buffer, and the smallest share of it for each partition or connection: below
/// this a lane holds only the message in flight and drops all others.
const MIN_BUFFER: ByteSize = ByteSize::kib(64);
const MIN_LANE_BUFFER: ByteSize = ByteSize(MIN_LANE_BYTES as u64);
/// Each takes 32 bytes.
const MAX_HELD_BACK: u32 = 10_000_000;
/// MQTT packet identifiers are 1 to 65,535.
const MAX_IN_FLIGHT: usize = 65_535;
/// Shortest interval of a device.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Each profile has a schedule of its own in each worker.
const MAX_PROFILES: usize = 20;
/// Device numbers have six digits, so that ids sort by number.
const MAX_NUMBER: u32 = 1_000_000;

/// Adds all problems of the settings.
pub(super) fn all(config: &SimulatorConfig, problems: &mut Problems) {
    config.fleet.validate(problems);
    config.load.validate(problems);
    within(
        problems,
        "flow.throttle_above",
        config.flow.throttle_above,
        1.0,
    );
    let flow = &config.flow;
    within(problems, "flow.throttled_rate", flow.throttled_rate, 1.0);
    within(problems, "flow.drop_rate", flow.drop_rate, 1.0);
    if flow.held_back > MAX_HELD_BACK {
        let message = format!("must be at most {MAX_HELD_BACK}");
        problems.add("flow.held_back", message);
    }
    not_zero(problems, "retry.backoff", config.retry.backoff);
    if config.retry.max_backoff < config.retry.backoff {
        problems.add("retry.max_backoff", "must be at least retry.backoff");
    }
    if !(1..=1_000).contains(&config.circuit.failures) {
        problems.add("circuit.failures", "must be from 1 to 1000");
    }
    not_zero(problems, "circuit.open_for", config.circuit.open_for);
    config.sensors.validate(problems);
    config.anomaly.validate(problems);
    config.kafka.validate(problems);
    config.mqtt.validate(problems);
    if matches!(config.sink, SinkKind::File | SinkKind::Stdout) && config.format != Format::Json {
        problems.add("format", "must be json for the sinks stdout and file");
    }
    if config.sink == SinkKind::Stdout && config.run.json {
        let message = "must be false for the sink stdout; the figures are in the log";
        problems.add("run.json", message);
    }
    if config.sink == SinkKind::File && config.file.path.is_empty() {
        problems.add("file.path", "is required for the sink file");
    }
}

impl FleetConfig {
    fn validate(&self, problems: &mut Problems) {
        if !(1..=100_000).contains(&self.devices) {
            problems.add("fleet.devices", "must be from 1 to 100000");
        }
        if self.first_device.saturating_add(self.devices) > MAX_NUMBER {
            let message = format!("the last device must be below number {MAX_NUMBER}");
            problems.add("fleet.first_device", message);
        }
        if *self.interval < MIN_INTERVAL {
            problems.add("fleet.interval", "must be at least 100ms");
        }
        if self.workers > 1_000 {
            problems.add("fleet.workers", "must be at most 1000");
        }
        if !self.id_prefix.is_empty() && !route::is_name(&self.id_prefix) {
            let message = "must consist of letters, digits, _ and -";
            problems.add("fleet.id_prefix", message);
        }
        self.validate_profiles(problems);
        for (path, names) in [
            ("fleet.tenants", &self.tenants),
            ("fleet.projects", &self.projects),
        ] {
            if names.is_empty() {
                problems.add(path, "must not be empty");
            }
            for name in names.iter().filter(|name| !route::is_name(name)) {
                let message = format!("{name:?} must consist of letters, digits, _ and -");
                problems.add(path, message);
            }
        }
    }

    fn validate_profiles(&self, problems: &mut Problems) {
        if self.profiles.len() > MAX_PROFILES {
            let message = format!("must be at most {MAX_PROFILES}");
            problems.add("fleet.profiles", message);
        }
        let mut names = HashSet::new();
        for (index, profile) in self.profiles.iter().enumerate() {
            let path = |field: &str| format!("fleet.profiles[{index}].{field}");
            if !names.insert(&profile.name) || !route::is_name(&profile.name) {
                let message = "must consist of letters, digits, _ and -, and must be unique";
                problems.add(path("name"), message);
            }
            if !(1..=1_000_000).contains(&profile.weight) {
                problems.add(path("weight"), "must be from 1 to 1000000");
            }
            check_sensors(&path("sensors"), &profile.sensors, problems);
            if profile
                .interval
                .is_some_and(|interval| *interval < MIN_INTERVAL)
            {
                problems.add(path("interval"), "must be at least 100ms");
            }
        }
    }
}

impl LoadConfig {
    fn validate(&self, problems: &mut Problems) {
        within(problems, "load.least", self.least, 1.0);
        if *self.period < Duration::from_secs(1) {
            problems.add("load.period", "must be at least 1s");
        }
        if !(1..=1_000).contains(&self.steps) {
            problems.add("load.steps", "must be from 1 to 1000");
        }
        not_zero(problems, "load.burst", self.burst);
        if self.shape == Shape::Burst && self.burst > self.period {
            problems.add("load.burst", "must be at most load.period");
        }
    }
}

/// Sensors must be known and unique.
fn check_sensors(path: &str, names: &[String], problems: &mut Problems) {
    let mut seen = HashSet::new();
    for name in names {
        if sensors::find(name).is_none() {
            let known: Vec<_> = sensors::PROFILES.iter().map(|p| p.name).collect();
            let message = format!("unknown sensor {name:?}; known are {}", known.join(", "));
            problems.add(path, message);
        }
        if !seen.insert(name) {
            problems.add(path, format!("{name:?} is listed twice"));
        }
    }
}

impl SensorsConfig {
    fn validate(&self, problems: &mut Problems) {
        if self.enabled.is_empty() {
            problems.add("sensors.enabled", "must not be empty");
        }
        check_sensors("sensors.enabled", &self.enabled, problems);
        within(problems, "sensors.trend_strength", self.trend_strength, 1.0);
        within(problems, "sensors.variation", self.variation, 1.0);
        for (name, sensor) in self.normal() {
            let path = |field: &str| format!("sensors.{name}.{field}");
            if let Some((least, most)) = sensors::find(name).map(|profile| profile.bounds) {
                if !(least..=most).contains(&sensor.mean) {
                    problems.add(path("mean"), format!("must be from {least} to {most}"));
                }
                within(problems, &path("deviation"), sensor.deviation, most - least);
            }
            within(problems, &path("own_level"), sensor.own_level, 1.0);
        }
    }
}

impl AnomalyConfig {
    fn validate(&self, problems: &mut Problems) {
        within(problems, "anomaly.rate", self.rate, 0.1);
        let KindWeights {
            spike,
            stuck,
            drift,
            dropout,
            toggling,
        } = self.kinds;
        for (path, weight) in [
            ("anomaly.kinds.spike", spike),
            ("anomaly.kinds.stuck", stuck),
            ("anomaly.kinds.drift", drift),
            ("anomaly.kinds.dropout", dropout),
            ("anomaly.kinds.toggling", toggling),
        ] {
            within(problems, path, weight, 1_000.0);
        }
        if !(2..=100_000).contains(&self.readings) {
            problems.add("anomaly.readings", "must be from 2 to 100000");
        }
    }
}

impl KafkaConfig {
    fn validate(&self, problems: &mut Problems) {
        check_brokers(&self.brokers, problems);
        // rskafka always has TLS and SCRAM.
        self.security.validate(Client::Complete, problems);
        let topic = self.topic.as_bytes();
        let legal = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        if topic.is_empty() || topic.len() > route::MAX_TOPIC_LENGTH || !topic.iter().all(legal) {
            problems.add("kafka.topic", "is not a valid Kafka topic name");
        }
        if !(1..=10_000).contains(&self.partitions) {
            problems.add("kafka.partitions", "must be from 1 to 10000");
        }
        if self.replication != -1 && self.replication < 1 {
            let message = "must be at least 1, or -1 for the broker's default";
            problems.add("kafka.replication", message);
        }
        if !matches!(self.acks.as_str(), "all" | "-1") {
            let message = "must be all: the simulator's Kafka client always waits for all \
                           in-sync replicas, so 0 and 1 would have no effect";
            problems.add("kafka.acks", message);
        }
        if !BATCH.contains(&self.batch_size.0) {
            let message = format!("must be from {} to {} bytes", BATCH.start(), BATCH.end());
            problems.add("kafka.batch_size", message);
        }
        if !(1..=1_000_000).contains(&self.batch_messages) {
            problems.add("kafka.batch_messages", "must be from 1 to 1000000");
        }
        check_buffer(problems, "kafka.buffer", self.buffer, self.partitions);
        if self.buffer < self.batch_size {
            let message = format!("must be at least {}, kafka.batch_size", self.batch_size);
            problems.add("kafka.buffer", message);
        }
        not_zero(problems, "kafka.request_timeout", self.request_timeout);
        if !(-1..=10).contains(&self.retries) {
            problems.add("kafka.retries", "must be from 0 to 10, or -1 for no limit");
        }
        not_zero(problems, "kafka.metadata_refresh", self.metadata_refresh);
    }
}

impl MqttConfig {
    fn validate(&self, problems: &mut Problems) {
        if self.brokers.is_empty() {
            problems.add("mqtt.brokers", "must not be empty");
        }
        for broker in &self.brokers {
            if let Err(error) = broker.parse::<MqttUrl>() {
                problems.add("mqtt.brokers", format!("{broker:?}: {error}"));
            }
        }
        self.tls.validate(&self.brokers, problems);
        let wildcard = self.topic.contains(['+', '#', '\0']);
        if self.topic.is_empty() || wildcard || self.topic.len() > 1_000 {
            problems.add("mqtt.topic", "is not a valid topic to publish to");
        }
        if self.qos > 2 {
            problems.add("mqtt.qos", "must be 0, 1 or 2");
        }
        if !(1..=1_000).contains(&self.connections) {
            problems.add("mqtt.connections", "must be from 1 to 1000");
        }
        if !(1..=MAX_IN_FLIGHT).contains(&self.in_flight) {
            let message = format!("must be from 1 to {MAX_IN_FLIGHT}");
            problems.add("mqtt.in_flight", message);
        }
        let seconds = self.keep_alive.as_secs();
        if !(1..=65_535).contains(&seconds) {
            problems.add("mqtt.keep_alive", "must be from 1s to 65535s");
        }
        check_buffer(problems, "mqtt.buffer", self.buffer, self.connections);
        if !self.password.is_empty() && !self.password_file.is_empty() {
            problems.add("mqtt.password_file", "set either this or mqtt.password");
        }
        let has_password = !self.password.is_empty() || !self.password_file.is_empty();
        if self.username.is_empty() && has_password {
            problems.add("mqtt.username", "is required with a password");
        }
        not_zero(problems, "mqtt.request_timeout", self.request_timeout);
    }
}

fn within(problems: &mut Problems, path: &str, value: f64, most: f64) {
    if !(0.0..=most).contains(&value) {
        problems.add(path, format!("must be from 0 to {most}"));
    }
}

/// The buffer of all lanes together.
fn check_buffer(problems: &mut Problems, path: &str, buffer: ByteSize, lanes: u16) {
    let least = MIN_BUFFER.max(ByteSize(MIN_LANE_BUFFER.0 * u64::from(lanes)));
    if buffer < least {
        let message = format!(
            "must be at least {least}: {MIN_BUFFER}, and {MIN_LANE_BUFFER} for each of {lanes} lanes"
        );
        problems.add(path, message);
    }
}

fn not_zero(problems: &mut Problems, path: &str, duration: HumanDuration) {
    if duration.is_zero() {
        problems.add(path, "must be more than 0s");
    }
}
