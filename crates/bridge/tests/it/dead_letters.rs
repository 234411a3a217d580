//! Dead letters: what can't be written is kept, and everything around it arrives.

use testkit::mqtt_broker::Broker;

use crate::{Bridge, KAFKA_TOPIC, TOPIC, start_cluster};

#[tokio::test(flavor = "multi_thread")]
async fn unroutable_messages_are_dead_letters_and_the_others_arrive() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
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

    let arrived = cluster.read(KAFKA_TOPIC, 2).await;
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
        .wait_for(
            "/metrics",
            r#"message_processing_errors_total{reason="reserved_topic"} 2"#,
        )
        .await;
    bridge.stop().await;
}

/// A PUBLISH of QoS 1 with these properties, as it is on the wire.
fn publish_with(packet_id: u8, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0, TOPIC.len() as u8];
    body.extend(TOPIC.as_bytes());
    body.extend([0, packet_id, properties.len() as u8]);
    body.extend(properties);
    body.extend(payload);
    let length = u8::try_from(body.len()).unwrap();
    assert!(length < 0x80, "the length takes one byte");
    [vec![0x32, length], body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_with_invalid_properties_are_dead_letters_and_the_others_arrive() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    let poison: [(&[u8], &str); 4] = [
        (
            b"\x26\x00\x04unit\x00\x02\xb0C",
            r#"user property "unit" is not UTF-8"#,
        ),
        (b"\x03\x00\x02\xb0C", "content type is not UTF-8"),
        (b"\x08\x00\x02\xb0C", "response topic is not UTF-8"),
        (b"\x7f\x01", "property 0x7f is unknown or incomplete"),
    ];
    peer.publish(1, TOPIC, b"before").await;
    for (id, (properties, _)) in (2..).zip(poison) {
        peer.send_bytes(&publish_with(id, properties, b"poison"))
            .await;
    }
    peer.publish(6, TOPIC, b"after").await;
    assert_eq!(peer.acknowledgements(6).await, [1, 2, 3, 4, 5, 6]);
    let arrived = cluster.read(KAFKA_TOPIC, 2).await;
    let texts: Vec<_> = arrived.iter().map(|record| record.text()).collect();
    assert_eq!(texts, ["before", "after"]);
    let letters = cluster.read("iot.dead-letter", poison.len()).await;
    for (letter, (_, detail)) in letters.iter().zip(poison) {
        assert_eq!(letter.header("dlq-reason"), Some("invalid_properties"));
        assert_eq!(letter.header("dlq-detail"), Some(detail));
        assert_eq!(letter.header("dlq-topic"), Some(TOPIC));
        assert_eq!(letter.payload, b"poison");
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_user_properties_are_a_dead_letter_and_block_nothing() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    // The user properties alone are larger than a dead letter may be.
    let property = ("note".to_string(), "x".repeat(60_000));
    peer.publish_with(1, TOPIC, b"heavy", vec![property; 150])
        .await;
    peer.publish(2, TOPIC, b"light").await;
    assert_eq!(peer.acknowledgements(2).await, [1, 2]);
    let letters = cluster.read("iot.dead-letter", 1).await;
    assert_eq!(letters[0].payload, b"heavy");
    assert_eq!(letters[0].header("dlq-reason"), Some("too_large"));
    assert_eq!(letters[0].header("note"), None);
    assert_eq!(cluster.read(KAFKA_TOPIC, 1).await[0].payload, b"light");
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_refused_batch_are_sent_again_one_by_one() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |_| {}).await;
    let mut peer = broker.accept_subscribed(false).await;
    // The first batch is refused whatever it contains; each record alone is accepted.
    cluster.refuse_next_batch_as_too_large();
    for id in 1..=5 {
        peer.publish(id, TOPIC, id.to_string().as_bytes()).await;
    }
    assert_eq!(peer.acknowledgements(5).await, [1, 2, 3, 4, 5]);
    let mut arrived: Vec<_> = cluster.read(KAFKA_TOPIC, 5).await;
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
