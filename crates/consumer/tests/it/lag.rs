//! How far behind a consumer says it is, on a real Kafka.

use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::real::{Real, wait_metric};
use crate::redis_server::Server;
use crate::service::{DEADLINE, Service, message, now, wait_for};

/// Sends so many messages to partition 0.
async fn send(producer: &FutureProducer, topic: &str, count: usize) {
    let payload = message("d", now(), "temperature", 20.0).to_string();
    let mut left = count;
    while left > 0 {
        let portion = left.min(5_000);
        let sent = (0..portion).map(|_| {
            let record = FutureRecord::<(), str>::to(topic).partition(0);
            let queued = producer.send_result(record.payload(&payload));
            queued.map_err(|(error, _)| error).unwrap()
        });
        for sent in futures::future::join_all(sent.collect::<Vec<_>>()).await {
            sent.unwrap().map_err(|(error, _)| error).unwrap();
        }
        left -= portion;
    }
}

fn lag(topic: &str) -> String {
    format!("kafka_consumer_lag_messages{{partition=\"0\",topic=\"{topic}\"}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_paused_partition_falls_behind_what_comes_in() {
    let kafka = Real::new("paused-lag");
    let topic = kafka.run.clone();
    kafka.create(&topic, 1).await;
    let mut redis = Server::start(&[]).await;
    let mut config = kafka.config(&[&topic]);
    config.store.url = redis.url().as_str().into();
    let service = Service::start(config).await;
    // Ready is not yet reading: without its state it would be held, not paused.
    send(&kafka.producer, &topic, 1).await;
    service.wait_consumed(1).await;
    redis.kill();
    // How much is taken on first depends on how fast it comes.
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
    wait_metric(&service, &lag(&topic), 0.0).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn the_end_of_a_transaction_is_no_message() {
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
    wait_metric(&service, &lag(&topic), 0.0).await;
    send(&kafka.producer, &topic, 5).await;
    service.wait_consumed(25).await;
    wait_metric(&service, &lag(&topic), 0.0).await;
    service.stop().await;
}
