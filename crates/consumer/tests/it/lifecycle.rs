//! Starting, stopping, and a Kafka that isn't there.

use std::time::Duration;

use iot_consumer::From;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::service::{Kafka, Service, config, message, now, wait_for};

/// What the group has committed for `device-data`, partition 0.
fn committed(kafka: &Kafka) -> Option<i64> {
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("group.id", "iot-consumer-group")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition("device-data", 0);
    let found = reader
        .committed_offsets(list, Duration::from_secs(10))
        .unwrap();
    match found.elements()[0].offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_stops_and_starts_knows_the_same() {
    let kafka = Kafka::new(&["device-data"]);
    let first = Service::start(config(&kafka.brokers())).await;
    let begun = now() - 60_000;
    for n in 0..20 {
        kafka
            .send(
                "device-data",
                message(&format!("d{}", n % 5), begun + n, "temperature", n as f64),
            )
            .await;
    }
    first.wait_consumed(20).await;
    let before = first.get("/api/v1/devices").await;
    first.stop().await;
    assert_eq!(
        committed(&kafka),
        Some(20),
        "offsets are there for lag tools"
    );

    // The memory is gone, so the log is read again from its begin.
    let second = Service::start(config(&kafka.brokers())).await;
    second.wait_consumed(20).await;
    assert_eq!(second.get("/api/v1/devices").await, before);
    kafka
        .send("device-data", message("d9", begun, "temperature", 1.0))
        .await;
    second.wait_consumed(21).await;
    wait_for("no lag", async || {
        let lag = "kafka_consumer_lag_messages{partition=\"0\",topic=\"device-data\"}";
        (second.metric(lag).await? == 0.0).then_some(())
    })
    .await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_skips_what_was_there_before() {
    let kafka = Kafka::new(&["device-data"]);
    kafka
        .send("device-data", message("before", now(), "temperature", 1.0))
        .await;
    let mut settings = config(&kafka.brokers());
    settings.kafka.from = From::Latest;
    let service = Service::start(settings).await;
    service.wait_ready().await;
    wait_for("the partition to be read", async || {
        kafka
            .send("device-data", message("after", now(), "temperature", 1.0))
            .await;
        let (status, _) = service.get("/api/v1/devices/default/default/after").await;
        (status == 200).then_some(())
    })
    .await;
    let (status, _) = service.get("/api/v1/devices/default/default/before").await;
    assert_eq!(status, 404);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kafka_that_is_down_is_said_and_waited_for() {
    let kafka = Kafka::new(&["device-data"]);
    kafka
        .send("device-data", message("d", now(), "temperature", 1.0))
        .await;
    kafka.cluster.broker_down(-1).unwrap();
    let service = Service::start(config(&kafka.brokers())).await;
    let reason = wait_for("a reason", async || {
        let (status, report) = service.readyz().await;
        let reason = report["components"]["kafka"]["reason"].as_str()?.to_owned();
        (status == 503 && reason.contains("not reachable")).then_some(reason)
    })
    .await;
    assert!(reason.starts_with("brokers not reachable: "), "{reason}");
    kafka.cluster.broker_up(-1).unwrap();
    service.wait_consumed(1).await;
    service.wait_ready().await;

    kafka.cluster.broker_down(-1).unwrap();
    wait_for("it to be noticed", async || {
        (service.readyz().await.0 == 503).then_some(())
    })
    .await;
    kafka.cluster.broker_up(-1).unwrap();
    service.wait_ready().await;
    kafka
        .send("device-data", message("d", now(), "temperature", 2.0))
        .await;
    service.wait_consumed(2).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stops_while_kafka_is_down() {
    let kafka = Kafka::new(&["device-data"]);
    kafka.cluster.broker_down(-1).unwrap();
    let service = Service::start(config(&kafka.brokers())).await;
    wait_for("the start", async || {
        (service.readyz().await.0 == 503).then_some(())
    })
    .await;
    service.stop().await;
}
