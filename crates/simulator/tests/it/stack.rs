//! Against a real Kafka and a real Mosquitto: `scripts/stack up`, then
//! `cargo test -- --ignored` in the environment that it prints.

use std::path::PathBuf;
use std::process::Command;

use iot_core::mqtt_url::MqttUrl;
use iot_service::kafka::{SaslMechanism, SecurityProtocol};
use iot_simulator::config::{CompressionKind, Rate, SinkKind};
use tokio_util::sync::CancellationToken;

use crate::mqtt::{assert_heard, subscribe};
use crate::support::{Simulator, assert_complete, assert_ordered, fleet, read_topic, wait_for};

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/stack up"))
}

/// A name no earlier run used.
fn fresh(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn kafka_gets_a_missing_topic_and_every_message_in_order() {
    let brokers = environment("KAFKA_BROKERS");
    let mut config = fleet(SinkKind::Kafka, 500, 20_000);
    config.kafka.brokers = brokers.split(',').map(str::to_owned).collect();
    config.kafka.topic = fresh("simulator-test");
    config.kafka.compression = CompressionKind::Lz4;
    let topic = config.kafka.topic.clone();
    Simulator::start(config).await.ended().await;
    let arrived = read_topic(&brokers, &topic);
    assert_eq!(arrived.len(), 20_000);
    assert_complete(&arrived, 10);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn kafka_takes_a_login_and_a_certificate() {
    use SecurityProtocol::{SaslPlaintext, SaslSsl, Ssl};
    for (listener, protocol, mechanism) in [
        ("KAFKA_SASL_BROKERS", SaslPlaintext, SaslMechanism::Plain),
        (
            "KAFKA_SASL_TLS_BROKERS",
            SaslSsl,
            SaslMechanism::ScramSha256,
        ),
        (
            "KAFKA_SASL_TLS_BROKERS",
            SaslSsl,
            SaslMechanism::ScramSha512,
        ),
        ("KAFKA_TLS_BROKERS", Ssl, SaslMechanism::Plain),
    ] {
        let mut config = fleet(SinkKind::Kafka, 10, 100);
        config.kafka.brokers = vec![environment(listener)];
        config.kafka.topic = fresh("simulator-secure");
        let security = &mut config.kafka.security;
        security.protocol = protocol;
        security.mechanism = mechanism;
        if protocol.sasl() {
            security.username = environment("KAFKA_USERNAME");
            security.password = environment("KAFKA_PASSWORD").as_str().into();
        } else {
            security.cert_file = environment("KAFKA_CERT_FILE");
            security.key_file = environment("KAFKA_KEY_FILE");
        }
        if protocol.tls() {
            security.ca_file = environment("KAFKA_CERT_FILE");
        }
        let topic = config.kafka.topic.clone();
        Simulator::start(config).await.ended().await;
        let arrived = read_topic(&environment("KAFKA_BROKERS"), &topic);
        assert_eq!(arrived.len(), 100, "{protocol} with {mechanism}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_wrong_password_is_told_and_a_new_one_is_taken() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong\n").unwrap();
    let mut config = fleet(SinkKind::Kafka, 10, 100);
    config.kafka.brokers = vec![environment("KAFKA_SASL_BROKERS")];
    config.kafka.topic = fresh("simulator-secure");
    config.kafka.security.protocol = SecurityProtocol::SaslPlaintext;
    config.kafka.security.username = environment("KAFKA_USERNAME");
    config.kafka.security.password_file = file.path().to_str().unwrap().into();
    let topic = config.kafka.topic.clone();
    let simulator = Simulator::start(config).await;
    wait_for("the refusal of the login", async || {
        let trouble = simulator.trouble("kafka").await;
        trouble.is_some_and(|trouble| trouble.contains("Sasl"))
    })
    .await;
    std::fs::write(file.path(), environment("KAFKA_PASSWORD")).unwrap();
    simulator.ended().await;
    let arrived = read_topic(&environment("KAFKA_BROKERS"), &topic);
    assert_eq!(arrived.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn mosquitto_gets_every_message_in_order() {
    let broker = environment("MQTT_URL");
    let url: MqttUrl = broker.parse().unwrap();
    let root = fresh("simulator-test");
    let mut config = fleet(SinkKind::Mqtt, 200, 0);
    config.mqtt.brokers = vec![broker];
    config.mqtt.topic = format!("{root}/{{tenant}}/{{project}}");
    // Mosquitto keeps 1,000 messages for a slow subscriber and drops more.
    config.fleet.rate = Rate::PerSecond(2_000.0);
    config.run.messages = 10_000;
    let stop = CancellationToken::new();
    let filter = format!("{root}/#");
    let mut heard = subscribe((&url.host, url.port), &filter, stop.clone()).await;
    let simulator = Simulator::start(config).await;
    assert_heard(&mut heard, 10_000).await;
    simulator.ended().await;
    stop.cancel();
}

/// Brokers of a test's own, which it may end.
struct Stack(tempfile::TempDir);

impl Stack {
    fn up() -> Self {
        let stack = Self(tempfile::tempdir().unwrap());
        stack.run(&["up"]);
        stack
    }

    fn run(&self, args: &[&str]) -> String {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut command = Command::new(root.join("scripts/stack"));
        let output = command.args(args).env("STACK_DIR", self.0.path()).output();
        let output = output.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "stack {args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn kafka(&self) -> String {
        let env = self.run(&["env"]);
        let lines = env.lines();
        let mut found = lines.filter_map(|line| line.strip_prefix("export KAFKA_BROKERS="));
        found.next().unwrap().to_owned()
    }

    /// Ends Kafka without a word.
    fn kill_kafka(&self) {
        let pid = self.run(&["status"]);
        let line = pid.lines().find(|line| line.contains("kafka")).unwrap();
        let pid = line
            .split_whitespace()
            .find(|word| word.parse::<u32>().is_ok());
        let killed = Command::new("kill").args(["-9", pid.unwrap()]).status();
        assert!(killed.unwrap().success());
        // It knows that nothing runs, and forgets the pid.
        self.run(&["stop", "kafka"]);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn kafka_killed_in_the_middle_loses_nothing_and_keeps_the_order() {
    let stack = Stack::up();
    let brokers = stack.kafka();
    let mut config = fleet(SinkKind::Kafka, 500, 0);
    config.fleet.rate = Rate::PerSecond(5_000.0);
    config.kafka.brokers = vec![brokers.clone()];
    config.kafka.buffer = iot_service::config::ByteSize::mib(512);
    config.kafka.request_timeout = std::time::Duration::from_secs(2).into();
    let topic = config.kafka.topic.clone();
    let simulator = Simulator::start(config).await;
    let sent = "kafka_producer_messages_total";
    simulator.wait_for_metric(sent, 10_000.0).await;
    stack.kill_kafka();
    let depth = "kafka_producer_queue_depth";
    simulator.wait_for_metric(depth, 10_000.0).await;
    assert!(simulator.trouble("kafka").await.is_some());
    stack.run(&["start", "kafka"]);
    let before = simulator.metric(sent).await;
    simulator.wait_for_metric(sent, before + 20_000.0).await;
    wait_for("recovery", async || {
        simulator.trouble("kafka").await.is_none()
    })
    .await;
    assert!(simulator.metric("kafka_producer_retries_total").await > 0.0);
    let dropped = simulator
        .metric("kafka_producer_dropped_messages_total")
        .await;
    let twice = simulator
        .metric("kafka_producer_possible_duplicates_total")
        .await;
    simulator.stop().await;
    assert_eq!(dropped, 0.0, "the buffer is large enough");
    let arrived = read_topic(&brokers, &topic);
    let counts = assert_ordered(&arrived, 10);
    // Devices take turns, so without a loss they are within one message.
    let (least, most) = (
        counts.values().min().unwrap(),
        counts.values().max().unwrap(),
    );
    assert!(counts.len() == 500 && most - least <= 1, "{least} {most}");
    let duplicates = arrived.len() as u64 - counts.values().sum::<u64>();
    assert!(
        duplicates as f64 <= twice,
        "{duplicates} are there twice, {twice} were told"
    );
}
