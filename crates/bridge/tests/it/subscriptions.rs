//! What the broker refuses: readiness, metrics and retries.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, SubscribeReasonCode, UnsubAckReason};
use testkit::mqtt_broker::Broker;

use crate::{Bridge, TOPIC, gauge, start_cluster};

const REFUSED: SubscribeReasonCode = SubscribeReasonCode::NotAuthorized;
const READY: &str = r#""mqtt":{"state":"ready"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_filter_degrades_the_bridge_and_stops_no_other() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.mqtt.filters = vec!["mtic/#".into(), "other/#".into()];
    })
    .await;
    let mut peer = broker.accept(false).await;
    let id = peer.subscription().await.pkid;
    let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
    peer.grant(id, vec![granted, REFUSED]).await;
    peer.publish(1, TOPIC, b"flows").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let reason = "the broker refused the subscription to other/#: NotAuthorized; retrying";
    let degraded = format!(r#""mqtt":{{"reason":"{reason}","state":"degraded"}}"#);
    bridge.wait_for("/readyz", &degraded).await;
    bridge.wait_for("/readyz", r#""ok":true"#).await;
    let metrics = bridge.get("/metrics").await;
    for line in [
        gauge("mqtt_refused_filters", 1),
        gauge("mqtt_connection_status", 1),
    ] {
        assert!(metrics.contains(&line), "{line} is not in:\n{metrics}");
    }

    assert_eq!(peer.grant_all().await, ["other/#"]);
    bridge.wait_for("/readyz", READY).await;
    bridge
        .wait_for("/metrics", &gauge("mqtt_refused_filters", 0))
        .await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_without_any_subscription_is_not_ready_and_retries_on_the_same_connection() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept(false).await;
    let id = peer.subscription().await.pkid;
    peer.grant(id, vec![REFUSED]).await;
    let filter = "mtic/msg/client/realtime/+/#";
    let reason =
        format!("the broker refused the subscription to {filter}: NotAuthorized; retrying");
    let not_ready = format!(r#""mqtt":{{"reason":"{reason}","state":"not_ready"}}"#);
    bridge.wait_for("/readyz", &not_ready).await;
    let metrics = bridge.get("/metrics").await;
    for line in [
        gauge("mqtt_refused_filters", 1),
        gauge("mqtt_connection_status", 0),
    ] {
        assert!(metrics.contains(&line), "{line} is not in:\n{metrics}");
    }

    peer.grant_all().await;
    bridge.wait_for("/readyz", READY).await;
    bridge
        .wait_for("/metrics", &gauge("mqtt_connection_status", 1))
        .await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_end_the_session_before_its_subscriptions() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::drain(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept(true).await;
    let id = peer.unsubscription().await.pkid;
    peer.unsubscribed(id, vec![UnsubAckReason::NotAuthorized])
        .await;
    bridge
        .wait_for("/readyz", "the broker refused to end the subscription to")
        .await;
    assert_eq!(
        peer.unsubscribe_all().await,
        ["mtic/msg/client/realtime/+/#"]
    );
    peer.publish(1, TOPIC, b"queued").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let last = peer.next().await;
    assert!(matches!(last, Packet::Disconnect(_)), "{last:?}");
    bridge.ended().await;
    assert_eq!(cluster.read(crate::KAFKA_TOPIC, 1).await.len(), 1);
}
