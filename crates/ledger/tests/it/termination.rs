//! SIGTERM under load: simulators and consumers exit with 0, and nothing is lost. `bridge.rs` has
//! the same for the bridge.

use std::collections::HashMap;

use serde_json::Value;
use testkit::kafka::read_all;
use testkit::stack::{kafka_brokers, unique};
use testkit::wait_for;

use crate::support::{Service, Way, create_topic, run, setting};

const CONSUMED: &str = "kafka_consumer_messages_consumed_total";

/// Messages per second of a simulator.
fn rate() -> u64 {
    setting("LEDGER_RATE", 5000)
}

/// The numbers of each device's messages, in the order of the topic.
async fn sequences(topic: &str) -> HashMap<String, Vec<u64>> {
    let mut sequences: HashMap<String, Vec<u64>> = HashMap::new();
    for record in read_all(&kafka_brokers(), topic).await {
        // A message with `run` is the ledger's own: the marker at the end of a test.
        let message: Value = serde_json::from_slice(&record.payload).unwrap_or_default();
        let (device, seq) = (message["device_id"].as_str(), message["seq"].as_u64());
        if let (Some(device), Some(seq), Value::Null) = (device, seq, &message["run"]) {
            sequences.entry(device.to_owned()).or_default().push(seq);
        }
    }
    sequences
}

/// Asserts that every device's messages are there from the first to the last, once and in
/// order; returns how many there are.
fn assert_unbroken(sequences: &HashMap<String, Vec<u64>>, devices: u64) -> u64 {
    assert_eq!(sequences.len() as u64, devices);
    for (device, seen) in sequences {
        let count = seen.len() as u64;
        assert!(seen.iter().copied().eq(0..count), "{device}: {seen:?}");
    }
    sequences.values().map(|seen| seen.len() as u64).sum()
}

/// Lets a simulator send for a while and stops it; returns how many messages its sink
/// had confirmed shortly before.
async fn stop_under_load(simulator: &mut Service, sink: &str) -> u64 {
    let sent = format!("{sink}_producer_messages_total");
    simulator.metric_reaches(&sent, 2.0 * rate() as f64).await;
    let sent = simulator.metric(&sent).await.unwrap();
    let dropped = format!("{sink}_producer_dropped_messages_total");
    assert_eq!(simulator.metric(&dropped).await, Ok(0.0));
    assert_eq!(simulator.process.stop().await, Some(0));
    sent as u64
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn sigterm_to_a_simulator_loses_no_message_sent_to_kafka() {
    let way = Way::new("simk");
    let topic = unique("device-data");
    let rate_text = rate().to_string();
    let mut simulator = way.simulator("kafka", &topic, &["--devices", "200", "--rate", &rate_text]);
    let sent = stop_under_load(&mut simulator, "kafka").await;
    let total = assert_unbroken(&sequences(&topic).await, 200);
    assert!(total >= sent, "{total} in Kafka, {sent} confirmed");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn sigterm_to_a_simulator_loses_no_message_sent_through_the_bridge() {
    let way = Way::new("simm");
    let mut bridge = way.bridge();
    bridge.ready().await;
    let rate_text = rate().to_string();
    let mut simulator = way.simulator(
        "mqtt",
        "unused",
        &["--devices", "200", "--rate", &rate_text],
    );
    let sent = stop_under_load(&mut simulator, "mqtt").await;
    // The marker is published last, so once it is in Kafka, all earlier messages are.
    marker(&way).await;
    let total = assert_unbroken(&sequences(&way.kafka_topic()).await, 200);
    assert!(total >= sent, "{total} in Kafka, {sent} confirmed");
}

/// Sends one message of the ledger and waits for it to be in Kafka.
async fn marker(way: &Way) {
    let common = [
        "--run",
        &*way.tenant,
        "--connections",
        "1",
        "--messages",
        "1",
    ];
    let (mqtt_topic, kafka_topic) = (way.mqtt_topic(), way.kafka_topic());
    let publish = ["publish", "--url", &way.mqtt_url, "--topic", &mqtt_topic];
    let verify = [
        "verify-kafka",
        "--brokers",
        &way.kafka_brokers,
        "--topic",
        &kafka_topic,
    ];
    for command in [&publish[..], &verify[..]] {
        let outcome = run(&[command, &common[..]].concat()).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn the_successor_of_a_consumer_has_its_state() {
    let way = Way::new("cons");
    let topic = unique("device-data");
    create_topic(&topic, 4).await;
    let rate_text = rate().to_string();
    let mut simulator = way.simulator("kafka", &topic, &["--devices", "200", "--rate", &rate_text]);
    let mut consumer = way.consumer(&topic);
    consumer.metric_reaches(CONSUMED, rate() as f64).await;
    assert_eq!(consumer.process.stop().await, Some(0));

    let mut successor = way.consumer(&topic);
    successor.ready().await;
    assert_eq!(simulator.process.stop().await, Some(0));
    let written = sequences(&topic).await;
    let total = assert_unbroken(&written, 200);
    wait_for("the last message of every device", async || {
        let list = successor.api("/api/v1/devices?limit=1000").await?;
        let devices = list["devices"].as_array().ok_or("no list")?;
        let last = |device: &Value| {
            let seen = device["device"].as_str().and_then(|id| written.get(id))?;
            seen.last().copied().filter(|last| device["seq"] == *last)
        };
        let current = devices
            .iter()
            .filter(|device| last(device).is_some())
            .count();
        if current == written.len() {
            Ok(())
        } else {
            Err(format!("{current} of {}", written.len()))
        }
    })
    .await;
    let stats = successor.api("/api/v1/stats").await.unwrap();
    assert_eq!(stats["dead_letters_total"], 0, "{stats}");
    assert_eq!(stats["messages_total"], total, "{stats}");
    assert_eq!(successor.process.stop().await, Some(0));
}
