//! The command line: what a user sees and what the exit code says.

use testkit::port::free_address;
use testkit::process::Program;

pub(crate) fn bridge(arguments: &[&str]) -> Program {
    Program::new(env!("CARGO_BIN_EXE_iot-bridge")).args(arguments)
}

#[test]
fn the_example_is_a_valid_configuration() {
    let example = bridge(&["config", "example"]).run_sync();
    assert_eq!(example.code, Some(0));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.yaml");
    std::fs::write(&file, example.stdout).unwrap();
    let checked = bridge(&["check-config", "--config", file.to_str().unwrap()]).run_sync();
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn the_effective_configuration_merges_all_layers_and_redacts_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.yaml");
    std::fs::write(
        &file,
        "kafka:\n  linger: 20ms\nmqtt:\n  username: me\n  password: hunter2\n",
    )
    .unwrap();
    let checked = bridge(&["check-config", "--config", file.to_str().unwrap()])
        .set("mqtt.qos", 2)
        .env("KAFKA_BROKERS", "kafka-1:9092,kafka-2:9092")
        .env("IOT_MQTT__CLIENT_ID", "bridge-7")
        .env("IOT_KAFKA__SECURITY__PROTOCOL", "SASL_PLAINTEXT")
        .env("IOT_KAFKA__SECURITY__USERNAME", "me")
        .env("IOT_KAFKA__SECURITY__PASSWORD", "hunter2")
        .run_sync();
    let stdout = checked.stdout;
    for line in [
        "linger: \"20ms\"",
        "qos: 2",
        "brokers: [\"kafka-1:9092\",\"kafka-2:9092\"]",
        "client_id: \"bridge-7\"",
        "password: \"[redacted]\"",
        "protocol: \"sasl_plaintext\"",
    ] {
        assert!(stdout.contains(line), "{line} is not in:\n{stdout}");
    }
    assert!(!stdout.contains("hunter2"));
}

#[test]
fn overlapping_filters_are_a_warning_and_no_problem() {
    let checked = bridge(&["check-config", "--set", "mqtt.filters=a/#,a/b,c/#"]).run_sync();
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let warning = r#"warning: mqtt.filters: "a/#" and "a/b" overlap: "#;
    assert!(checked.stderr.starts_with(warning), "{checked:?}");
    assert_eq!(checked.stderr.lines().count(), 1, "{checked:?}");
}

#[test]
fn every_invalid_setting_is_named_and_the_exit_code_is_2() {
    for command in ["check-config", "run"] {
        let refused = bridge(&[command, "--set", "kafka.lingr=1s", "--set", "mqtt.qos=7"])
            .env("MQTT_URL", "mqtt://user:hunter2@broker")
            .run_sync();
        assert_eq!(refused.code, Some(2));
        let stderr = refused.stderr;
        for problem in [
            "kafka.lingr",
            "did you mean \"linger\"?",
            "mqtt.qos",
            "mqtt.brokers (MQTT_URL)",
        ] {
            assert!(stderr.contains(problem), "{problem} is not in:\n{stderr}");
        }
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[test]
fn route_prints_topic_and_key_or_the_reason_for_refusal() {
    let route = |topic| bridge(&["route", topic]).run_sync();
    let good = route("mtic/msg/client/realtime/tenant123/project456");
    assert_eq!(good.code, Some(0));
    assert_eq!(
        good.stdout,
        "topic: tenant123.project456\nkey:   project456\n"
    );
    let bad = route("mtic/msg/client/realtime/iot/dead-letter");
    assert_eq!(bad.code, Some(1));
    assert!(bad.stdout.contains("reserved_topic"));
}

#[test]
fn invalid_arguments_of_tools_are_rejected_with_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("topics.yaml");
    std::fs::write(&file, "topics: [{name: x, partitons: 3}, {name: 'a b'}]\n").unwrap();
    let file = file.to_str().unwrap();
    for (arguments, problems) in [
        (
            vec!["topics", "create", "--file", file],
            vec![
                "topics[0].partitons",
                "topics[1]: \"a b\" is not a Kafka topic",
            ],
        ),
        (
            vec!["topics", "create", "--file", "/nowhere"],
            vec!["/nowhere: can't be read"],
        ),
        (vec!["topics", "create"], vec!["--file"]),
        (
            vec!["dead-letters", "list", "--from", "soon"],
            vec!["\"soon\" is not a time"],
        ),
        (
            vec!["dead-letters", "replay", "--to", "-2"],
            vec!["\"-2\" is not a time"],
        ),
        (
            vec!["dead-letters", "replay", "--from-offset", "12"],
            vec!["\"12\" is not PARTITION:OFFSET"],
        ),
        (
            vec!["dead-letters", "list", "--set", "kafka.lingr=1s"],
            vec!["kafka.lingr (command line): unknown setting"],
        ),
    ] {
        let refused = bridge(&arguments).run_sync();
        assert_eq!(refused.code, Some(2), "{arguments:?}: {refused:?}");
        let stderr = refused.stderr;
        for problem in problems {
            assert!(stderr.contains(problem), "{problem} is not in:\n{stderr}");
        }
    }
}

#[test]
fn dead_letters_are_not_replayed_to_the_dead_letter_topic() {
    let refused = bridge(&["dead-letters", "replay", "--to-topic", "iot.dead-letter"]).run_sync();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("dead letters of dead letters"));
}

#[test]
fn completions_contain_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let printed = bridge(&["completions", shell]).run_sync();
        assert_eq!(printed.code, Some(0));
        let script = printed.stdout;
        for word in ["dead-letters", "replay", "topics", "health"] {
            assert!(script.contains(word), "{word} is not completed in {shell}");
        }
    }
}

#[test]
fn health_fails_when_no_service_answers() {
    let address = free_address().to_string();
    let asked = bridge(&["health"]).set("ops.listen", &address).run_sync();
    assert_eq!(asked.code, Some(1));
    assert!(asked.stderr.contains(&address));
}

#[test]
fn sighup_reloads_the_file_and_sigterm_ends_with_0() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.yaml");
    std::fs::write(&file, "mqtt:\n  brokers: [\"mqtt://127.0.0.1:1\"]\n").unwrap();
    let mut running = bridge(&["run", "--config", file.to_str().unwrap()])
        .set("ops.listen", "127.0.0.1:0")
        .set("log.format", "json")
        .start();
    running.wait_for_log("not ready");

    std::fs::write(&file, "log:\n  level: loud\n  colour: red\n").unwrap();
    running.signal("HUP");
    running.wait_for_log("the new configuration is invalid");

    std::fs::write(
        &file,
        "log:\n  level: debug\nmqtt:\n  brokers: [\"mqtt://127.0.0.1:2\"]\n",
    )
    .unwrap();
    running.signal("HUP");
    running.wait_for_log("restart to apply it");
    running.wait_for_log("configuration reloaded");

    running.signal("TERM");
    running.wait_for_log("stopped");
    assert_eq!(running.ended_sync().code(), Some(0));
}
