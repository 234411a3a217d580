//! Faults of a real Kafka, some of them of brokers that a test starts itself.

use std::collections::{HashMap, HashSet};

use iot_core::partition::partition_for;
use iot_service::config::HumanDuration;
use iot_simulator::config::{Rate, SimulatorConfig, SinkKind};
use rdkafka::admin::{NewPartitions, NewTopic, TopicReplication};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::http::Ops;
use testkit::kafka::{admin, admin_options, create, create_topic};
use testkit::port::free_address;
use testkit::process::Program;
use testkit::stack::{OwnStack, kafka_brokers, unique};
use testkit::wait_for;

use crate::support::{Simulator, assert_complete, assert_ordered, fleet, read_topic};

const SENT: &str = "kafka_producer_messages_total";

/// A fleet with a topic of its own on the shared stack.
fn on_the_stack(rate: f64) -> SimulatorConfig {
    let mut config = fleet(SinkKind::Kafka, 100, 0);
    config.fleet.rate = Rate::PerSecond(rate);
    config.kafka.brokers = vec![kafka_brokers()];
    config.kafka.topic = unique("simulator-fault");
    config
}

/// The figures of a run, once all its messages are confirmed.
async fn figures_at_rest(simulator: &Simulator) -> Value {
    let paused = json!({"paused": true});
    let (status, _) = simulator.api(Method::PATCH, "fleet", paused).await;
    assert_eq!(status, 200);
    let depth = "kafka_producer_queue_depth";
    wait_for("an empty queue", async || {
        simulator.metric(depth).await == 0.0
    })
    .await;
    let (_, mut fleet) = simulator.api(Method::GET, "fleet", Value::Null).await;
    fleet["figures"].take()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_killed_kafka_loses_no_message_and_keeps_the_order() {
    let stack = OwnStack::up().await;
    let brokers = stack.variable("KAFKA_BROKERS");
    let mut config = fleet(SinkKind::Kafka, 500, 0);
    config.fleet.rate = Rate::PerSecond(5_000.0);
    config.kafka.brokers = vec![brokers.clone()];
    config.kafka.buffer = iot_service::config::ByteSize::mib(512);
    config.kafka.request_timeout = std::time::Duration::from_secs(2).into();
    let topic = config.kafka.topic.clone();
    let simulator = Simulator::start(config).await;
    let sent = "kafka_producer_messages_total";
    simulator.wait_for_metric(sent, 10_000.0).await;
    stack.kill("kafka").await;
    let depth = "kafka_producer_queue_depth";
    simulator.wait_for_metric(depth, 10_000.0).await;
    assert!(simulator.reason("kafka").await.is_some());
    stack.start("kafka").await;
    let before = simulator.metric(sent).await;
    simulator.wait_for_metric(sent, before + 20_000.0).await;
    simulator.wait_for_recovery("kafka").await;
    assert!(simulator.metric("kafka_producer_retries_total").await > 0.0);
    let figures = figures_at_rest(&simulator).await;
    simulator.stop().await;
    assert_eq!(figures["drops"], 0, "the buffer is large enough");
    let arrived = read_topic(&brokers, &topic).await;
    let counts = assert_ordered(&arrived, 10);
    // Devices send in turn, so without a loss their counts differ by at most one.
    let (least, most) = (
        counts.values().min().unwrap(),
        counts.values().max().unwrap(),
    );
    assert!(counts.len() == 500 && most - least <= 1, "{least} {most}");
    let all: u64 = counts.values().sum();
    assert_eq!(figures["messages"], all);
    let (duplicates, possible) = (arrived.len() as u64 - all, &figures["possible_duplicates"]);
    assert!(
        duplicates <= possible.as_u64().unwrap(),
        "{duplicates} duplicates, {possible} possible ones reported"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_partition_whose_broker_is_down_holds_only_its_own_devices() {
    let stack = OwnStack::up_with(2).await;
    let both = stack.variable("KAFKA_BROKERS");
    let brokers = both.split(',').next().unwrap().to_owned();
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
    stack.kill("kafka-2").await;
    let open = r#"kafka_producer_circuits{state="open"}"#;
    simulator.wait_for_metric(open, 1.0).await;
    let before = simulator.metric(SENT).await;
    simulator.wait_for_metric(SENT, before + 1_000.0).await;
    let trouble = simulator.reason("kafka").await.expect("trouble");
    stack.start("kafka-2").await;
    simulator.wait_for_recovery("kafka").await;
    let figures = figures_at_rest(&simulator).await;
    simulator.stop().await;
    assert_eq!(figures["drops"], 0, "{trouble}");
    let arrived = read_topic(&brokers, &topic).await;
    let counts = assert_ordered(&arrived, 3);
    assert_eq!(figures["messages"], counts.values().sum::<u64>());
    let (least, most) = (counts.values().min(), counts.values().max());
    assert!(counts.len() == 90 && most.unwrap() - least.unwrap() <= 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn the_partitions_of_a_topic_are_used_and_so_are_added_ones() {
    let mut config = on_the_stack(2_000.0);
    let (brokers, topic) = (config.kafka.brokers[0].clone(), config.kafka.topic.clone());
    create_topic(&brokers, &topic, 3).await;
    config.kafka.metadata_refresh = HumanDuration::from_millis(300);
    let simulator = Simulator::start(config).await;
    simulator.wait_for_metric(SENT, 1_000.0).await;
    assert_eq!(
        simulator.metric("kafka_producer_active_connections").await,
        3.0
    );
    let more = NewPartitions::new(&topic, 5);
    let admin = admin(&brokers);
    let added = admin.create_partitions([&more], &admin_options()).await;
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
    let arrived = read_topic(&brokers, &topic).await;
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
async fn only_oversized_messages_of_a_batch_are_lost() {
    let mut config = on_the_stack(0.0);
    config.fleet.rate = Rate::Max;
    config.run.messages = 20_000;
    // Some devices have longer messages than the topic accepts.
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
    let arrived = read_topic(&brokers, &topic).await;
    let short = |record: &&crate::support::Arrived| record.message.readings.len() == 1;
    assert_eq!(arrived.iter().filter(short).count(), arrived.len());
    let devices: HashSet<_> = arrived.iter().map(|record| record.key.as_str()).collect();
    assert!((30..70).contains(&devices.len()), "{}", devices.len());
    assert_eq!(arrived.len(), devices.len() * 200, "200 of each");
    assert_complete(&arrived, 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn sigterm_at_full_rate_sends_all_buffered_messages() {
    let (brokers, topic) = (kafka_brokers(), unique("simulator-fault"));
    let ops = Ops(free_address());
    let mut simulator = Program::new(env!("CARGO_BIN_EXE_iot-simulator"))
        .args(&["run", "--devices", "1000", "--rate", "max", "--json"])
        .args(&["--sink", "kafka", "--fail-when", "drops>0"])
        .set("http.listen", "")
        .set("ops.listen", ops.0)
        .set("kafka.topic", &topic)
        .env("KAFKA_BROKERS", &brokers)
        .start();
    ops.wait_metric_at_least(SENT, 50_000.0).await;
    assert_eq!(simulator.stop().await, Some(0));
    let figures: Value = serde_json::from_str(&simulator.stdout()).unwrap();
    let arrived = read_topic(&brokers, &topic).await;
    assert_complete(&arrived, 10);
    assert_eq!(figures["messages"], arrived.len());
}
