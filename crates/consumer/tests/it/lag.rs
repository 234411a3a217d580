//! The lag that a consumer reports, on a real Kafka.

use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use testkit::kafka::send_all;
use testkit::redis::RedisServer;
use testkit::{DEADLINE, wait_for};

use crate::real::Real;
use crate::service::{Service, message, now};

/// Sends so many messages to partition 0.
async fn send(producer: &FutureProducer, topic: &str, count: usize) {
    let payload = message("d", now(), "temperature", 20.0).to_string();
    let record = || {
        FutureRecord::<(), str>::to(topic)
            .partition(0)
            .payload(&payload)
    };
    send_all(producer, (0..count).map(|_| record())).await;
}

fn lag(topic: &str) -> String {
    format!("kafka_consumer_lag_messages{{partition=\"0\",topic=\"{topic}\"}}")
}

/// A producer with that transactional id, before its first transaction.
fn transactional(kafka: &Real, id: &str) -> FutureProducer {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        .set("transactional.id", id)
        .create()
        .unwrap();
    producer.init_transactions(DEADLINE).unwrap();
    producer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn the_lag_of_a_paused_partition_grows() {
    let kafka = Real::new("paused-lag");
    let topic = kafka.run.clone();
    kafka.create(&topic, 1).await;
    let mut redis = RedisServer::start(&[]).await;
    let mut config = kafka.config(&[&topic]);
    config.store.url = redis.url().as_str().into();
    let service = Service::start(config).await;
    // Wait until it reads: without its state a partition is held, not paused.
    send(&kafka.producer, &topic, 1).await;
    service.wait_consumed(1).await;
    redis.kill();
    // How many records are accepted before that depends on how fast they arrive.
    let mut sent = 1;
    wait_for("the partition to be paused", async || {
        send(&kafka.producer, &topic, 10_000).await;
        sent += 10_000;
        let paused = service.metric("kafka_consumer_paused_partitions").await?;
        (paused == 1.0).then_some(())
    })
    .await;
    for end in [sent, sent + 1_000] {
        wait_for(&format!("the lag to {end}"), async || {
            let consumed = service.metric("kafka_consumer_messages_consumed_total");
            let behind = end as f64 - consumed.await?;
            let lag = service.metric(&lag(&topic)).await?;
            (lag >= behind && lag <= end as f64).then_some(())
        })
        .await;
        send(&kafka.producer, &topic, 1_000).await;
    }
    redis.start_again().await;
    service.wait_metric(&lag(&topic), 0.0).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn transaction_markers_do_not_count_as_lag() {
    let kafka = Real::new("transaction-lag");
    let topic = kafka.run.clone();
    kafka.create(&topic, 1).await;
    let producer = transactional(&kafka, &topic);
    let service = Service::start(kafka.config(&[&topic])).await;
    service.wait_ready().await;
    for commit in [true, false, true, false] {
        producer.begin_transaction().unwrap();
        send(&producer, &topic, 10).await;
        if commit {
            producer.commit_transaction(DEADLINE).unwrap();
        } else {
            producer.abort_transaction(DEADLINE).unwrap();
        }
    }
    service.wait_consumed(20).await;
    service.wait_metric(&lag(&topic), 0.0).await;
    send(&kafka.producer, &topic, 5).await;
    service.wait_consumed(25).await;
    service.wait_metric(&lag(&topic), 0.0).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn records_behind_an_open_transaction_are_lag_and_reported() {
    let kafka = Real::new("open-transaction");
    let topic = kafka.run.clone();
    kafka.create(&topic, 1).await;
    let producer = transactional(&kafka, &topic);
    let service = Service::start(kafka.config(&[&topic])).await;
    service.wait_ready().await;
    producer.begin_transaction().unwrap();
    send(&producer, &topic, 10).await;
    // Another producer's records wait behind it.
    send(&kafka.producer, &topic, 5).await;
    service.wait_metric(&lag(&topic), 15.0).await;
    let (status, stats) = service.get("/api/v1/stats").await;
    assert_eq!(status, 200);
    assert_eq!(stats["lag"], 15);
    let reason = wait_for("the transaction to be reported", async || {
        let (status, report) = service.readyz().await;
        let kafka = &report["components"]["kafka"];
        let reason = kafka["reason"].as_str()?.to_owned();
        (status == 200 && kafka["state"] == "degraded").then_some(reason)
    })
    .await;
    let start = format!("{topic}, partition 0: records from offset 0 on wait for a transaction");
    assert!(reason.starts_with(&start), "{reason}");
    producer.commit_transaction(DEADLINE).unwrap();
    service.wait_consumed(15).await;
    service.wait_metric(&lag(&topic), 0.0).await;
    wait_for("it to be over", async || {
        let (_, report) = service.readyz().await;
        (report["components"]["kafka"]["state"] == "ready").then_some(())
    })
    .await;
    service.stop().await;
}
