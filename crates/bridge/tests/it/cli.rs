//! The command line: what a user sees and what the exit code says.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

pub(crate) fn bridge(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iot-bridge"));
    command.env_clear().args(arguments);
    command
}

pub(crate) fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_example_is_a_valid_configuration() {
    let example = bridge(&["config", "example"]).output().unwrap();
    assert_eq!(example.status.code(), Some(0));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.yaml");
    std::fs::write(&file, example.stdout).unwrap();
    let checked = bridge(&["check-config", "--config", file.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
}

#[test]
fn the_effective_configuration_has_every_layer_and_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.yaml");
    std::fs::write(
        &file,
        "kafka:\n  linger: 20ms\nmqtt:\n  username: me\n  password: hunter2\n",
    )
    .unwrap();
    let checked = bridge(&["check-config", "--config", file.to_str().unwrap()])
        .args(["--set", "mqtt.qos=2"])
        .env("KAFKA_BROKERS", "kafka-1:9092,kafka-2:9092")
        .env("IOT_MQTT__CLIENT_ID", "bridge-7")
        .env("IOT_KAFKA__SECURITY__PROTOCOL", "SASL_PLAINTEXT")
        .env("IOT_KAFKA__SECURITY__USERNAME", "me")
        .env("IOT_KAFKA__SECURITY__PASSWORD", "hunter2")
        .output()
        .unwrap();
    let (stdout, _) = text(&checked);
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
fn every_problem_is_named_and_the_exit_code_is_2() {
    for command in ["check-config", "run"] {
        let refused = bridge(&[command, "--set", "kafka.lingr=1s", "--set", "mqtt.qos=7"])
            .env("MQTT_URL", "mqtt://user:hunter2@broker")
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2));
        let (_, stderr) = text(&refused);
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
fn a_route_is_shown_or_the_reason_why_not() {
    let route = |topic| bridge(&["route", topic]).output().unwrap();
    let good = route("mtic/msg/client/realtime/tenant123/project456");
    assert_eq!(good.status.code(), Some(0));
    assert_eq!(
        text(&good).0,
        "topic: tenant123.project456\nkey:   project456\n"
    );
    let bad = route("mtic/msg/client/realtime/iot/dead-letter");
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad).0.contains("reserved_topic"));
}

#[test]
fn arguments_of_tools_that_make_no_sense_are_refused_with_2() {
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
        let refused = bridge(&arguments).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {refused:?}");
        let (_, stderr) = text(&refused);
        for problem in problems {
            assert!(stderr.contains(problem), "{problem} is not in:\n{stderr}");
        }
    }
}

#[test]
fn dead_letters_are_not_replayed_to_where_they_are() {
    let refused = bridge(&["dead-letters", "replay", "--to-topic", "iot.dead-letter"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).1.contains("dead letters of dead letters"));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let printed = bridge(&["completions", shell]).output().unwrap();
        assert_eq!(printed.status.code(), Some(0));
        let script = text(&printed).0;
        for word in ["dead-letters", "replay", "topics", "health"] {
            assert!(script.contains(word), "{word} is not completed in {shell}");
        }
    }
}

#[test]
fn health_is_what_the_running_service_says() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let set = format!("ops.listen={address}");
    let asked = bridge(&["health", "--set", &set]).output().unwrap();
    assert_eq!(asked.status.code(), Some(1));
    assert!(text(&asked).1.contains(&address));
}

/// A process that is killed with the test.
struct Running(Child);

impl Running {
    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(file: &Path) -> (Running, impl FnMut(&str)) {
    let mut child = bridge(&["run", "--config", file.to_str().unwrap()])
        .args([
            "--set",
            "ops.listen=127.0.0.1:0",
            "--set",
            "log.format=json",
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let until = move |wanted: &str| {
        let found = lines
            .by_ref()
            .map(Result::unwrap)
            .any(|line| line.contains(wanted));
        assert!(found, "the log ended without {wanted:?}");
    };
    (Running(child), until)
}

#[test]
fn a_hangup_reloads_the_file_and_a_termination_ends_with_0() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.yaml");
    std::fs::write(&file, "mqtt:\n  brokers: [\"mqtt://127.0.0.1:1\"]\n").unwrap();
    let (mut running, mut log_until) = start(&file);
    log_until("not ready");

    std::fs::write(&file, "log:\n  level: loud\n  colour: red\n").unwrap();
    running.signal("-HUP");
    log_until("the new configuration is not valid");

    std::fs::write(
        &file,
        "log:\n  level: debug\nmqtt:\n  brokers: [\"mqtt://127.0.0.1:2\"]\n",
    )
    .unwrap();
    running.signal("-HUP");
    log_until("restart to apply it");
    log_until("configuration reloaded");

    running.signal("-TERM");
    log_until("stopped");
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}
