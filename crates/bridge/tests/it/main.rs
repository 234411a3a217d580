//! The whole bridge through its `run`, between a scripted MQTT broker and
//! librdkafka's mock cluster.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cli;
mod dead_letters;
mod dedupe;
mod delivery;
mod real;
mod refused;
mod secure;
mod sessions;
mod subscriptions;
mod tls;
mod tools;

use std::net::SocketAddr;
use std::sync::Arc;

use iot_bridge::BridgeConfig;
use iot_service::Listeners;
use iot_service::config::{HumanDuration, Live};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use testkit::http::Ops;
use testkit::kafka::MockKafka;
use testkit::mqtt_broker::Broker;
use testkit::port::free_address;
use testkit::{in_time, wait_for};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const TOPIC: &str = "mtic/msg/client/realtime/tenant123/project456";
/// Where messages of [`TOPIC`] go.
const KAFKA_TOPIC: &str = "tenant123.project456";

/// A mock cluster with the topics of most tests.
fn start_cluster() -> MockKafka {
    MockKafka::start(&[KAFKA_TOPIC, "iot.dead-letter"])
}

/// A bridge in this process.
struct Bridge {
    ops: Ops,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Bridge {
    async fn start(mqtt: SocketAddr, kafka: &str, adjust: impl FnOnce(&mut BridgeConfig)) -> Self {
        Self::start_live(settings(mqtt, kafka, adjust).1).await
    }

    async fn start_live(live: Live<BridgeConfig>) -> Self {
        Self::spawn(|listeners, stop| iot_bridge::run(live, listeners, stop)).await
    }

    /// A bridge that drains its session and ends.
    async fn drain(mqtt: SocketAddr, kafka: &str, adjust: impl FnOnce(&mut BridgeConfig)) -> Self {
        let live = settings(mqtt, kafka, adjust).1;
        Self::spawn(|listeners, stop| iot_bridge::drain(live, listeners, stop)).await
    }

    async fn spawn<R>(run: impl FnOnce(Listeners, CancellationToken) -> R) -> Self
    where
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let ops = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (ops.local_addr().unwrap(), CancellationToken::new());
        let listeners = Listeners { ops, http: None };
        Self {
            ops: Ops(address),
            task: tokio::spawn(run(listeners, stop.clone())),
            stop,
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.ended().await;
    }

    /// Waits until it ends by itself, without an error.
    async fn ended(self) {
        let ended = in_time("the end of the bridge", self.task).await;
        ended.unwrap().expect("no error");
    }

    async fn get(&self, path: &str) -> String {
        self.ops.get(path).await.unwrap().1
    }

    /// Waits until the answer at `path` contains `text`.
    async fn wait_for(&self, path: &str, text: &str) {
        wait_for(&format!("{text} in {path}"), async || {
            let answer = self.get(path).await;
            answer.contains(text).then_some(()).ok_or(answer)
        })
        .await;
    }
}

/// The settings of a bridge between two brokers, and the sender that changes them.
fn settings(
    mqtt: SocketAddr,
    kafka: &str,
    adjust: impl FnOnce(&mut BridgeConfig),
) -> (watch::Sender<Arc<BridgeConfig>>, Live<BridgeConfig>) {
    let mut config = BridgeConfig::default();
    config.mqtt.brokers = vec![format!("mqtt://{mqtt}")];
    config.kafka.brokers = vec![kafka.to_string()];
    // The mock cluster has no request that creates topics.
    config.topics.create = false;
    adjust(&mut config);
    let (sender, receiver) = watch::channel(Arc::new(config));
    (sender, Live::of(receiver))
}

/// The line of `/metrics` for a gauge of the only session.
fn gauge(name: &str, value: u32) -> String {
    format!(r#"{name}{{session="iot-bridge"}} {value}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_arrives_unchanged_and_is_acknowledged() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    let connect = peer.connect.clone().unwrap();
    assert_eq!(connect.client_id, "iot-bridge");
    assert!(!connect.clean_start, "the session must persist");
    assert_eq!(
        connect.properties.unwrap().session_expiry_interval,
        Some(86_400)
    );

    let payload = [0, 255, b'{', 13, 10, 0];
    peer.publish(7, TOPIC, &payload).await;
    assert_eq!(peer.acknowledgements(1).await, [7]);
    let records = cluster.read(KAFKA_TOPIC, 1).await;
    assert_eq!(records[0].payload, payload);
    assert_eq!(records[0].key(), Some("project456"));
    assert_eq!(records[0].header("mqtt-topic"), Some(TOPIC));
    assert_eq!(records[0].header("mqtt-qos"), Some("1"));
    bridge.wait_for("/readyz", r#""ok":true"#).await;
    let metrics = bridge.get("/metrics").await;
    for line in [
        "mqtt_messages_received_total 1",
        &gauge("mqtt_connection_status", 1),
        "kafka_messages_produced_total 1",
        "kafka_write_latency_seconds_count 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_headers_off_a_record_has_key_and_payload_only() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.kafka.headers = false;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    let property = ("unit".to_owned(), "celsius".to_owned());
    peer.publish_with(1, TOPIC, b"payload", vec![property])
        .await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let records = cluster.read(KAFKA_TOPIC, 1).await;
    let record = &records[0];
    assert_eq!(
        (record.text(), record.key()),
        ("payload", Some("project456"))
    );
    assert_eq!(record.headers, []);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_while_kafka_is_down() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.kafka.stalled_after = HumanDuration::from_secs(1);
        config.in_flight.messages = 3;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"1").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);

    cluster.down();
    for id in 2..=6 {
        peer.publish(id, TOPIC, id.to_string().as_bytes()).await;
    }
    bridge.wait_for("/readyz", "stalled").await;
    bridge
        .wait_for("/metrics", &gauge("bridge_stalled", 1))
        .await;
    bridge
        .wait_for("/metrics", &gauge("bridge_paused", 1))
        .await;
    // Longer than a ping may stay unanswered: the bridge does not read now and must not
    // treat the broker as dead for that.
    peer.only_pings(3).await;

    cluster.up();
    assert_eq!(peer.acknowledgements(5).await, [2, 3, 4, 5, 6]);
    let payloads: Vec<_> = cluster.read(KAFKA_TOPIC, 6).await;
    let payloads: Vec<_> = payloads.iter().map(|record| record.text()).collect();
    assert_eq!(payloads, ["1", "2", "3", "4", "5", "6"]);
    bridge.wait_for("/readyz", r#""ok":true"#).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_an_old_connection_are_never_acknowledged_on_a_new_one() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"first").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    cluster.down();
    for id in [2, 3, 4] {
        peer.publish(id, TOPIC, b"old").await;
    }
    let in_flight = gauge("bridge_in_flight_messages", 3);
    bridge.wait_for("/metrics", &in_flight).await;
    drop(peer);

    // The broker uses the same packet identifiers for other messages now.
    let mut peer = broker.accept_subscribed(true).await;
    peer.publish(3, TOPIC, b"new").await;
    bridge
        .wait_for("/metrics", "mqtt_messages_received_total 5")
        .await;
    cluster.up();
    assert_eq!(peer.acknowledgements(1).await, [3]);
    bridge
        .wait_for("/metrics", "mqtt_unacknowledged_total 3")
        .await;
    peer.only_pings(1).await;
    assert_eq!(cluster.read(KAFKA_TOPIC, 5).await.len(), 5);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_and_unknown_pubrels_are_answered() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.mqtt.qos = 2;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish_at(QoS::AtMostOnce, 0, TOPIC, b"zero").await;
    peer.publish_at(QoS::ExactlyOnce, 9, TOPIC, b"two").await;
    assert!(matches!(peer.next().await, Packet::PubRec(received) if received.pkid == 9));
    for id in [9, 1234] {
        peer.release(id).await;
        assert!(matches!(peer.next().await, Packet::PubComp(complete) if complete.pkid == id));
    }
    assert_eq!(cluster.read(KAFKA_TOPIC, 2).await.len(), 2);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_started_before_its_brokers_connects_when_they_are_up() {
    // Nobody listens at this address, until later.
    let (mqtt, cluster) = (free_address(), start_cluster());
    cluster.down();
    let bridge = Bridge::start(mqtt, &cluster.brokers(), |_| {}).await;
    bridge.wait_for("/readyz", "Connection refused").await;
    bridge.wait_for("/readyz", "no Kafka broker answers").await;
    assert!(bridge.get("/livez").await.contains(r#""ok":true"#));

    let broker = Broker::start_at(mqtt).await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"early").await;
    cluster.up();
    assert_eq!(peer.acknowledgements(1).await, [1]);
    bridge.wait_for("/readyz", r#""ok":true"#).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_acknowledges_everything_in_flight_and_then_disconnects() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.kafka.linger = HumanDuration::from_secs(1);
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    for id in 1..=100 {
        peer.publish(id, TOPIC, b"x").await;
    }
    bridge
        .wait_for("/metrics", "mqtt_messages_received_total 100")
        .await;
    let stopped = tokio::spawn(bridge.stop());
    assert_eq!(
        peer.acknowledgements(100).await,
        (1..=100).collect::<Vec<_>>()
    );
    assert!(matches!(peer.next().await, Packet::Disconnect(_)));
    stopped.await.unwrap();
    assert_eq!(cluster.read(KAFKA_TOPIC, 100).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_reset_a_connection_with_unread_messages() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.in_flight.messages = 1;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"1").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    cluster.down();
    // The bridge reads some of these and leaves the rest in the socket.
    for id in 2..=500 {
        peer.publish(id, TOPIC, &[b'x'; 1000]).await;
    }
    bridge
        .wait_for("/metrics", &gauge("bridge_paused", 1))
        .await;
    cluster.up();
    bridge.stop().await;
    // A broker with messages still to write would see a reset here and never read the
    // acknowledgements.
    peer.publish(501, TOPIC, b"late").await;
    let mut acknowledged = Vec::new();
    let end = loop {
        match peer.next().await {
            Packet::PubAck(ack) => acknowledged.push(ack.pkid),
            other => break other,
        }
    };
    assert!(matches!(end, Packet::Disconnect(_)), "{end:?}");
    assert_eq!(acknowledged.first(), Some(&2));
}
