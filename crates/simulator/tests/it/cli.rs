//! The binary, as a script uses it.

use std::io::{BufRead, BufReader};

use testkit::http::Ops;
use testkit::port::free_address;
use testkit::process::{Program, Run};
use testkit::stack::{kafka_brokers, unique};
use tokio::net::TcpStream;

fn program(args: &[&str]) -> Program {
    // After the command: settings behind it replace those before it.
    Program::new(env!("CARGO_BIN_EXE_iot-simulator"))
        .args(args)
        .set("ops.listen", "127.0.0.1:0")
        .set("http.listen", "")
}

fn simulator(args: &[&str]) -> Run {
    program(args).run_sync()
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
fn figures_are_printed_as_one_line_of_json() {
    let output = simulator(
        &[
            &RUN[..],
            &["--json", "--fail-when", "drops>0,messages<1000"],
        ]
        .concat(),
    );
    let log = &output.stderr;
    assert_eq!(output.code, Some(0), "{log}");
    let figures = output.json();
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
fn a_missing_topic_is_created_without_an_error() {
    let brokers = format!("kafka.brokers={}", kafka_brokers());
    let topic = format!("kafka.topic={}", unique("simulator-new"));
    let load = ["--messages", "1000", "--rate", "max", "--sink", "kafka"];
    let sets = ["--set", &brokers, "--set", &topic];
    let output = simulator(&[&["run", "--json"][..], &load, &sets].concat());
    let log = &output.stderr;
    let figures = output.json();
    assert_eq!(
        (&figures["messages"], &figures["errors"]),
        (&1_000.into(), &0.into()),
        "{log}"
    );
    assert!(log.contains("topic created"), "{log}");
}

#[test]
fn a_run_fails_if_a_condition_holds() {
    let output = simulator(&[&RUN[..], &["--fail-when", "drops>0,messages>=1000"]].concat());
    let log = &output.stderr;
    assert_eq!(output.code, Some(1), "{log}");
    assert!(log.contains("messages>=1000 holds (it is 1000)"), "{log}");
    assert_eq!(output.stdout, "");
}

#[test]
fn a_run_that_never_reaches_kafka_ends_after_its_duration() {
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
    let log = &output.stderr;
    assert_eq!(output.code, Some(1), "{log}");
    assert!(log.contains("messages<1 holds (it is 0)"), "{log}");
}

/// Runs the binary by a shell, which redirects its standard output.
fn with_stdout(redirection: &str, options: &str) -> Run {
    let binary = env!("CARGO_BIN_EXE_iot-simulator");
    let settings = "--set ops.listen=127.0.0.1:0 --set http.listen=";
    let script = format!("exec {binary} run --rate 1000 {options} {settings} {redirection}");
    Program::new("sh").args(&["-c", &script]).run_sync()
}

#[test]
fn an_output_that_takes_nothing_fails_the_run() {
    for (redirection, expected) in [
        (">/dev/full", "No space left on device"),
        (">&-", "it was closed when the program started"),
        ("1</dev/null", "Bad file descriptor"),
    ] {
        let output = with_stdout(redirection, "--sink stdout --duration 10m");
        let log = &output.stderr;
        assert_eq!(output.code, Some(1), "{redirection}: {log}");
        assert!(log.contains(expected), "{redirection}: {log}");
        assert!(log.contains("1 errors"), "{redirection}: {log}");
    }
    for redirection in [">/dev/full", ">&-", "1</dev/null"] {
        let output = with_stdout(redirection, "--sink null --messages 10 --json");
        let log = &output.stderr;
        assert_eq!(output.code, Some(1), "{redirection}: {log}");
        assert!(log.contains("writing the figures"), "{redirection}: {log}");
        assert!(log.contains("done: "), "{redirection}: {log}");
    }
    let output = with_stdout(">&-", "--sink stdout --fail-when 'errors>0'");
    let log = &output.stderr;
    assert!(log.contains("opening standard output"), "{log}");
    let output = with_stdout(">/dev/null", "--sink stdout --duration 100ms");
    assert_eq!(output.code, Some(0), "{}", output.stderr);
}

#[test]
fn a_run_that_sends_nothing_fails() {
    // Nobody listens on port 1, and nobody answers on a listener that does not accept.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    for (sink, setting) in [
        ("kafka", "kafka.brokers="),
        ("mqtt", "mqtt.brokers=mqtt://"),
    ] {
        for broker in ["127.0.0.1:1", &silent] {
            let setting = format!("{setting}{broker}");
            let run = ["run", "--json", "--duration", "300ms", "--sink", sink];
            let output = simulator(&[&run[..], &["--set", &setting]].concat());
            let log = &output.stderr;
            assert_eq!(output.code, Some(1), "{setting}: {log}");
            assert!(log.contains("no message was confirmed"), "{setting}: {log}");
            let errors = output.json()["errors"].as_u64().unwrap();
            assert!(errors > 0, "{setting}: {log}");
        }
    }
}

#[test]
fn conditions_that_never_or_always_hold_are_rejected() {
    for condition in ["drops>NaN", "drops<inf", "drops>0,", ""] {
        let output = simulator(&[&RUN[..], &["--fail-when", condition]].concat());
        let log = &output.stderr;
        assert_eq!(output.code, Some(2), "{condition}: {log}");
        let is_named = log.contains("run.fail_when") || log.contains("--fail-when");
        assert!(is_named, "{condition}: {log}");
    }
}

#[test]
fn all_invalid_settings_are_reported_at_once() {
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
    let report = &output.stderr;
    assert_eq!(output.code, Some(2), "{report}");
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
fn a_closed_pipe_ends_the_run() {
    let run = ["run", "--sink", "stdout", "--rate", "max"];
    let (mut simulator, stdout) = program(&run).set("fleet.workers", 4).start_piped();
    let mut lines = BufReader::new(stdout);
    let mut line = String::new();
    assert!(lines.read_line(&mut line).unwrap() > 0);
    drop(lines);
    let status = simulator.ended_sync();
    assert!(status.success(), "{status}");
}

/// More connections than the process may have open files, and none of them sends anything.
#[tokio::test]
async fn idle_connections_do_not_make_the_service_unreachable() {
    let address = free_address();
    let ops = format!("ops.listen={address}");
    let binary = env!("CARGO_BIN_EXE_iot-simulator");
    let script = format!(
        "ulimit -n 256; exec {binary} run --sink null --rate 1000 --set {ops} --set http.listen="
    );
    let mut simulator = Program::new("sh").args(&["-c", &script]).start();
    let ops = Ops(address);
    ops.wait_ready().await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    for _ in 0..10 {
        let (status, report) = ops.readyz().await.unwrap();
        assert_eq!(status, 200, "{report}");
    }
    let before = ops.metric("null_producer_messages_total").await.unwrap();
    ops.wait_metric_at_least("null_producer_messages_total", before + 1.0)
        .await;
    assert_eq!(simulator.stop().await, Some(0));
}
