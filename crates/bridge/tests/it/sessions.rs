//! Several MQTT sessions in one bridge, and the end of a session.

use iot_bridge::{BridgeConfig, Isolation, ShutdownMode};
use iot_service::config::{ByteSize, HumanDuration};
use rdkafka::types::RDKafkaRespErr;
use rumqttc::v5::mqttbytes::v5::{Disconnect, Packet};
use testkit::mqtt_broker::{Broker, Peer};

use crate::{Bridge, KAFKA_TOPIC, TOPIC, settings, start_cluster};

/// The peers of two sessions, by the tenant in their client ids.
async fn peers(broker: &Broker) -> [Peer; 2] {
    let mut peers = Vec::new();
    for _ in 0..2 {
        peers.push(broker.accept_subscribed(false).await);
    }
    peers.sort_by_key(|peer| peer.connect.as_ref().unwrap().client_id.clone());
    peers.try_into().ok().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_kafka_refuses_does_not_block_the_others() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    cluster.create("blocked.p", 1);
    cluster.create("free.p", 1);
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.mqtt.filters = vec!["mtic/msg/client/realtime/{tenant}/#".into()];
        config.mqtt.tenants = vec!["blocked".into(), "free".into()];
        config.mqtt.isolation = Isolation::Tenant;
        config.kafka.stalled_after = HumanDuration::from_secs(1);
        config.dedupe.redeliveries = false;
    })
    .await;
    let [mut blocked, mut free] = peers(&broker).await;
    let id = |peer: &Peer| peer.connect.as_ref().unwrap().client_id.clone();
    assert_eq!(id(&blocked), "iot-bridge-blocked");
    assert_eq!(id(&free), "iot-bridge-free");
    let topic = |tenant| format!("mtic/msg/client/realtime/{tenant}/p");
    let unavailable = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
    cluster.topic_error("blocked.p", unavailable).unwrap();
    blocked.publish(1, &topic("blocked"), b"waits").await;
    bridge
        .wait_for("/readyz", "delivery iot-bridge-blocked")
        .await;
    bridge
        .wait_for("/readyz", "stalled: the oldest message waits")
        .await;
    for id in 1..=50 {
        free.publish(id, &topic("free"), b"flows").await;
    }
    assert_eq!(free.acknowledgements(50).await.len(), 50);
    let stalled = r#"bridge_stalled{session="iot-bridge-blocked"} 1"#;
    bridge.wait_for("/metrics", stalled).await;
    bridge
        .wait_for("/metrics", r#"bridge_stalled{session="iot-bridge-free"} 0"#)
        .await;
    let available = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    cluster.topic_error("blocked.p", available).unwrap();
    assert_eq!(blocked.acknowledgements(1).await, [1]);
    bridge.wait_for("/readyz", r#""ok":true"#).await;
    bridge.stop().await;
}

/// The broker's part when a session is drained: the client unsubscribes, takes and
/// acknowledges what is still queued, then ends the session.
async fn expect_drain(peer: &mut Peer, next_id: u16) {
    assert_eq!(
        peer.unsubscribe_all().await,
        ["mtic/msg/client/realtime/+/#".to_string()]
    );
    for id in next_id..next_id + 3 {
        peer.publish(id, TOPIC, b"queued").await;
    }
    assert_eq!(
        peer.acknowledgements(3).await,
        (next_id..next_id + 3).collect::<Vec<_>>()
    );
    match peer.next().await {
        Packet::Disconnect(Disconnect { properties, .. }) => {
            let expiry = properties.and_then(|said| said.session_expiry_interval);
            assert_eq!(expiry, Some(0), "the session must end");
        }
        other => panic!("expected DISCONNECT, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_drains_at_shutdown_leaves_no_session() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.shutdown = ShutdownMode::Drain;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"before").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let (_, ()) = tokio::join!(expect_drain(&mut peer, 2), bridge.stop());
    assert_eq!(cluster.read(KAFKA_TOPIC, 4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_empties_a_session_without_subscribing_to_it() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::drain(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept(true).await;
    expect_drain(&mut peer, 1).await;
    bridge.ended().await;
    assert_eq!(cluster.read(KAFKA_TOPIC, 3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_and_limits_change_while_it_runs() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let (settings, live) = settings(broker.address(), &cluster.brokers(), |config| {
        config.mqtt.filters = vec!["a/#".into()];
    });
    let bridge = Bridge::start_live(live).await;
    let mut peer = broker.accept(false).await;
    assert_eq!(peer.grant_all().await, ["a/#"]);
    settings.send_modify(|settings| {
        let mut changed = BridgeConfig::clone(settings);
        changed.mqtt.filters = vec!["b/#".into()];
        changed.kafka.max_message_bytes = ByteSize(5);
        *settings = changed.into();
    });
    let mut requests = [peer.next().await, peer.next().await].map(|packet| format!("{packet:?}"));
    // Their order is not defined.
    requests.sort();
    assert!(
        requests[0].starts_with("Subscribe") && requests[0].contains("b/#"),
        "{requests:?}"
    );
    assert!(
        requests[1].starts_with("Unsubscribe") && requests[1].contains("a/#"),
        "{requests:?}"
    );
    peer.publish(1, TOPIC, b"too large now").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let letters = cluster.read("iot.dead-letter", 1).await;
    assert_eq!(letters[0].header("dlq-reason"), Some("too_large"));
    bridge.stop().await;
}
