//! Starting, stopping, and a Kafka that isn't there.

use std::time::Duration;

use iot_consumer::From;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use crate::service::{Kafka, Service, config, message, now, wait_for, waiting_config};

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

/// Messages of devices `from` to `to`.
fn messages(from: i64, to: i64) -> Vec<String> {
    let begun = now() - 60_000;
    (from..to)
        .map(|n| message(&format!("d{n}"), begun + n, "temperature", 20.0).to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_topic_is_read_from_its_begin_beside_a_quiet_one() {
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
    // The quiet one is still read, too.
    kafka.send_all("device-data", &messages(10, 20)).await;
    service.wait_consumed(total + 10).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_out_of_range_is_looked_up_and_reading_goes_on() {
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
        kafka.cluster.request_errors(RDKafkaApiKey::Fetch, &[error]);
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
async fn a_partition_that_can_not_be_begun_is_said() {
    let kafka = Kafka::new(&["device-data"]);
    kafka.send_all("device-data", &messages(0, 1)).await;
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 1_000];
    kafka
        .cluster
        .request_errors(RDKafkaApiKey::ListOffsets, &refused);
    let service = Service::start(config(&kafka.brokers())).await;
    wait_for("the reason", async || {
        let (status, report) = service.readyz().await;
        let reason = report["components"]["kafka"]["reason"].as_str()?.to_owned();
        (status == 503 && reason.contains("device-data, partition 0 is not read")).then_some(())
    })
    .await;
    kafka
        .cluster
        .clear_request_errors(RDKafkaApiKey::ListOffsets);
    service.wait_consumed(1).await;
    service.wait_ready().await;
    service.stop().await;
}
