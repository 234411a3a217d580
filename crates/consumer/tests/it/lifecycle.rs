//! Starting, stopping, and an unreachable Kafka.

use std::time::Duration;

use iot_consumer::From;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use testkit::wait_for;

use crate::service::{Kafka, Service, config, message, now, waiting_config};

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
async fn a_restarted_consumer_has_the_same_state() {
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
    let devices =
        async |service: &Service| service.get("/api/v1/devices").await.1["devices"].take();
    let before = devices(&first).await;
    first.stop().await;
    assert_eq!(
        committed(&kafka),
        Some(20),
        "committed for tools that measure lag"
    );

    // The state was in memory, so the log is read again from its start.
    let second = Service::start(config(&kafka.brokers())).await;
    second.wait_consumed(20).await;
    assert_eq!(devices(&second).await, before);
    kafka
        .send("device-data", message("d9", begun, "temperature", 1.0))
        .await;
    second.wait_consumed(21).await;
    let lag = "kafka_consumer_lag_messages{partition=\"0\",topic=\"device-data\"}";
    second.wait_metric(lag, 0.0).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_skips_earlier_records() {
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
async fn an_unreachable_kafka_is_reported_and_reconnected() {
    let kafka = Kafka::new(&["device-data"]);
    kafka
        .send("device-data", message("d", now(), "temperature", 1.0))
        .await;
    kafka.down();
    let service = Service::start(config(&kafka.brokers())).await;
    let reason = wait_for("a reason", async || {
        let (status, report) = service.readyz().await;
        let reason = report["components"]["kafka"]["reason"].as_str()?.to_owned();
        (status == 503 && reason.contains("not reachable")).then_some(reason)
    })
    .await;
    assert!(reason.starts_with("brokers not reachable: "), "{reason}");
    kafka.up();
    service.wait_consumed(1).await;
    service.wait_ready().await;

    kafka.down();
    wait_for("it to be noticed", async || service.readyz().await.0 == 503).await;
    kafka.up();
    service.wait_ready().await;
    kafka
        .send("device-data", message("d", now(), "temperature", 2.0))
        .await;
    service.wait_consumed(2).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_stops_while_kafka_is_down() {
    let kafka = Kafka::new(&["device-data"]);
    kafka.down();
    let service = Service::start(config(&kafka.brokers())).await;
    wait_for("the start", async || service.readyz().await.0 == 503).await;
    service.stop().await;
}

/// Messages of devices `from` to `to`.
fn messages(from: i64, to: i64) -> Vec<String> {
    let begun = now() - 60_000;
    (from..to)
        .map(|n| message(&format!("d{n}"), begun + n, "temperature", 20.0).to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_topic_is_read_from_its_start_beside_an_idle_one() {
    let kafka = Kafka::new(&["device-data"]);
    kafka.send_all("device-data", &messages(0, 10)).await;
    let service = Service::start(waiting_config(&kafka.brokers())).await;
    service.wait_consumed(10).await;
    let mut total = 10;
    for topic in ["acme.one", "acme.two", "acme.three"] {
        kafka.create(topic, 2);
        kafka.send_all(topic, &messages(0, 5_000)).await;
        total += 5_000;
        service.wait_consumed(total).await;
    }
    // The idle one is still read, too.
    kafka.send_all("device-data", &messages(10, 20)).await;
    service.wait_consumed(total + 10).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_continues_after_an_offset_out_of_range() {
    let kafka = Kafka::new(&["device-data"]);
    let service = Service::start(config(&kafka.brokers())).await;
    let devices = async |count: i64| {
        let arrived =
            async || (service.get("/api/v1/devices").await.1["total"] == count).then_some(());
        wait_for(&format!("{count} devices"), arrived).await;
    };
    kafka.send_all("device-data", &messages(0, 100)).await;
    devices(100).await;
    for round in 1..4 {
        let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
        kafka.request_errors(RDKafkaApiKey::Fetch, &[error]);
        kafka
            .send_all("device-data", &messages(round * 100, round * 100 + 100))
            .await;
        devices(round * 100 + 100).await;
    }
    service.wait_ready().await;
    assert_eq!(
        service.metric("kafka_consumer_lost_records_total").await,
        Some(0.0)
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_cannot_be_read_is_reported() {
    let kafka = Kafka::new(&["device-data"]);
    kafka.send_all("device-data", &messages(0, 1)).await;
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 1_000];
    kafka.request_errors(RDKafkaApiKey::ListOffsets, &refused);
    let service = Service::start(config(&kafka.brokers())).await;
    wait_for("the reason", async || {
        let (status, report) = service.readyz().await;
        let reason = report["components"]["kafka"]["reason"].as_str()?.to_owned();
        (status == 503 && reason.contains("device-data, partition 0 is not read")).then_some(())
    })
    .await;
    kafka.clear_request_errors(RDKafkaApiKey::ListOffsets);
    service.wait_consumed(1).await;
    service.wait_ready().await;
    service.stop().await;
}
