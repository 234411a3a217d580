//! A topic that is deleted and created again under the same name, on a real Kafka.

use testkit::kafka::{admin, admin_options, producer};
use testkit::redis::RedisServer;
use testkit::wait_for;

use crate::process::consumer;
use crate::real::Real;
use crate::service::Service;

const REPLACED: &str = "iot_store_logs_replaced_total";
const LOST: &str = "kafka_consumer_lost_records_total";

impl Real {
    /// Deletes the topic, creates it again, and sends so many messages, from the device `first`
    /// on.
    async fn recreate(&mut self, first: i32, count: i32) {
        let topic = self.run.clone();
        let (admin, options) = (admin(&self.brokers), admin_options());
        let deleted = admin.delete_topics(&[&topic], &options).await;
        deleted.unwrap().remove(0).unwrap();
        wait_for("the topic to be gone", async || {
            let metadata = admin
                .inner()
                .fetch_metadata(None, std::time::Duration::from_secs(10));
            let known = metadata.ok()?;
            let has = known.topics().iter().any(|found| found.name() == topic);
            (!has).then_some(())
        })
        .await;
        self.create(&topic, 1).await;
        // The old producer knows the old topic.
        self.producer = producer(&self.brokers);
        self.send_each(&topic, 1, first..first + count).await;
    }
}

/// A field of the partition's state.
fn field(redis: &RedisServer, kafka: &Real, name: &str) -> String {
    let key = format!("iot:{{{}:0}}:state", kafka.run);
    redis.cli(&["HGET", &key, name]).trim().to_owned()
}

async fn wait_stored(redis: &RedisServer, kafka: &Real, offset: i32) {
    let offset = offset.to_string();
    wait_for("the offset in Redis", async || {
        (field(redis, kafka, "offset") == offset).then_some(())
    })
    .await;
}

async fn wait_devices(service: &Service, count: u64) {
    wait_for("the devices", async || {
        let (_, found) = service.get("/api/v1/devices").await;
        (found["total"] == count).then_some(()).ok_or(found)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_topic_created_again_under_a_running_consumer_is_read_from_its_start() {
    let mut kafka = Real::new("recreated");
    let (topic, other) = (kafka.run.clone(), format!("{}-other", kafka.run));
    let redis = RedisServer::start(&[]).await;
    for (topic, devices) in [(&topic, 0..10), (&other, 5..15)] {
        kafka.create(topic, 1).await;
        kafka.send_each(topic, 1, devices).await;
    }
    let mut config = kafka.config(&[&topic, &other]);
    config.store.url = redis.url().as_str().into();
    let service = Service::start(config).await;
    service.wait_consumed(20).await;
    wait_stored(&redis, &kafka, 10).await;
    let before = field(&redis, &kafka, "topic_id");
    let mut client = service.connect().await;
    // Longer than the old one, whose offset would be inside it.
    kafka.recreate(100, 25).await;
    service.wait_metric(REPLACED, 1.0).await;
    service.wait_consumed(45).await;
    wait_stored(&redis, &kafka, 25).await;
    wait_devices(&service, 35).await;
    let after = field(&redis, &kafka, "topic_id");
    assert!(before != after && !before.is_empty() && !after.is_empty());
    assert_eq!(service.metric(LOST).await, Some(0.0));
    // Connected clients get the difference: the other topic has five of the devices too.
    let mut removed = 0;
    while removed < 5 {
        let frame = client.of_type("removed").await;
        removed += frame["devices"].as_array().map_or(0, Vec::len);
    }
    assert_eq!(removed, 5);
    let pattern = format!("iot:{{{topic}:0}}:aside?{before}");
    assert_eq!(
        redis
            .cli(&["--scan", "--pattern", &pattern])
            .lines()
            .count(),
        1
    );
    service.wait_ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_topic_created_again_while_the_consumer_is_stopped_is_read_from_its_start() {
    let mut kafka = Real::new("recreated-stopped");
    let topic = kafka.run.clone();
    let redis = RedisServer::start(&[]).await;
    kafka.create(&topic, 1).await;
    kafka.send_each(&topic, 1, 0..10).await;
    let mut config = kafka.config(&[&topic]);
    config.store.url = redis.url().as_str().into();
    let first = Service::start(config.clone()).await;
    wait_stored(&redis, &kafka, 10).await;
    first.stop().await;
    // Shorter than the log before, then longer.
    for (first, count) in [(100, 5), (200, 30)] {
        kafka.recreate(first, count).await;
        let service = Service::start(config.clone()).await;
        service.wait_metric(REPLACED, 1.0).await;
        service.wait_consumed(count.unsigned_abs().into()).await;
        wait_stored(&redis, &kafka, count).await;
        wait_devices(&service, count.unsigned_abs().into()).await;
        assert_eq!(service.metric(LOST).await, Some(0.0));
        service.wait_ready().await;
        service.stop().await;
    }
    let url = redis.url();
    let shown = consumer(&["state", "show", "--topic", &topic])
        .set("kafka.brokers", &kafka.brokers)
        .set("store.url", &url)
        .run()
        .await;
    let shown = shown.json();
    assert_eq!(
        (&shown["offset"], &shown["devices"]),
        (&30.into(), &30.into())
    );
    assert_eq!(shown["topic_id"], field(&redis, &kafka, "topic_id"));
    assert!(shown["leader_epoch"].is_i64(), "{shown}");
}
