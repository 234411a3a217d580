//! What only a real Kafka does: topics that are missing, or deleted.

use std::time::Duration;

use testkit::kafka::{Record, admin, admin_options, create_topic, read, read_all, read_until};
use testkit::mqtt_broker::Broker;
use testkit::stack::{kafka_brokers, unique};

use crate::{Bridge, TOPIC};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_topic_that_is_missing_and_may_not_be_created_blocks_nobody() {
    let (broker, tenant) = (Broker::start().await, unique("missing"));
    let dead_letters = format!("iot.dead-letter-{tenant}");
    let (brokers, there) = (kafka_brokers(), format!("{tenant}.there"));
    create_topic(&brokers, &dead_letters, 1).await;
    create_topic(&brokers, &there, 1).await;
    let bridge = Bridge::start(broker.address(), &kafka_brokers(), |config| {
        config.dead_letter.topic = dead_letters.clone();
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    let topic = |project| format!("mtic/msg/client/realtime/{tenant}/{project}");
    for id in (1..=6).step_by(2) {
        peer.publish(id, &topic("missing"), b"nowhere").await;
        peer.publish(id + 1, &topic("there"), b"somewhere").await;
    }
    assert_eq!(peer.acknowledgements(6).await, [1, 2, 3, 4, 5, 6]);
    let letters = read(&kafka_brokers(), &dead_letters, 3).await;
    assert!(
        letters
            .iter()
            .all(|letter| letter.header("dlq-reason") == Some("unknown_topic"))
    );
    assert_eq!(read(&brokers, &there, 3).await.len(), 3);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_topic_deleted_under_load_comes_back_and_order_is_kept() {
    let (broker, tenant) = (Broker::start().await, unique("deleted"));
    let bridge = Bridge::start(broker.address(), &kafka_brokers(), |config| {
        config.topics.create = true;
        config.dead_letter.topic = format!("iot.dead-letter-{tenant}");
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    let topic = TOPIC.replace("tenant123", &tenant);
    let kafka_topic = format!("{tenant}.project456");
    for id in 1..=50u16 {
        peer.publish(id, &topic, id.to_string().as_bytes()).await;
    }
    assert_eq!(
        peer.acknowledgements(50).await,
        (1..=50).collect::<Vec<_>>()
    );
    let brokers = kafka_brokers();
    let deleted = admin(&brokers)
        .delete_topics(&[&kafka_topic], &admin_options())
        .await;
    deleted.unwrap().remove(0).unwrap();
    for id in 51..=300u16 {
        peer.publish(id, &topic, id.to_string().as_bytes()).await;
        // The deletion takes a while to take effect: some come before that, some after.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let acknowledged = peer.acknowledgements(250).await;
    assert_eq!(acknowledged, (51..=300).collect::<Vec<_>>());
    // What was confirmed before the deletion took effect went with the topic.
    let up_to_last = |records: &[Record]| records.last().is_some_and(|last| last.text() == "300");
    let records = read_until(&brokers, &kafka_topic, up_to_last).await;
    let mut first_copies: Vec<u16> = Vec::new();
    for number in records.iter().map(|record| record.text().parse().unwrap()) {
        if !first_copies.contains(&number) {
            first_copies.push(number);
        }
    }
    assert!(first_copies.is_sorted(), "{first_copies:?}");
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn messages_wait_for_a_topic_that_cannot_be_created_yet() {
    let (broker, tenant) = (Broker::start().await, unique("early"));
    let dead_letters = format!("iot.dead-letter-{tenant}");
    let (brokers, there) = (kafka_brokers(), format!("{tenant}.there"));
    create_topic(&brokers, &dead_letters, 1).await;
    create_topic(&brokers, &there, 1).await;
    let bridge = Bridge::start(broker.address(), &brokers, |config| {
        config.topics.create = true;
        // More than there are brokers.
        config.topics.replication = 5;
        config.dead_letter.topic = dead_letters.clone();
        config.dedupe.redeliveries = false;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    let topic = |project| format!("mtic/msg/client/realtime/{tenant}/{project}");
    peer.publish(1, &topic("missing"), b"early").await;
    peer.publish(2, &topic("there"), b"other").await;
    bridge
        .wait_for(
            "/readyz",
            "cannot be created yet: INVALID_REPLICATION_FACTOR",
        )
        .await;
    let others = read(&brokers, &there, 1).await;
    assert_eq!(others[0].text(), "other", "other topics continue");
    // As if enough brokers were up now.
    let missing = format!("{tenant}.missing");
    create_topic(&brokers, &missing, 1).await;
    assert_eq!(peer.acknowledgements(2).await, [1, 2]);
    assert_eq!(read(&brokers, &missing, 1).await[0].text(), "early");
    assert_eq!(read_all(&brokers, &dead_letters).await, []);
    bridge.wait_for("/readyz", r#""ok":true"#).await;
    bridge.stop().await;
}
