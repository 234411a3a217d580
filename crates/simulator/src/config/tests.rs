use super::*;
use iot_service::config::{Sources, load};

fn problems(flags: &[(&str, &str)]) -> String {
    let flags = flags.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    let sources = Sources {
        flags: flags.collect(),
        ..Sources::default()
    };
    load::<SimulatorConfig>(&sources)
        .expect_err("problems")
        .to_string()
}

#[test]
fn the_example_holds_the_defaults() {
    iot_service::config::assert_example::<SimulatorConfig>();
}

#[test]
fn all_limits_are_checked_and_reported_at_once() {
    let wrong = [
        ("fleet.devices", "100001"),
        ("fleet.interval", "99ms"),
        ("fleet.rate", "fast"),
        ("fleet.workers", "1001"),
        ("kafka.retries", "11"),
        ("fleet.shard", "3/3"),
        ("fleet.id_prefix", "a.b"),
        ("fleet.tenants", "a.b"),
        ("fleet.projects", ""),
        ("sensors.enabled", "temperature,temperature,smell"),
        ("sensors.trend_strength", "1.1"),
        ("sensors.variation", "-0.1"),
        ("anomaly.rate", "0.11"),
        ("anomaly.kinds.spike", "-1"),
        ("anomaly.readings", "1"),
        ("kafka.brokers", "somewhere"),
        ("kafka.topic", "a/b"),
        ("kafka.partitions", "0"),
        ("kafka.replication", "0"),
        ("kafka.acks", "1"),
        ("kafka.batch_size", "1023"),
        ("kafka.batch_messages", "0"),
        ("kafka.compression", "rar"),
        ("kafka.buffer", "1 KiB"),
        ("kafka.request_timeout", "0s"),
        ("mqtt.brokers", "http://x,ssl://y"),
        ("mqtt.tls.ca_file", "/missing.pem"),
        ("mqtt.topic", "a/+"),
        ("mqtt.connections", "0"),
        ("mqtt.in_flight", "65536"),
        ("mqtt.keep_alive", "0s"),
        ("mqtt.buffer", "1 KiB"),
        ("mqtt.request_timeout", "0s"),
        ("flow.throttle_above", "1.1"),
        ("flow.throttled_rate", "1.1"),
        ("flow.held_back", "10000001"),
        ("flow.drop_rate", "-1"),
        ("retry.backoff", "0s"),
        ("sensors.pressure.mean", "949"),
        ("sensors.temperature.deviation", "-1"),
        ("sensors.current.own_level", "1.1"),
    ];
    let found = problems(&wrong);
    for (path, _) in wrong {
        assert!(
            found.contains(&format!("{path} (")),
            "{path} is not in:\n{found}"
        );
    }
    // A message names the invalid entry instead of the whole list.
    assert!(
        found.contains("\"http://x\"") && !found.contains("ssl://y"),
        "{found}"
    );
    assert!(found.contains("\"smell\""), "{found}");
}

#[test]
fn settings_that_contradict_each_other_are_rejected() {
    for (wrong, expected) in [
        (
            [("kafka.buffer", "300 KiB"), ("kafka.partitions", "100")],
            "kafka.buffer",
        ),
        (
            [("kafka.buffer", "300 KiB"), ("kafka.batch_size", "400 KiB")],
            "kafka.buffer",
        ),
        (
            [("mqtt.buffer", "1 MiB"), ("mqtt.connections", "1000")],
            "mqtt.buffer",
        ),
        (
            [("retry.backoff", "2s"), ("retry.max_backoff", "1s")],
            "retry.max_backoff",
        ),
        (
            [("mqtt.password", "secret"), ("mqtt.password_file", "/none")],
            "mqtt.password_file",
        ),
        (
            [("mqtt.username", ""), ("mqtt.password", "secret")],
            "mqtt.username",
        ),
        (
            [("kafka.batch_size", "1000001"), ("kafka.buffer", "2 MiB")],
            "kafka.batch_size",
        ),
    ] {
        let found = problems(&wrong);
        assert!(found.contains(&format!("{expected} (")), "{found}");
    }
}

#[test]
fn the_sink_file_requires_a_path_and_json() {
    let found = problems(&[("sink", "file"), ("format", "protobuf")]);
    assert!(
        found.contains("file.path") && found.contains("format ("),
        "{found}"
    );
}

#[test]
fn the_last_device_has_a_limit() {
    let found = problems(&[("fleet.first_device", "4294967295")]);
    assert!(found.contains("fleet.first_device"), "{found}");
}

#[test]
fn a_partial_log_section_keeps_the_other_defaults() {
    let sources = Sources {
        flags: vec![("log.format".into(), "json".into())],
        ..Sources::default()
    };
    let config: SimulatorConfig = load(&sources).unwrap();
    assert_eq!(config.log.level, SimulatorConfig::default().log.level);
    assert_eq!(config.log.format, iot_service::logs::LogFormat::Json);
}

#[test]
fn a_rate_is_a_number_or_a_string() {
    let rate = |json: &str| serde_json::from_str::<Rate>(json).map_err(|error| error.to_string());
    assert_eq!(rate("500"), Ok(Rate::PerSecond(500.0)));
    assert_eq!(rate("\"0.5\""), Ok(Rate::PerSecond(0.5)));
    assert_eq!(rate("\"max\""), Ok(Rate::Max));
    assert!(rate("0").is_err() && rate("\"fast\"").is_err());
}

#[test]
fn both_spellings_of_acks_all_are_accepted() {
    for acks in ["all", "-1"] {
        let sources = Sources {
            flags: vec![("kafka.acks".into(), acks.into())],
            ..Sources::default()
        };
        assert!(load::<SimulatorConfig>(&sources).is_ok());
    }
}
