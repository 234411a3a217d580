//! Deduplication: a message that is delivered twice is written once, where the bridge can
//! know that it is the same.

use iot_service::config::HumanDuration;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use testkit::kafka::{MockKafka, read_until};
use testkit::mqtt_broker::{Broker, Peer};
use testkit::stack::{kafka_brokers, unique};

use crate::{Bridge, KAFKA_TOPIC, TOPIC, gauge, start_cluster};

fn deduplicated(by: &str, count: u32) -> String {
    format!(r#"bridge_deduplicated_messages_total{{by="{by}"}} {count}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_in_flight_when_the_connection_breaks_are_written_once() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"1").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    cluster.down();
    for id in [2, 3, 4] {
        peer.publish(id, TOPIC, id.to_string().as_bytes()).await;
    }
    let in_flight = gauge("bridge_in_flight_messages", 3);
    bridge.wait_for("/metrics", &in_flight).await;
    drop(peer);

    let mut peer = broker.accept_subscribed(true).await;
    for id in [2, 3, 4] {
        peer.publish_again(id, TOPIC, id.to_string().as_bytes())
            .await;
    }
    peer.publish(5, TOPIC, b"5").await;
    bridge
        .wait_for("/metrics", &deduplicated("in_flight", 3))
        .await;
    cluster.up();
    assert_eq!(peer.acknowledgements(4).await, [2, 3, 4, 5]);
    let records = cluster.read(KAFKA_TOPIC, 5).await;
    let texts: Vec<_> = records.iter().map(|record| record.text()).collect();
    assert_eq!(texts, ["1", "2", "3", "4", "5"]);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_message_with_a_known_packet_identifier_is_written() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"one").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    drop(peer);
    let mut peer = broker.accept_subscribed(true).await;
    peer.publish_again(1, TOPIC, b"another").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    drop(peer);
    // The broker has lost the session, so packet identifiers start again.
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"another").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    assert_eq!(cluster.read(KAFKA_TOPIC, 3).await.len(), 3);
    bridge
        .wait_for("/metrics", &deduplicated("in_flight", 0))
        .await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_messages_with_the_same_id_field_the_first_is_written() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.dedupe.field = "messageId".into();
        config.dedupe.window = HumanDuration::from_secs(600);
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    let named = [
        r#"{"messageId":"a","v":1}"#,
        r#"{"messageId":"a","v":2}"#,
        "no name",
        "no name",
        r#"{"messageId":"b"}"#,
    ];
    for (id, payload) in (1..).zip(named) {
        peer.publish(id, TOPIC, payload.as_bytes()).await;
    }
    assert_eq!(peer.acknowledgements(5).await, [1, 2, 3, 4, 5]);
    let records = cluster.read(KAFKA_TOPIC, 4).await;
    let texts: Vec<_> = records.iter().map(|record| record.text()).collect();
    assert_eq!(texts, [named[0], named[2], named[3], named[4]]);
    bridge
        .wait_for("/metrics", &deduplicated("message_id", 1))
        .await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_qos_0_messages_beyond_the_limit_are_dropped_and_counted() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.mqtt.qos = 0;
        config.in_flight.messages = 10;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    bridge.wait_for("/readyz", r#""ok":true"#).await;
    cluster.down();
    for number in 0..25 {
        let payload = format!("{number}");
        peer.publish_at(QoS::AtMostOnce, 0, TOPIC, payload.as_bytes())
            .await;
    }
    bridge
        .wait_for("/metrics", "bridge_dropped_messages_total 15")
        .await;
    cluster.up();
    let records = cluster.read(KAFKA_TOPIC, 10).await;
    assert_eq!(records[9].text(), "9");
    bridge.stop().await;
}

/// A bridge that has delivered one message, under identifier 7, before Kafka went away.
async fn with_kafka_down() -> (Broker, MockKafka, Bridge, Peer) {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(7, TOPIC, b"first").await;
    assert_eq!(peer.acknowledgements(1).await, [7]);
    cluster.down();
    (broker, cluster, bridge, peer)
}

/// Some brokers send a message again that is not acknowledged in time, on the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_again_on_its_connection_is_written_and_acknowledged_once() {
    let (_broker, cluster, bridge, mut peer) = with_kafka_down().await;
    // Not in sequence, as of a broker that reuses identifiers at once.
    peer.publish(9, TOPIC, b"a").await;
    peer.publish(4, TOPIC, b"b").await;
    peer.publish_again(9, TOPIC, b"a").await;
    peer.publish_again(4, TOPIC, b"b").await;
    bridge
        .wait_for("/metrics", &deduplicated("in_flight", 2))
        .await;
    cluster.up();
    assert_eq!(peer.acknowledgements(2).await, [9, 4]);
    // The identifier is free again: this is another message with the same content.
    peer.publish(9, TOPIC, b"a").await;
    assert_eq!(peer.acknowledgements(1).await, [9]);
    peer.only_pings(1).await;
    let records = cluster.read(KAFKA_TOPIC, 4).await;
    let texts: Vec<_> = records.iter().map(|record| record.text()).collect();
    assert_eq!(texts, ["first", "a", "b", "a"]);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identifier_that_stands_for_another_message_is_acknowledged_once_that_is_written() {
    let (_broker, cluster, bridge, mut peer) = with_kafka_down().await;
    peer.publish(9, TOPIC, b"given up").await;
    peer.publish(9, TOPIC, b"other").await;
    bridge
        .wait_for("/metrics", "mqtt_messages_received_total 3")
        .await;
    cluster.up();
    assert_eq!(peer.acknowledgements(1).await, [9]);
    peer.only_pings(1).await;
    let records = cluster.read(KAFKA_TOPIC, 3).await;
    assert_eq!(records[2].text(), "other");
    bridge.stop().await;
}

/// Kafka confirms while there is no connection, so no acknowledgement can be sent. The broker
/// cannot have reused the identifiers, whatever it does with them otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn messages_confirmed_without_a_connection_are_written_once() {
    let (broker, cluster, bridge, mut peer) = with_kafka_down().await;
    let sent = [(9, b"a"), (4, b"b"), (30, b"c")];
    for (id, payload) in sent {
        peer.publish(id, TOPIC, payload).await;
    }
    bridge
        .wait_for("/metrics", "mqtt_messages_received_total 4")
        .await;
    drop(peer);
    cluster.up();
    bridge
        .wait_for("/metrics", "mqtt_unacknowledged_total 3")
        .await;
    let mut peer = broker.accept_subscribed(true).await;
    for (id, payload) in sent {
        peer.publish_again(id, TOPIC, payload).await;
    }
    assert_eq!(peer.acknowledgements(3).await, [9, 4, 30]);
    peer.only_pings(1).await;
    assert_eq!(cluster.read(KAFKA_TOPIC, 4).await.len(), 4);
    bridge
        .wait_for("/metrics", "kafka_messages_produced_total 4")
        .await;
    bridge.stop().await;
}

/// MQTT 5, section 4.3.3.
#[tokio::test(flavor = "multi_thread")]
async fn at_qos_2_a_message_is_written_once_until_it_is_released() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.mqtt.qos = 2;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    for resumed in [false, true] {
        if resumed {
            drop(peer);
            peer = broker.accept_subscribed(true).await;
        }
        for _ in 0..2 {
            peer.publish_at(QoS::ExactlyOnce, 9, TOPIC, b"a").await;
            let packet = peer.next().await;
            assert!(
                matches!(packet, Packet::PubRec(ref rec) if rec.pkid == 9),
                "{packet:?}"
            );
        }
    }
    peer.release(9).await;
    let packet = peer.next().await;
    assert!(
        matches!(packet, Packet::PubComp(ref comp) if comp.pkid == 9),
        "{packet:?}"
    );
    peer.publish_at(QoS::ExactlyOnce, 9, TOPIC, b"a").await;
    let packet = peer.next().await;
    assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}");
    assert_eq!(cluster.read(KAFKA_TOPIC, 2).await.len(), 2);
    bridge
        .wait_for("/metrics", "kafka_messages_produced_total 2")
        .await;
    bridge.stop().await;
}

/// All records of the only project, once the last one is there.
async fn written(tenant: &str, last: &'static str) -> Vec<String> {
    let topic = format!("{tenant}.project456");
    let records = read_until(&kafka_brokers(), &topic, move |records| {
        records.last().is_some_and(|record| record.text() == last)
    })
    .await;
    records.iter().map(|r| r.text().to_owned()).collect()
}

/// After this many messages the bridge knows that the broker counts packet identifiers up.
const SHOWN: u16 = 101;

/// A bridge writes messages, its acknowledgements of the last ten are lost, and the broker
/// delivers these again to the next bridge, with or without the session kept. Returns what
/// is in Kafka then.
async fn twice(name: &str, kept: bool) -> Vec<String> {
    let (broker, tenant) = (Broker::start().await, unique(name));
    let topic = TOPIC.replace("tenant123", &tenant);
    let kafka = kafka_brokers();
    let start = || {
        Bridge::start(broker.address(), &kafka, |config| {
            config.topics.create = true;
            config.mqtt.client_id = tenant.clone();
            config.mqtt.receive_maximum = SHOWN - 1;
            config.dead_letter.topic = format!("iot.dead-letter-{tenant}");
        })
    };
    let bridge = start().await;
    let mut peer = broker.accept_subscribed(false).await;
    // The checkpoint that says so comes with the message after.
    let last = SHOWN + 1;
    for id in 1..=last {
        peer.publish(id, &topic, id.to_string().as_bytes()).await;
    }
    peer.acknowledgements(last.into()).await;
    // Everything is confirmed, so that stopping has the effect of a crash.
    bridge.stop().await;
    let bridge = start().await;
    let mut peer = broker.accept_subscribed(kept).await;
    for id in last - 9..=last {
        peer.publish_again(id, &topic, id.to_string().as_bytes())
            .await;
    }
    peer.publish(last + 1, &topic, b"the end").await;
    assert_eq!(
        peer.acknowledgements(11).await,
        (last - 9..=last + 1).collect::<Vec<_>>()
    );
    let records = written(&tenant, "the end").await;
    let by_log = if kept { 10 } else { 0 };
    bridge
        .wait_for("/metrics", &deduplicated("log", by_log))
        .await;
    bridge.stop().await;
    records
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn messages_that_an_earlier_process_wrote_are_only_acknowledged() {
    let mut once: Vec<_> = (1..=SHOWN + 1).map(|number| number.to_string()).collect();
    once.push("the end".into());
    assert_eq!(twice("again", true).await, once);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn without_a_kept_session_every_message_is_written_again() {
    let once = usize::from(SHOWN) + 2;
    assert_eq!(twice("expired", false).await.len(), once + 10);
}
