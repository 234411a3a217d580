//! What Kafka refuses for a while: it is tried again, and not remembered.

use iot_service::config::HumanDuration;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use testkit::mqtt_broker::Broker;
use testkit::wait_for;

use crate::{Bridge, KAFKA_TOPIC, TOPIC, start_cluster};

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_fails_is_replaced_until_one_works() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    // To get a producer id is the first that an idempotent producer does.
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[denied; 1_000]);
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.kafka.stalled_after = HumanDuration::from_secs(1);
        config.dedupe.redeliveries = false;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    for id in 1..=3 {
        peer.publish(id, TOPIC, id.to_string().as_bytes()).await;
    }
    bridge
        .wait_for(
            "/readyz",
            "the producer failed: CLUSTER_AUTHORIZATION_FAILED",
        )
        .await;
    cluster.clear_request_errors(RDKafkaApiKey::InitProducerId);
    assert_eq!(peer.acknowledgements(3).await, [1, 2, 3]);
    let records = cluster.read(KAFKA_TOPIC, 3).await;
    let texts: Vec<_> = records.iter().map(|record| record.text()).collect();
    assert_eq!(texts, ["1", "2", "3"]);
    bridge.wait_for("/readyz", r#""ok":true"#).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_without_rights_is_written_once_they_are_granted() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.topic_error(KAFKA_TOPIC, denied).unwrap();
    let bridge = Bridge::start(broker.address(), &cluster.brokers(), |config| {
        config.dedupe.redeliveries = false;
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"denied").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let letters = cluster.read("iot.dead-letter", 1).await;
    assert_eq!(letters[0].header("dlq-reason"), Some("not_authorized"));

    let none = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    cluster.topic_error(KAFKA_TOPIC, none).unwrap();
    let count = async |name: &str| bridge.ops.metric(name).await.unwrap();
    let mut id = 1;
    wait_for("a record in the topic", async || {
        id += 1;
        peer.publish(id, TOPIC, b"granted").await;
        assert_eq!(peer.acknowledgements(1).await, [id]);
        let denied = r#"message_processing_errors_total{reason="not_authorized"}"#;
        count("kafka_messages_produced_total").await > count(denied).await
    })
    .await;
    assert_eq!(cluster.read(KAFKA_TOPIC, 1).await[0].text(), "granted");
    bridge.stop().await;
}
