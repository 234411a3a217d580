//! Against a real Kafka and a real Mosquitto: `scripts/stack up`, then
//! `cargo test -- --ignored` in the environment that it prints.

use iot_core::mqtt_url::MqttUrl;
use iot_simulator::config::{CompressionKind, Rate, SinkKind};
use tokio_util::sync::CancellationToken;

use crate::mqtt::{assert_heard, subscribe};
use crate::support::{Simulator, assert_complete, fleet, read_topic};

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
