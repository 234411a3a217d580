//! Faults of a real Kafka, some of brokers that a test starts itself.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use iot_core::partition::partition_for;
use iot_service::config::HumanDuration;
use iot_simulator::config::{Rate, SimulatorConfig, SinkKind};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use reqwest::Method;
use serde_json::{Value, json};

use crate::stack::{environment, fresh};
use crate::support::{
    DEADLINE, Simulator, assert_complete, assert_ordered, fleet, read_topic, wait_for,
};

const SENT: &str = "kafka_producer_messages_total";

/// Brokers of a test's own, which it may end.
struct Stack(tempfile::TempDir);

impl Stack {
    fn up(brokers: u32) -> Self {
        let stack = Self(tempfile::tempdir().unwrap());
        stack.run_with(&["up"], brokers);
        stack
    }

    fn run(&self, args: &[&str]) -> String {
        self.run_with(args, 1)
    }

    fn run_with(&self, args: &[&str], brokers: u32) -> String {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut command = Command::new(root.join("scripts/stack"));
        command.args(args).env("STACK_DIR", self.0.path());
        command.env("STACK_BROKERS", brokers.to_string());
        let output = command.output().unwrap();
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

    /// Ends a member without a word.
    fn kill(&self, member: &str) {
        let status = self.run(&["status"]);
        let mut lines = status.lines().map(|line| line.split_whitespace());
        let mut line = lines.find(|line| line.clone().next() == Some(member));
        let pid = line.as_mut().unwrap().last().unwrap();
        let killed = Command::new("kill").args(["-9", pid]).status();
        assert!(killed.unwrap().success());
        // It knows that nothing runs, and forgets the pid.
        self.run(&["stop", member]);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.create().unwrap()
}

async fn create(brokers: &str, topic: NewTopic<'_>) {
    let created = admin(brokers).create_topics([&topic], &options()).await;
    created.unwrap().remove(0).unwrap();
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(DEADLINE))
}

/// A fleet with a topic of its own on the shared stack.
fn on_the_stack(rate: f64) -> SimulatorConfig {
    let mut config = fleet(SinkKind::Kafka, 100, 0);
    config.fleet.rate = Rate::PerSecond(rate);
    config.kafka.brokers = vec![environment("KAFKA_BROKERS")];
    config.kafka.topic = fresh("simulator-fault");
    config
}

/// What a run comes to, once all it has made is confirmed.
async fn figures_at_rest(simulator: &Simulator) -> Value {
    let paused = json!({"paused": true});
    let (status, _) = simulator.api(Method::PATCH, "fleet", paused).await;
    assert_eq!(status, 200);
    let depth = "kafka_producer_queue_depth";
    wait_for("rest", async || simulator.metric(depth).await == 0.0).await;
    let (_, mut fleet) = simulator.api(Method::GET, "fleet", Value::Null).await;
    fleet["figures"].take()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn kafka_killed_in_the_middle_loses_nothing_and_keeps_the_order() {
    let stack = Stack::up(1);
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
    stack.kill("kafka");
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
    let figures = figures_at_rest(&simulator).await;
    simulator.stop().await;
    assert_eq!(figures["drops"], 0, "the buffer is large enough");
    let arrived = read_topic(&brokers, &topic);
    let counts = assert_ordered(&arrived, 10);
    // Devices take turns, so without a loss they are within one message.
    let (least, most) = (
        counts.values().min().unwrap(),
        counts.values().max().unwrap(),
    );
    assert!(counts.len() == 500 && most - least <= 1, "{least} {most}");
    let all: u64 = counts.values().sum();
    assert_eq!(figures["messages"], all);
    let (twice, told) = (arrived.len() as u64 - all, &figures["possible_duplicates"]);
    assert!(
        twice <= told.as_u64().unwrap(),
        "{twice} twice, told {told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_partition_whose_broker_is_gone_holds_up_its_own_devices_only() {
    let stack = Stack::up(2);
    let brokers = stack.kafka();
    let mut config = fleet(SinkKind::Kafka, 90, 0);
    config.fleet.rate = Rate::PerSecond(1_000.0);
    config.kafka.brokers = vec![brokers.clone()];
    config.kafka.request_timeout = HumanDuration::from_secs(2);
    config.circuit.open_for = HumanDuration::from_secs(1);
    let topic = config.kafka.topic.clone();
    let places = TopicReplication::Variable(&[&[1], &[2], &[1]]);
    create(&brokers, NewTopic::new(&topic, 3, places)).await;
    let simulator = Simulator::start(config).await;
    simulator.wait_for_metric(SENT, 1_000.0).await;
    stack.kill("kafka-2");
    let open = r#"kafka_producer_circuits{state="open"}"#;
    simulator.wait_for_metric(open, 1.0).await;
    let before = simulator.metric(SENT).await;
    simulator.wait_for_metric(SENT, before + 1_000.0).await;
    let trouble = simulator.trouble("kafka").await.expect("trouble");
    stack.run(&["start", "kafka-2"]);
    wait_for("recovery", async || {
        simulator.trouble("kafka").await.is_none()
    })
    .await;
    let figures = figures_at_rest(&simulator).await;
    simulator.stop().await;
    assert_eq!(figures["drops"], 0, "{trouble}");
    let arrived = read_topic(&brokers, &topic);
    let counts = assert_ordered(&arrived, 3);
    assert_eq!(figures["messages"], counts.values().sum::<u64>());
    let (least, most) = (counts.values().min(), counts.values().max());
    assert!(counts.len() == 90 && most.unwrap() - least.unwrap() <= 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn fewer_partitions_than_configured_are_used_and_so_are_those_added_later() {
    let mut config = on_the_stack(2_000.0);
    let (brokers, topic) = (config.kafka.brokers[0].clone(), config.kafka.topic.clone());
    create(
        &brokers,
        NewTopic::new(&topic, 3, TopicReplication::Fixed(1)),
    )
    .await;
    config.kafka.metadata_refresh = HumanDuration::from_millis(300);
    let simulator = Simulator::start(config).await;
    simulator.wait_for_metric(SENT, 1_000.0).await;
    assert_eq!(
        simulator.metric("kafka_producer_active_connections").await,
        3.0
    );
    let more = NewPartitions::new(&topic, 5);
    let added = admin(&brokers).create_partitions([&more], &options()).await;
    added.unwrap().remove(0).unwrap();
    simulator
        .wait_for_metric("kafka_producer_active_connections", 5.0)
        .await;
    let before = simulator.metric(SENT).await;
    simulator.wait_for_metric(SENT, before + 4_000.0).await;
    let figures = figures_at_rest(&simulator).await;
    simulator.stop().await;
    assert_eq!(
        (&figures["drops"], &figures["errors"]),
        (&json!(0), &json!(0))
    );
    let arrived = read_topic(&brokers, &topic);
    assert_eq!(figures["messages"], arrived.len());
    let mut seqs: HashMap<&str, HashSet<u64>> = HashMap::new();
    let mut last: HashMap<(&str, i32), u64> = HashMap::new();
    for record in &arrived {
        let seq = record.message.seq.unwrap();
        let homes = [3, 5].map(|count| partition_for(&record.key, count) as i32);
        assert!(homes.contains(&record.partition), "{record:?}");
        let before = last.insert((&record.key, record.partition), seq);
        assert!(before.is_none_or(|before| before < seq), "{record:?}");
        assert!(
            seqs.entry(&record.key).or_default().insert(seq),
            "{record:?}"
        );
    }
    let partitions: HashSet<_> = arrived.iter().map(|record| record.partition).collect();
    assert_eq!(partitions.len(), 5);
    let (least, most) = (
        seqs.values().map(HashSet::len).min(),
        seqs.values().map(HashSet::len).max(),
    );
    assert!(
        seqs.len() == 100 && most.unwrap() - least.unwrap() <= 1,
        "{least:?} {most:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn of_a_batch_that_is_too_large_only_the_messages_that_are_too_large_are_lost() {
    let mut config = on_the_stack(0.0);
    config.fleet.rate = Rate::Max;
    config.run.messages = 20_000;
    // Some devices have longer messages than the topic takes.
    let profile = |name: &str, sensors: &[&str]| iot_simulator::config::ProfileConfig {
        name: name.into(),
        weight: 1,
        sensors: sensors.iter().map(|sensor| (*sensor).to_owned()).collect(),
        interval: None,
    };
    config.anomaly.rate = 0.0;
    config.fleet.profiles = vec![
        profile("short", &["temperature"]),
        profile(
            "long",
            &["temperature", "humidity", "pressure", "switch", "current"],
        ),
    ];
    let (brokers, topic) = (config.kafka.brokers[0].clone(), config.kafka.topic.clone());
    let new = NewTopic::new(&topic, 2, TopicReplication::Fixed(1)).set("max.message.bytes", "450");
    create(&brokers, new).await;
    let simulator = Simulator::start(config).await;
    simulator.ended().await;
    let arrived = read_topic(&brokers, &topic);
    let short = |record: &&crate::support::Arrived| record.message.readings.len() == 1;
    assert_eq!(arrived.iter().filter(short).count(), arrived.len());
    let devices: HashSet<_> = arrived.iter().map(|record| record.key.as_str()).collect();
    assert!((30..70).contains(&devices.len()), "{}", devices.len());
    assert_eq!(arrived.len(), devices.len() * 200, "200 of each");
    assert_complete(&arrived, 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_sigterm_at_full_rate_sends_all_that_was_made() {
    let (brokers, topic) = (environment("KAFKA_BROKERS"), fresh("simulator-fault"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ops = port.local_addr().unwrap();
    drop(port);
    let mut command = Command::new(env!("CARGO_BIN_EXE_iot-simulator"));
    command.args([
        "run",
        "--devices",
        "1000",
        "--rate",
        "max",
        "--json",
        "--sink",
        "kafka",
    ]);
    command.args([
        "--set",
        "http.listen=",
        "--set",
        &format!("ops.listen={ops}"),
    ]);
    command.args([
        "--fail-when",
        "drops>0",
        "--set",
        &format!("kafka.topic={topic}"),
    ]);
    command.env("KAFKA_BROKERS", &brokers);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let child = child.unwrap();
    wait_for("messages", async || {
        let answer = reqwest::get(format!("http://{ops}/metrics")).await;
        let Ok(answer) = answer else { return false };
        let text = answer.text().await.unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(SENT));
        lines.any(|value| {
            value
                .trim()
                .parse::<f64>()
                .is_ok_and(|sent| sent > 50_000.0)
        })
    })
    .await;
    let told = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(told.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    let arrived = read_topic(&brokers, &topic);
    assert_complete(&arrived, 10);
    assert_eq!(figures["messages"], arrived.len());
}
