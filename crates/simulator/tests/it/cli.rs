//! The binary, as a script uses it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::stack::{environment, fresh};

fn simulator(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iot-simulator"))
        .args(["--set", "ops.listen=127.0.0.1:0", "--set", "http.listen="])
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const RUN: [&str; 7] = [
    "run",
    "--sink",
    "null",
    "--rate",
    "max",
    "--messages",
    "1000",
];

#[test]
fn the_figures_of_a_run_are_one_line_of_json() {
    let output = simulator(
        &[
            &RUN[..],
            &["--json", "--fail-when", "drops>0,messages<1000"],
        ]
        .concat(),
    );
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, expected) in [
        ("messages", 1_000),
        ("drops", 0),
        ("drops_refused", 0),
        ("errors", 0),
    ] {
        assert_eq!(figures[name], expected, "{name} of {figures}");
    }
    assert!(figures["send_p99_ms"].as_f64().unwrap() >= 0.0, "{figures}");
}

#[test]
#[ignore = "needs the stack"]
fn a_topic_that_is_missing_is_made_without_an_error() {
    let brokers = format!("kafka.brokers={}", environment("KAFKA_BROKERS"));
    let topic = format!("kafka.topic={}", fresh("simulator-new"));
    let load = ["--messages", "1000", "--rate", "max", "--sink", "kafka"];
    let sets = ["--set", &brokers, "--set", &topic];
    let output = simulator(&[&["run", "--json"][..], &load, &sets].concat());
    let log = text(&output.stderr);
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&figures["messages"], &figures["errors"]),
        (&1_000.into(), &0.into()),
        "{log}"
    );
    assert!(log.contains("topic created"), "{log}");
}

#[test]
fn a_run_fails_when_a_condition_holds() {
    let output = simulator(&[&RUN[..], &["--fail-when", "drops>0,messages>=1000"]].concat());
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("messages>=1000 holds (it is 1000)"), "{log}");
    assert_eq!(output.stdout, b"");
}

#[test]
fn a_run_that_never_reached_kafka_ends_in_time_and_fails_when_asked() {
    let run = [
        "run",
        "--duration",
        "300ms",
        "--fail-when",
        "messages<1",
        "--set",
    ];
    // Nobody listens on port 1.
    let output = simulator(&[&run[..], &["kafka.brokers=127.0.0.1:1"]].concat());
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("messages<1 holds (it is 0)"), "{log}");
}

#[test]
fn a_dozen_mistakes_are_reported_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("simulator.yaml");
    let mistakes = [
        (
            "fleet.devices",
            "fleet: {devices: 100001, interval: 99ms, shard: 3/3, rate: fast, workers: 1001}",
        ),
        (
            "sensors.enabled",
            "sensors: {enabled: [smell], variation: 1.1, trend_strength: -1}",
        ),
        ("anomaly.rate", "anomaly: {rate: 0.11}"),
        (
            "kafka.compression",
            "kafka: {compression: rar, acks: 1, batch_messages: 0, colour: red}",
        ),
    ];
    let yaml: Vec<_> = mistakes.iter().map(|(_, yaml)| *yaml).collect();
    std::fs::write(&file, yaml.join("\n")).unwrap();
    let output = simulator(&["check-config", "--config", file.to_str().unwrap()]);
    let report = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{report}");
    for path in [
        "fleet.devices",
        "fleet.interval",
        "fleet.shard",
        "fleet.rate",
        "fleet.workers",
        "sensors.enabled",
        "sensors.variation",
        "sensors.trend_strength",
        "anomaly.rate",
        "kafka.compression",
        "kafka.acks",
        "kafka.batch_messages",
        "kafka.colour",
    ] {
        assert!(report.contains(path), "{path} is not in\n{report}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_iot-simulator"))
        .args(["--set", "ops.listen=127.0.0.1:0", "--set", "http.listen="])
        .args([
            "run",
            "--sink",
            "stdout",
            "--rate",
            "max",
            "--set",
            "fleet.workers=4",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    assert!(lines.read_line(&mut line).unwrap() > 0);
    drop(lines);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
}
