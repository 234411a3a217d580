//! What the mock cluster does not do: groups that rebalance, topics that are created, and
//! logs that are truncated, on a real Kafka.

use futures::future::join_all;
use iot_consumer::ConsumerConfig;
use iot_kafka::security::SecurityProtocol;
use rdkafka::admin::{NewPartitions, NewTopic, TopicReplication};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use testkit::kafka::{admin, admin_options, create, producer, read, send, send_all};
use testkit::stack::{kafka_brokers, unique, variable};
use testkit::wait_for;

use crate::service::{Service, message, now, waiting_config};

const PARTITIONS: &str = "kafka_consumer_active_partitions";

/// A real Kafka, and names that no other test uses.
pub(crate) struct Real {
    pub(crate) brokers: String,
    /// Name of the group, and of the topic where a test needs only one.
    pub(crate) run: String,
    /// When the test began, in milliseconds since the epoch.
    pub(crate) begun: i64,
    pub(crate) producer: FutureProducer,
}

impl Real {
    pub(crate) fn new(name: &str) -> Self {
        let brokers = kafka_brokers();
        Self {
            producer: producer(&brokers),
            brokers,
            run: unique(name),
            begun: now(),
        }
    }

    pub(crate) async fn create(&self, topic: &str, partitions: i32) {
        let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1))
            .set("max.message.bytes", "8388608");
        create(&self.brokers, topic).await;
    }

    /// Settings of a consumer that reads `topics` only.
    pub(crate) fn config(&self, topics: &[&str]) -> ConsumerConfig {
        let mut config = waiting_config(&self.brokers);
        config.kafka.topics = topics.iter().map(ToString::to_string).collect();
        config.kafka.group = self.run.clone();
        config.dead_letter.topic = format!("iot.{}", self.run);
        config
    }

    pub(crate) async fn send(&self, topic: &str, partition: i32, payload: &[u8]) {
        let record = FutureRecord::<(), [u8]>::to(topic)
            .partition(partition)
            .payload(payload);
        send(&self.producer, record).await;
    }

    /// So many messages to each partition, every one from a device of its own.
    pub(crate) async fn send_each(
        &self,
        topic: &str,
        partitions: i32,
        numbers: std::ops::Range<i32>,
    ) {
        let sent = (0..partitions).flat_map(|partition| {
            numbers.clone().map(move |number| async move {
                let device = format!("p{partition}-{number}");
                let payload = message(&device, now(), "temperature", 20.0).to_string();
                self.send(topic, partition, payload.as_bytes()).await;
            })
        });
        join_all(sent).await;
    }
}

async fn devices(service: &Service) -> u64 {
    service.get("/api/v1/devices").await.1["total"]
        .as_u64()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn consumers_share_partitions_and_take_over() {
    let kafka = Real::new("share");
    let topic = kafka.run.clone();
    kafka.create(&topic, 4).await;
    kafka.send_each(&topic, 4, 0..10).await;
    let first = Service::start(kafka.config(&[&topic])).await;
    first.wait_metric(PARTITIONS, 4.0).await;
    first.wait_consumed(40).await;
    let second = Service::start(kafka.config(&[&topic])).await;
    second.wait_metric(PARTITIONS, 2.0).await;
    first.wait_metric(PARTITIONS, 2.0).await;
    kafka.send_each(&topic, 4, 10..20).await;
    // The second one has a state of its own and reads its half from the start.
    second.wait_consumed(40).await;
    first.wait_consumed(60).await;
    // Each follows what the other owns.
    for service in [&first, &second] {
        wait_for("all devices", async || {
            (devices(service).await == 80).then_some(())
        })
        .await;
    }

    second.stop().await;
    first.wait_metric(PARTITIONS, 4.0).await;
    // It continues where its own state of those partitions ends.
    first.wait_consumed(80).await;
    kafka.send_each(&topic, 4, 20..21).await;
    first.wait_consumed(84).await;
    assert_eq!(devices(&first).await, 84);
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn records_and_dead_letters_pass_with_a_password() {
    let kafka = Real::new("login");
    let topic = kafka.run.clone();
    kafka.create(&topic, 1).await;
    kafka.send_each(&topic, 1, 0..10).await;
    kafka.send(&topic, 0, b"no message").await;
    let mut config = kafka.config(&[&topic]);
    let letters = config.dead_letter.topic.clone();
    config.kafka.brokers = vec![variable("KAFKA_SASL_BROKERS")];
    config.kafka.security.protocol = SecurityProtocol::SaslPlaintext;
    config.kafka.security.username = variable("KAFKA_USERNAME");
    config.kafka.security.password = variable("KAFKA_PASSWORD").as_str().into();
    let service = Service::start(config).await;
    service.wait_consumed(11).await;
    assert_eq!(devices(&service).await, 10);
    let letters = read(&kafka.brokers, &letters, 1).await;
    assert_eq!(letters[0].payload, b"no message");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn records_deleted_before_they_were_read_are_counted() {
    let kafka = Real::new("loss");
    let topic = kafka.run.clone();
    kafka.create(&topic, 2).await;
    kafka.send_each(&topic, 2, 0..10).await;
    let first = Service::start(kafka.config(&[&topic])).await;
    first.wait_consumed(20).await;
    let second = Service::start(kafka.config(&[&topic])).await;
    first.wait_metric(PARTITIONS, 1.0).await;
    second.wait_metric(PARTITIONS, 1.0).await;
    kafka.send_each(&topic, 2, 10..20).await;
    second.wait_consumed(20).await;
    first.wait_consumed(30).await;
    let mut cut = TopicPartitionList::new();
    for partition in 0..2 {
        cut.add_partition_offset(&topic, partition, Offset::Offset(18))
            .unwrap();
    }
    let admin = admin(&kafka.brokers);
    let deleted = admin.delete_records(&cut, &admin_options()).await;
    deleted.unwrap();
    second.stop().await;
    // Its state of the partition ends at 10, and the log starts at 18 now.
    first
        .wait_metric("kafka_consumer_lost_records_total", 8.0)
        .await;
    first.wait_consumed(32).await;
    assert_eq!(first.readyz().await.0, 200);
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn added_partitions_are_read() {
    let mut kafka = Real::new("added");
    let topic = kafka.run.clone();
    kafka.create(&topic, 2).await;
    kafka.send_each(&topic, 2, 0..10).await;
    let service = Service::start(kafka.config(&[&topic])).await;
    service.wait_consumed(20).await;
    let more = NewPartitions::new(&topic, 4);
    let admin = admin(&kafka.brokers);
    let added = admin.create_partitions([&more], &admin_options()).await;
    added.unwrap().remove(0).unwrap();
    service.wait_metric(PARTITIONS, 4.0).await;
    // The old producer knows of two.
    kafka.producer = producer(&kafka.brokers);
    kafka.send_each(&topic, 4, 10..20).await;
    service.wait_consumed(60).await;
    assert_eq!(devices(&service).await, 60);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_new_bridged_topic_is_found_and_its_invalid_input_is_a_dead_letter() {
    let kafka = Real::new("bridged");
    let pattern = format!("^{}\\.[a-z]+$", kafka.run);
    let mut settings = kafka.config(&[&pattern]);
    // The service's own interval, as users have it.
    settings
        .kafka
        .properties
        .remove("topic.metadata.refresh.interval.ms");
    let service = Service::start(settings).await;
    wait_for("a reason", async || {
        let report = service.readyz().await.1;
        let reason = report["components"]["kafka"]["reason"].as_str()?.to_owned();
        reason.contains("none of the topics").then_some(())
    })
    .await;
    let topic = format!("{}.plant", kafka.run);
    kafka.create(&topic, 1).await;
    let huge = vec![b'x'; 2 << 20];
    kafka
        .send(
            &topic,
            0,
            message("d1", now(), "temperature", 20.0)
                .to_string()
                .as_bytes(),
        )
        .await;
    kafka.send(&topic, 0, &huge).await;
    kafka
        .send(
            &topic,
            0,
            message("d2", now(), "temperature", 20.0)
                .to_string()
                .as_bytes(),
        )
        .await;
    service.wait_consumed(3).await;
    service.wait_ready().await;
    let path = format!("/api/v1/devices/{}/plant/d2", kafka.run);
    assert_eq!(service.get(&path).await.0, 200);
    // The service has created the topic for dead letters, with room for large ones.
    let letters = read(&kafka.brokers, &format!("iot.{}", kafka.run), 1).await;
    assert_eq!(letters[0].payload, huge);
    assert_eq!(letters[0].header("dlq-topic"), Some(&*topic));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_new_topic_is_read_from_its_start_beside_an_idle_one() {
    const MESSAGES: i32 = 5_000;
    let kafka = Real::new("late");
    let quiet = format!("{}.quiet", kafka.run);
    kafka.create(&quiet, 2).await;
    kafka.send_each(&quiet, 2, 0..1).await;
    let settings = kafka.config(&[&format!("^{}\\.[a-z]+$", kafka.run)]);
    let service = Service::start(settings).await;
    service.wait_consumed(2).await;
    let late = ["one", "two", "three"].map(|name| format!("{}.{name}", kafka.run));
    for (number, topic) in (1..).zip(&late) {
        kafka.create(topic, 2).await;
        kafka.send_each(topic, 2, 0..MESSAGES).await;
        service
            .wait_consumed(2 + number * 2 * MESSAGES as u64)
            .await;
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_client_that_reads_survives_a_backlog_of_alerts() {
    const MESSAGES: i64 = 100_000;
    let kafka = Real::new("alerts");
    let topic = kafka.run.clone();
    kafka.create(&topic, 1).await;
    // Every message changes the alert of one device.
    let begun = now() - 3_600_000;
    for first in (0..MESSAGES).step_by(10_000) {
        let payloads = (first..first + 10_000).map(|number| {
            let value = if number % 2 == 0 { 60.0 } else { 20.0 };
            message("d", begun + number, "temperature", value).to_string()
        });
        let payloads: Vec<_> = payloads.collect();
        let records = payloads.iter().map(|payload| {
            let record = FutureRecord::<(), str>::to(&topic).partition(0);
            record.payload(payload)
        });
        send_all(&kafka.producer, records).await;
    }
    let mut settings = kafka.config(&[&topic]);
    // Two values in turn are another alert, which has repeats of its own.
    settings.detect.toggling.enabled = false;
    // All of it comes at once.
    settings.push.queue = iot_service::config::ByteSize::mib(64);
    let service = Service::start(settings).await;
    let mut client = service.connect().await;
    let mut before = None;
    while before != Some(begun + MESSAGES - 1) {
        let alert = client.of_type("alert").await;
        let timestamp = alert["alert"]["timestamp"].as_i64().unwrap();
        assert!(before.is_none_or(|before| before + 1 == timestamp));
        before = Some(timestamp);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_long_backlog_is_read_once_and_completely() {
    const MESSAGES: i32 = 100_000;
    let kafka = Real::new("backlog");
    let topic = kafka.run.clone();
    kafka.create(&topic, 2).await;
    let sent = async |partition: i32| {
        for first in (0..MESSAGES / 2).step_by(10_000) {
            let payloads = (first..first + 10_000).map(|number| {
                let device = format!("d{}", number % 100);
                message(&device, now(), "temperature", 20.0).to_string()
            });
            let payloads: Vec<_> = payloads.collect();
            let records = payloads.iter().map(|payload| {
                let record = FutureRecord::<(), str>::to(&topic).partition(partition);
                record.payload(payload)
            });
            send_all(&kafka.producer, records).await;
        }
    };
    tokio::join!(sent(0), sent(1));
    let service = Service::start(kafka.config(&[&topic])).await;
    service.wait_consumed(MESSAGES as u64).await;
    let paused = "kafka_consumer_paused_partitions";
    service.wait_metric(paused, 0.0).await;
    assert_eq!(
        service.metric("iot_readings_total").await,
        Some(f64::from(MESSAGES))
    );
    assert_eq!(service.metric("iot_store_conflicts_total").await, Some(0.0));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_static_member_that_returns_gets_its_partitions_without_a_rebalance() {
    let kafka = Real::new("static");
    let topic = kafka.run.clone();
    kafka.create(&topic, 4).await;
    kafka.send_each(&topic, 4, 0..5).await;
    let config = |name: &str| {
        let mut config = kafka.config(&[&topic]);
        config.kafka.group_instance_id = name.into();
        config.kafka.session_timeout = "45s".parse().unwrap();
        config
    };
    let stays = Service::start(config("stays")).await;
    stays.wait_metric(PARTITIONS, 4.0).await;
    let leaves = Service::start(config("leaves")).await;
    leaves.wait_metric(PARTITIONS, 2.0).await;
    stays.wait_metric(PARTITIONS, 2.0).await;
    let revoked = "kafka_consumer_rebalances_total{event=\"revoked\"}";
    let timed = "kafka_consumer_rebalance_duration_seconds_count{event=\"revoked\"}";
    stays.wait_metric(timed, 1.0).await;
    leaves.stop().await;
    let back = Service::start(config("leaves")).await;
    back.wait_metric(PARTITIONS, 2.0).await;
    kafka.send_each(&topic, 4, 5..10).await;
    // Its state is new: it reads its half from the start.
    back.wait_consumed(20).await;
    assert_eq!(stays.metric(PARTITIONS).await, Some(2.0));
    assert_eq!(stays.metric(revoked).await, Some(1.0), "the first join's");
    let lag = format!("kafka_consumer_lag_seconds{{partition=\"0\",topic=\"{topic}\"}}");
    wait_for("lag in seconds", async || {
        let lags = [stays.metric(&lag).await, back.metric(&lag).await];
        lags.contains(&Some(0.0)).then_some(())
    })
    .await;
    back.stop().await;
    stays.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_topic_that_accepts_records_from_the_future_is_a_warning() {
    let kafka = Real::new("future");
    let (good, bad) = (format!("{}.good", kafka.run), format!("{}.bad", kafka.run));
    for (topic, most) in [(&good, "3600000"), (&bad, "86400000")] {
        let topic = NewTopic::new(topic, 1, TopicReplication::Fixed(1))
            .set("message.timestamp.after.max.ms", most);
        create(&kafka.brokers, topic).await;
    }
    let service = Service::start(kafka.config(&[&good, &bad])).await;
    let reason = wait_for("a warning", async || {
        let report = service.readyz().await.1;
        let component = &report["components"]["record_times"];
        (component["state"] == "degraded").then(|| component["reason"].to_string())
    })
    .await;
    assert!(reason.contains(&bad) && !reason.contains(&good), "{reason}");
    service.wait_ready().await;
    assert_eq!(service.readyz().await.0, 200);
    service.stop().await;
}
