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
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        .set("transactional.id", &topic)
        .create()
        .unwrap();
    let service = Service::start(kafka.config(&[&topic])).await;
    service.wait_ready().await;
    producer.init_transactions(DEADLINE).unwrap();
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
