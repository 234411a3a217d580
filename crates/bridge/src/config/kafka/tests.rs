use iot_kafka::librdkafka::check_property;

use super::*;

fn problems(settings: &[(&str, &str)]) -> String {
    let sources = iot_service::config::Sources {
        flags: settings
            .iter()
            .map(|(path, value)| ((*path).into(), (*value).into()))
            .collect(),
        ..Default::default()
    };
    match iot_service::config::load::<crate::config::BridgeConfig>(&sources) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn settings_that_break_the_guarantee_need_best_effort() {
    for (path, value, reason) in [
        ("kafka.acks", "1", "is lost when the leader fails"),
        ("kafka.acks", "0", "delivery is unconfirmed"),
        ("kafka.idempotence", "false", "repeats"),
        (
            "kafka.properties.message.timeout.ms",
            "60000",
            "after later ones",
        ),
        (
            "kafka.properties.delivery.timeout.ms",
            "60000",
            "after later ones",
        ),
        ("kafka.properties.retries", "3", "after later ones"),
        (
            "kafka.properties.message.send.max.retries",
            "3",
            "after later ones",
        ),
        (
            "kafka.properties.enable.gapless.guarantee",
            "true",
            "end the producer",
        ),
        (
            "kafka.properties.queuing.strategy",
            "lifo",
            "order they arrived in",
        ),
        ("kafka.properties.partitioner", "random", "lose their order"),
    ] {
        let found = problems(&[(path, value)]);
        let line = found.lines().find(|line| line.starts_with(path));
        let line = line.unwrap_or_else(|| panic!("{path} is not in:\n{found}"));
        assert!(line.contains(reason), "{line}");
        assert!(
            line.ends_with("only with kafka.delivery: best_effort"),
            "{line}"
        );
        // Idempotence itself rules this one out.
        let best_effort = [
            ("kafka.delivery", "best_effort"),
            ("kafka.acks", "1"),
            (path, value),
        ];
        if path != "kafka.properties.enable.gapless.guarantee" {
            assert_eq!(problems(&best_effort), "", "{path}");
        }
    }
}

#[test]
fn idempotence_needs_all_acks_and_few_requests() {
    let found = problems(&[
        ("kafka.delivery", "best_effort"),
        ("kafka.acks", "1"),
        ("kafka.idempotence", "true"),
    ]);
    assert!(
        found.starts_with("kafka.idempotence (command line): needs kafka.acks: all"),
        "{found}"
    );
    assert_eq!(
        problems(&[("kafka.idempotence", "true"), ("kafka.acks", "-1")]),
        ""
    );
    let found = problems(&[("kafka.properties.max.in.flight", "6")]);
    assert!(
        found.contains("max.in.flight") && found.contains("enable.idempotence"),
        "{found}"
    );
}

#[test]
fn reserved_properties_are_rejected_always() {
    for (name, _) in RESERVED.names {
        let path = format!("kafka.properties.{name}");
        let found = problems(&[("kafka.delivery", "best_effort"), (&path, "1")]);
        let expected = format!("{path} (command line): can't be set: ");
        assert!(found.starts_with(&expected), "{found}");
        let known = check_property(name, "1");
        assert!(
            known.is_ok() || !known.unwrap_err().contains("No such"),
            "librdkafka does not know {name}"
        );
    }
}

#[test]
fn unknown_ineffective_and_invalid_properties_are_rejected() {
    for (name, value, reason) in [
        ("linger.mss", "1", "No such configuration property"),
        ("socket.keepalive.enable", "maybe", "Expected bool"),
        ("retry.backoff.ms", "0", "outside allowed range"),
    ] {
        let path = format!("kafka.properties.{name}");
        let found = problems(&[(&path, value)]);
        assert!(
            found.starts_with(&path) && found.contains(reason),
            "{found}"
        );
    }
    for (name, reason) in [
        (
            "fetch.min.bytes",
            "is a consumer property and will be ignored",
        ),
        ("socket.blocking.max.ms", "No longer used"),
    ] {
        let found = problems(&[(&format!("kafka.properties.{name}"), "10")]);
        assert!(found.contains(name) && found.contains(reason), "{found}");
    }
    assert_eq!(
        problems(&[("kafka.properties.socket.keepalive.enable", "true")]),
        ""
    );
}

#[test]
fn sizes_and_times_have_limits() {
    for (path, value) in [
        ("kafka.linger", "10s"),
        ("kafka.batch_size", "0"),
        ("kafka.batch_size", "9 MiB"),
        ("kafka.request_timeout", "10ms"),
        ("kafka.brokers", "kafka"),
        ("kafka.acks", "2"),
        ("kafka.delivery", "maybe"),
    ] {
        let found = problems(&[(path, value)]);
        assert!(found.starts_with(path), "{path}={value}: {found}");
    }
}

#[test]
#[cfg(not(feature = "tls"))]
fn tls_is_rejected_by_a_build_without_it() {
    let found = problems(&[("kafka.security.protocol", "SASL_SSL")]);
    assert!(
        found.contains("kafka.security.protocol (command line): this build has no TLS"),
        "{found}"
    );
}
