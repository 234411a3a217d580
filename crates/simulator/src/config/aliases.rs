//! Other names of settings. docs/simulator.md lists them.

use iot_service::config::{Alias, Aliases};
use serde_json::Value;

/// A batch size without a unit is in bytes from this value on, and in messages below it, because
/// producers differ.
const LEAST_BYTES: u64 = 10_000;

const QUEUE: Alias = Alias::Nothing(
    "kafka.buffer and mqtt.buffer limit the bytes that wait, over all partitions or connections",
);
const FLUSH: Alias = Alias::Nothing("a batch is sent after kafka.linger at the latest");
const CLIENT_ID: Alias = Alias::Nothing("the Kafka client has a name of its own");

/// The names of the fleet in some sections, and those of the producer in others. A section is
/// empty for the root, and ends with a dot otherwise.
macro_rules! in_sections {
    ([$($fleet:literal),*], [$($producer:literal),*], [$($other:expr),* $(,)?]) => {
        &[
            $(
                (concat!($fleet, "device_count"), Alias::Of("fleet.devices")),
                (concat!($fleet, "sample_interval"), Alias::Of("fleet.interval")),
                (concat!($fleet, "data_variation"), Alias::Of("sensors.variation")),
                (concat!($fleet, "anomaly_rate"), Alias::Of("anomaly.rate")),
                (concat!($fleet, "trend_enabled"), Alias::Of("sensors.trend_enabled")),
                (concat!($fleet, "trend_strength"), Alias::Of("sensors.trend_strength")),
                (concat!($fleet, "worker_pool_size"), Alias::Of("fleet.workers")),
                (concat!($fleet, "queue_buffer_size"), QUEUE),
            )*
            $(
                (concat!($producer, "brokers"), Alias::Of("kafka.brokers")),
                (concat!($producer, "topic"), Alias::Of("kafka.topic")),
                (concat!($producer, "client_id"), CLIENT_ID),
                (concat!($producer, "batch_size"), Alias::Chosen(batch)),
                (concat!($producer, "batch_timeout"), Alias::Of("kafka.linger")),
                (concat!($producer, "compression"), Alias::Of("kafka.compression")),
                (concat!($producer, "max_retries"), Alias::Of("kafka.retries")),
                (concat!($producer, "retry_backoff"), Alias::Of("retry.backoff")),
                (concat!($producer, "required_acks"), Alias::Made("kafka.acks", acks)),
                (concat!($producer, "flush_frequency"), FLUSH),
                (concat!($producer, "channel_buffer_size"), QUEUE),
            )*
            $($other),*
        ]
    };
}

pub(super) const ALIASES: Aliases = in_sections!(
    ["", "simulator.", "device."],
    ["", "producer.", "kafka.producer."],
    [
        ("kafka.client_id", CLIENT_ID),
        ("kafka.batch_timeout", Alias::Of("kafka.linger")),
        ("kafka.max_retries", Alias::Of("kafka.retries")),
        ("kafka.retry_backoff", Alias::Of("retry.backoff")),
        ("kafka.required_acks", Alias::Made("kafka.acks", acks)),
        ("kafka.flush_frequency", FLUSH),
        ("kafka.channel_buffer_size", QUEUE),
        ("producer.worker_pool_size", Alias::Of("fleet.workers")),
        ("producer.queue_buffer_size", QUEUE),
    ]
);

/// A batch of so many bytes or messages.
fn batch(given: &Value) -> (&'static str, Value) {
    let number = given.as_str().and_then(|text| text.parse().ok());
    match number.or_else(|| given.as_u64()) {
        Some(messages) if messages < LEAST_BYTES => ("kafka.batch_messages", messages.into()),
        _ => ("kafka.batch_size", given.clone()),
    }
}

/// `-1` and names that other clients have for it are `all`. Anything else is refused later.
fn acks(given: &Value) -> Value {
    let text = given.as_str().map(str::to_ascii_lowercase);
    match text.as_deref() {
        Some("-1" | "waitforall" | "wait_for_all") => "all".into(),
        _ => given.clone(),
    }
}

#[cfg(test)]
mod tests {
    use iot_service::config::{ByteSize, HumanDuration, Settings as _, Sources, load};

    use super::*;
    use crate::config::{CompressionKind, SimulatorConfig};

    fn read(yaml: &str, env: &[(&str, &str)]) -> Result<SimulatorConfig, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), yaml).unwrap();
        let env = env.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let sources = Sources {
            file: Some(file.path().into()),
            env: env.collect(),
            ..Sources::default()
        };
        load(&sources).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_complete_file_in_other_names_loads() {
        let complete = include_str!("other-names.yaml");
        let config = read(complete, &[]).unwrap();
        assert_eq!((config.fleet.devices, config.fleet.workers), (500, 50));
        assert_eq!(config.fleet.interval, HumanDuration::from_secs(3));
        assert_eq!((config.sensors.variation, config.anomaly.rate), (0.5, 0.05));
        let trend = (config.sensors.trend_enabled, config.sensors.trend_strength);
        assert_eq!(trend, (true, 0.3));
        let kafka = &config.kafka;
        assert_eq!(kafka.brokers, ["k1:9092", "k2:9092", "k3:9092"]);
        assert_eq!((&*kafka.topic, &*kafka.acks), ("iot-sensor-data", "all"));
        assert_eq!(kafka.batch_size, ByteSize(16_384));
        assert_eq!(kafka.linger, HumanDuration::from_millis(10));
        assert_eq!(kafka.compression, CompressionKind::Snappy);
        assert_eq!(kafka.retries, 3);
        let backoff = HumanDuration::from_millis(250);
        assert_eq!(config.retry.backoff, backoff);
        // The same without sections, or in other ones.
        let flat: String = complete
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(read(&flat, &[]).as_ref(), Ok(&config));
        let other = complete.replace("simulator:", "device:");
        assert_eq!(read(&other, &[]).as_ref(), Ok(&config));
        let other = complete
            .replace("producer:", "kafka:")
            .replace("  batch_size: 16384\n", "");
        let mut without = config.clone();
        without.kafka.batch_size = SimulatorConfig::default().kafka.batch_size;
        assert_eq!(read(&other, &[]), Ok(without));
    }

    #[test]
    fn variables_have_other_names_too() {
        let env = [
            ("IOT_DEVICE_COUNT", "7"),
            ("IOT_PRODUCER__BROKERS", r#"["a:1","b:2"]"#),
            ("IOT_PRODUCER__BATCH_SIZE", "500"),
            ("IOT_REQUIRED_ACKS", "-1"),
        ];
        let config = read("", &env).unwrap();
        assert_eq!(
            (config.fleet.devices, config.kafka.batch_messages),
            (7, 500)
        );
        assert_eq!(
            (&*config.kafka.brokers, &*config.kafka.acks),
            (&["a:1".to_owned(), "b:2".into()][..], "all")
        );
    }

    #[test]
    fn problems_name_what_was_given() {
        for (yaml, expected) in [
            (
                "required_acks: 1\n",
                "kafka.acks (required_acks): must be all",
            ),
            (
                "producer: {required_acks: NoResponse}\n",
                "kafka.acks (producer.required_acks): must be all",
            ),
            (
                "max_retries: 11\n",
                "kafka.retries (max_retries): must be from 0 to 10",
            ),
            (
                "anomaly_rate: 0.2\n",
                "anomaly.rate (anomaly_rate): must be from 0 to 0.1",
            ),
            (
                "device_cuont: 5\n",
                "device_cuont: unknown setting, did you mean \"device_count\"?",
            ),
            (
                "producer: {topics: x}\n",
                "producer.topics: unknown setting, known here: brokers, topic",
            ),
            ("producer: {topics: x}\n", "did you mean \"topic\"?"),
            (
                "kafka: {retry_backof: 1s}\n",
                "did you mean \"retry_backoff\"?",
            ),
            (
                "device_count: 5\nfleet: {devices: 6}\n",
                "device_count: is another name of fleet.devices, and both are given different values",
            ),
            (
                "topic: a\nproducer: {topic: b}\n",
                "producer.topic: is another name of kafka.topic",
            ),
        ] {
            let found = read(yaml, &[]).unwrap_err();
            assert!(found.contains(expected), "{expected} is not in:\n{found}");
        }
        let equal = "device_count: 5\nfleet: {devices: 5}\nsimulator: {device_count: '5'}\n";
        assert_eq!(read(equal, &[]).unwrap().fleet.devices, 5);
    }

    #[test]
    fn what_another_name_stands_for_is_a_setting() {
        let settings = serde_json::to_value(SimulatorConfig::default()).unwrap();
        let chosen = ["500", "16384"].map(|given| batch(&given.into()).0);
        let targets = SimulatorConfig::ALIASES
            .iter()
            .filter_map(|(_, alias)| match alias {
                Alias::Of(path) | Alias::Made(path, _) => Some(*path),
                Alias::Chosen(_) | Alias::Nothing(_) => None,
            });
        for path in targets.chain(chosen) {
            let pointer = format!("/{}", path.replace('.', "/"));
            assert!(settings.pointer(&pointer).is_some(), "{path}");
        }
        for (name, _) in SimulatorConfig::ALIASES {
            let pointer = format!("/{}", name.replace('.', "/"));
            assert!(settings.pointer(&pointer).is_none(), "{name} is a setting");
        }
    }
}
