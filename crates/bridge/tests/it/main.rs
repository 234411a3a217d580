//! The whole bridge through its one entrance, between a scripted MQTT broker
//! and librdkafka's mock cluster.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod again;
#[allow(dead_code, reason = "the tests of the link use the rest")]
mod broker;
mod cli;
mod delivery;
mod kafka;
mod real;
mod secure;
mod sessions;
mod tls;
mod tools;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iot_bridge::BridgeConfig;
use iot_service::Listeners;
use iot_service::config::{HumanDuration, Live};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, SubscribeReasonCode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use broker::{Broker, DEADLINE};
use kafka::Cluster;

const TOPIC: &str = "mtic/msg/client/realtime/tenant123/project456";

struct Bridge {
    ops: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Bridge {
    async fn start(mqtt: SocketAddr, kafka: &str, adjust: impl FnOnce(&mut BridgeConfig)) -> Self {
        Self::start_live(settings(mqtt, kafka, adjust).1).await
    }

    async fn start_live(live: Live<BridgeConfig>) -> Self {
        let (ops, stop) = (ops().await, CancellationToken::new());
        let address = ops.local_addr().unwrap();
        let listeners = Listeners { ops, http: None };
        Self {
            ops: address,
            task: tokio::spawn(iot_bridge::run(live, listeners, stop.clone())),
            stop,
        }
    }

    /// One that empties its session and ends.
    async fn drain(mqtt: SocketAddr, kafka: &str, adjust: impl FnOnce(&mut BridgeConfig)) -> Self {
        let live = settings(mqtt, kafka, adjust).1;
        let (ops, stop) = (ops().await, CancellationToken::new());
        let address = ops.local_addr().unwrap();
        let listeners = Listeners { ops, http: None };
        Self {
            ops: address,
            task: tokio::spawn(iot_bridge::drain(live, listeners, stop.clone())),
            stop,
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.ends().await;
    }

    /// Waits for its end, which must be a clean one.
    async fn ends(self) {
        let ended = timeout(DEADLINE, self.task).await.expect("an end");
        ended.unwrap().expect("a clean end");
    }

    async fn get(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.ops);
        reqwest::get(url).await.unwrap().text().await.unwrap()
    }

    /// Waits until what `path` answers contains `text`.
    async fn says(&self, path: &str, text: &str) {
        let wait = async {
            while !self.get(path).await.contains(text) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(DEADLINE, wait).await.is_err() {
            panic!("{path} never says {text}, but:\n{}", self.get(path).await);
        }
    }
}

/// Settings of a bridge between two brokers, and the means to change them.
fn settings(
    mqtt: SocketAddr,
    kafka: &str,
    adjust: impl FnOnce(&mut BridgeConfig),
) -> (watch::Sender<Arc<BridgeConfig>>, Live<BridgeConfig>) {
    let mut config = BridgeConfig::default();
    config.mqtt.brokers = vec![format!("mqtt://{mqtt}")];
    config.kafka.brokers = vec![kafka.to_string()];
    // The mock cluster has no requests for that.
    config.topics.create = false;
    adjust(&mut config);
    let (sender, receiver) = watch::channel(Arc::new(config));
    (sender, Live::of(receiver))
}

async fn ops() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A line of `/metrics` about the only session.
fn gauge(name: &str, value: u32) -> String {
    format!(r#"{name}{{session="iot-bridge"}} {value}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_arrives_untouched_and_is_acknowledged() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
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
    let records = cluster.read("tenant123.project456", 1).await;
    assert_eq!(records[0].payload, payload);
    assert_eq!(records[0].key.as_deref(), Some("project456"));
    assert_eq!(records[0].header("mqtt-topic"), Some(TOPIC));
    assert_eq!(records[0].header("mqtt-qos"), Some("1"));
    bridge.says("/readyz", r#""ok":true"#).await;
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
async fn without_headers_a_record_is_key_and_payload_alone() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.kafka.headers = false;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    let property = ("unit".to_owned(), "celsius".to_owned());
    peer.publish_with(1, TOPIC, b"payload", vec![property])
        .await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let records = cluster.read("tenant123.project456", 1).await;
    let record = &records[0];
    assert_eq!(
        (record.text(), record.key.as_deref()),
        ("payload", Some("project456"))
    );
    assert_eq!(record.header_names(), [""; 0]);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_routed_is_a_dead_letter_and_the_rest_arrives() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.kafka.max_message_bytes = iot_service::config::ByteSize::kib(64);
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    let bad = [
        ("mtic/msg/client/realtime/tenant123", "too_few_parts"),
        ("mtic/msg/client/realtime/tenant.123/p", "invalid_tenant"),
        ("mtic/msg/client/realtime/tenant123/", "invalid_project"),
        ("mtic/msg/client/realtime/iot/dead-letter", "reserved_topic"),
        (
            "mtic/msg/client/realtime/__consumer/offsets",
            "reserved_topic",
        ),
        ("mtic/msg/client/realtime/tenant123_project456/x", "ok"),
        (
            "mtic/msg/client/realtime/tenant123/project456_x",
            "topic_collision",
        ),
    ];
    for (id, (topic, _)) in (1..).zip(bad) {
        peer.publish(id, topic, b"bad").await;
    }
    peer.publish(20, TOPIC, &vec![b'x'; 2 << 20]).await;
    peer.publish(21, TOPIC, b"").await;
    peer.publish(22, TOPIC, b"good").await;
    let expected: Vec<u16> = (1..=bad.len() as u16).chain([20, 21, 22]).collect();
    assert_eq!(peer.acknowledgements(expected.len()).await, expected);

    let arrived = cluster.read("tenant123.project456", 2).await;
    assert_eq!(arrived[0].payload, b"", "an empty payload is a payload");
    assert_eq!(arrived[1].payload, b"good");
    let letters = cluster.read("iot.dead-letter", 7).await;
    for (topic, reason) in bad.into_iter().filter(|(_, reason)| *reason != "ok") {
        let letter = letters
            .iter()
            .find(|letter| letter.header("dlq-topic") == Some(topic));
        let letter = letter.unwrap_or_else(|| panic!("no dead letter of {topic}"));
        assert_eq!(letter.header("dlq-reason"), Some(reason));
        assert_eq!(letter.payload, b"bad");
    }
    let large = letters
        .iter()
        .find(|letter| letter.header("dlq-reason") == Some("too_large"));
    assert_eq!(large.unwrap().payload.len(), 2 << 20);
    bridge
        .says(
            "/metrics",
            r#"message_processing_errors_total{reason="reserved_topic"} 2"#,
        )
        .await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_while_kafka_is_down() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
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
    bridge.says("/readyz", "stalled").await;
    bridge.says("/metrics", &gauge("bridge_stalled", 1)).await;
    bridge.says("/metrics", &gauge("bridge_paused", 1)).await;
    // Longer than an unanswered ping may last: the bridge does not read now,
    // and must not take that for a dead broker.
    peer.only_pings(3).await;

    cluster.up();
    assert_eq!(peer.acknowledgements(5).await, [2, 3, 4, 5, 6]);
    let payloads: Vec<_> = cluster.read("tenant123.project456", 6).await;
    let payloads: Vec<_> = payloads.iter().map(|record| record.text()).collect();
    assert_eq!(payloads, ["1", "2", "3", "4", "5", "6"]);
    bridge.says("/readyz", r#""ok":true"#).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_connection_brought_is_never_acknowledged_on_a_new_one() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"first").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    cluster.down();
    for id in [2, 3, 4] {
        peer.publish(id, TOPIC, b"old").await;
    }
    let in_flight = gauge("bridge_in_flight_messages", 3);
    bridge.says("/metrics", &in_flight).await;
    drop(peer);

    // The broker has other messages under the same identifiers now.
    let mut peer = broker.accept_subscribed(true).await;
    peer.publish(3, TOPIC, b"new").await;
    bridge
        .says("/metrics", "mqtt_messages_received_total 5")
        .await;
    cluster.up();
    assert_eq!(peer.acknowledgements(1).await, [3]);
    bridge.says("/metrics", "mqtt_unacknowledged_total 3").await;
    peer.only_pings(1).await;
    assert_eq!(cluster.read("tenant123.project456", 5).await.len(), 5);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quality_of_service_2_and_unknown_releases_are_answered() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
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
    assert_eq!(cluster.read("tenant123.project456", 2).await.len(), 2);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_is_said_and_tried_again() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept(false).await;
    let subscription = peer.subscription().await;
    peer.grant(subscription.pkid, vec![SubscribeReasonCode::NotAuthorized])
        .await;
    bridge
        .says(
            "/readyz",
            "refused the subscription to mtic/msg/client/realtime/+/#",
        )
        .await;
    let _peer = broker.accept_subscribed(false).await;
    bridge.says("/readyz", r#""mqtt":{"state":"ready"}"#).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_started_before_its_brokers_works_once_they_are_there() {
    // An address at which nobody listens, until later.
    let (mqtt, cluster) = (Broker::start().await.address(), Cluster::start());
    cluster.down();
    let bridge = Bridge::start(mqtt, &cluster.brokers(), |_| {}).await;
    bridge.says("/readyz", "Connection refused").await;
    bridge.says("/readyz", "no Kafka broker answers").await;
    assert!(bridge.get("/livez").await.contains(r#""ok":true"#));

    let broker = Broker::start_at(mqtt).await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"early").await;
    cluster.up();
    assert_eq!(peer.acknowledgements(1).await, [1]);
    bridge.says("/readyz", r#""ok":true"#).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_delivers_and_acknowledges_what_was_taken_then_says_goodbye() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.kafka.linger = HumanDuration::from_secs(1);
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    for id in 1..=100 {
        peer.publish(id, TOPIC, b"x").await;
    }
    bridge
        .says("/metrics", "mqtt_messages_received_total 100")
        .await;
    let stopped = tokio::spawn(bridge.stop());
    assert_eq!(
        peer.acknowledgements(100).await,
        (1..=100).collect::<Vec<_>>()
    );
    assert!(matches!(peer.next().await, Packet::Disconnect(_)));
    stopped.await.unwrap();
    assert_eq!(cluster.read("tenant123.project456", 100).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_adds_can_not_block_the_way() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    // More than a dead letter may be, in user properties alone.
    let property = ("note".to_string(), "x".repeat(60_000));
    peer.publish_with(1, TOPIC, b"heavy", vec![property; 150])
        .await;
    peer.publish(2, TOPIC, b"light").await;
    assert_eq!(peer.acknowledgements(2).await, [1, 2]);
    let letters = cluster.read("iot.dead-letter", 1).await;
    assert_eq!(letters[0].payload, b"heavy");
    assert_eq!(letters[0].header("dlq-reason"), Some("too_large"));
    assert_eq!(letters[0].header("note"), None);
    assert_eq!(
        cluster.read("tenant123.project456", 1).await[0].payload,
        b"light"
    );
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_reset_the_connection_over_what_it_has_not_read() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.in_flight.messages = 1;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"1").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    cluster.down();
    // The bridge reads some and leaves the rest in the socket.
    for id in 2..=500 {
        peer.publish(id, TOPIC, &[b'x'; 1000]).await;
    }
    bridge.says("/metrics", &gauge("bridge_paused", 1)).await;
    cluster.up();
    bridge.stop().await;
    // A broker that still has messages to write would see the reset there, and
    // never read the acknowledgements.
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

#[tokio::test(flavor = "multi_thread")]
async fn records_that_kafka_refuses_in_a_batch_are_judged_alone() {
    let (broker, cluster) = (Broker::start().await, Cluster::start());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    // The first batch is refused whatever is in it; each record alone is fine.
    cluster.refuse_next_batch_as_too_large();
    for id in 1..=5 {
        peer.publish(id, TOPIC, id.to_string().as_bytes()).await;
    }
    assert_eq!(peer.acknowledgements(5).await, [1, 2, 3, 4, 5]);
    let mut arrived: Vec<_> = cluster.read("tenant123.project456", 5).await;
    arrived.sort_by(|a, b| a.text().cmp(b.text()));
    let arrived: Vec<_> = arrived.iter().map(|record| record.text()).collect();
    assert_eq!(arrived, ["1", "2", "3", "4", "5"]);
    assert!(
        !bridge
            .get("/metrics")
            .await
            .contains("kafka_retries_total 0")
    );
    bridge.stop().await;
}
