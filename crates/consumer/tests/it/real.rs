//! What the mock cluster can't show: groups that rebalance, topics that are
//! created, and logs that are cut, on a real Kafka.

use std::time::Duration;

use futures::future::join_all;
use iot_consumer::ConsumerConfig;
use iot_kafka::security::SecurityProtocol;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::Message as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::service::{
    DEADLINE, Endpoints, Service, header, message, now, producer, read, wait_for, waiting_config,
};

const PARTITIONS: &str = "kafka_consumer_active_partitions";

/// What the stack has said.
pub(crate) fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: scripts/stack env"))
}

/// A real Kafka, and names that no other test uses.
pub(crate) struct Real {
    pub(crate) brokers: String,
    pub(crate) run: String,
    pub(crate) producer: FutureProducer,
    admin: AdminClient<DefaultClientContext>,
}

impl Real {
    pub(crate) fn new(name: &str) -> Self {
        let brokers = std::env::var("KAFKA_BROKERS").expect(
            "KAFKA_BROKERS must name a real Kafka: scripts/stack up, then scripts/stack env",
        );
        let admin = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .create()
            .unwrap();
        let run = format!("{name}-{}", now());
        Self {
            producer: producer(&brokers),
            brokers,
            run,
            admin,
        }
    }

    pub(crate) async fn create(&self, topic: &str, partitions: i32) {
        let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1))
            .set("max.message.bytes", "8388608");
        for result in self
            .admin
            .create_topics([&topic], &AdminOptions::new())
            .await
            .unwrap()
        {
            result.unwrap();
        }
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
        let sent = self.producer.send(record, Timeout::After(DEADLINE)).await;
        sent.map_err(|(error, _)| error).unwrap();
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

pub(crate) async fn wait_metric(service: &Endpoints, name: &str, value: f64) {
    wait_for(&format!("{name} to be {value}"), async || {
        (service.metric(name).await? == value).then_some(())
    })
    .await;
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
    wait_metric(&first, PARTITIONS, 4.0).await;
    first.wait_consumed(40).await;
    let second = Service::start(kafka.config(&[&topic])).await;
    wait_metric(&second, PARTITIONS, 2.0).await;
    wait_metric(&first, PARTITIONS, 2.0).await;
    kafka.send_each(&topic, 4, 10..20).await;
    // The second one has a memory of its own and reads its half from the begin.
    second.wait_consumed(40).await;
    first.wait_consumed(60).await;
    assert_eq!((devices(&first).await, devices(&second).await), (40, 40));

    second.stop().await;
    wait_metric(&first, PARTITIONS, 4.0).await;
    // It goes on where its own memory of those partitions ends.
    first.wait_consumed(80).await;
    kafka.send_each(&topic, 4, 20..21).await;
    first.wait_consumed(84).await;
    assert_eq!(devices(&first).await, 84);
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_login_with_a_password_reads_and_writes_dead_letters() {
    let kafka = Real::new("login");
    let topic = kafka.run.clone();
    kafka.create(&topic, 1).await;
    kafka.send_each(&topic, 1, 0..10).await;
    kafka.send(&topic, 0, b"no message").await;
    let mut config = kafka.config(&[&topic]);
    let letters = config.dead_letter.topic.clone();
    config.kafka.brokers = vec![environment("KAFKA_SASL_BROKERS")];
    config.kafka.security.protocol = SecurityProtocol::SaslPlaintext;
    config.kafka.security.username = environment("KAFKA_USERNAME");
    config.kafka.security.password = environment("KAFKA_PASSWORD").as_str().into();
    let service = Service::start(config).await;
    service.wait_consumed(11).await;
    assert_eq!(devices(&service).await, 10);
    let letters = read(&kafka.brokers, &letters, 1, 1).await;
    assert_eq!(letters[0].payload(), Some(&b"no message"[..]));
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
    wait_metric(&first, PARTITIONS, 1.0).await;
    wait_metric(&second, PARTITIONS, 1.0).await;
    kafka.send_each(&topic, 2, 10..20).await;
    second.wait_consumed(20).await;
    first.wait_consumed(30).await;
    let mut cut = TopicPartitionList::new();
    for partition in 0..2 {
        cut.add_partition_offset(&topic, partition, Offset::Offset(18))
            .unwrap();
    }
    kafka
        .admin
        .delete_records(&cut, &AdminOptions::new())
        .await
        .unwrap();
    second.stop().await;
    // Its memory of the partition ends at 10, and the log begins at 18 now.
    wait_metric(&first, "kafka_consumer_lost_records_total", 8.0).await;
    first.wait_consumed(32).await;
    assert_eq!(first.readyz().await.0, 200);
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn partitions_that_are_added_are_read() {
    let mut kafka = Real::new("added");
    let topic = kafka.run.clone();
    kafka.create(&topic, 2).await;
    kafka.send_each(&topic, 2, 0..10).await;
    let service = Service::start(kafka.config(&[&topic])).await;
    service.wait_consumed(20).await;
    let more = NewPartitions::new(&topic, 4);
    let added = kafka
        .admin
        .create_partitions([&more], &AdminOptions::new())
        .await;
    assert!(added.unwrap().iter().all(Result::is_ok));
    wait_metric(&service, PARTITIONS, 4.0).await;
    // The producer so far knows of two.
    kafka.producer = producer(&kafka.brokers);
    kafka.send_each(&topic, 4, 10..20).await;
    service.wait_consumed(60).await;
    assert_eq!(devices(&service).await, 60);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_new_bridged_topic_is_found_and_its_bad_input_kept() {
    let kafka = Real::new("bridged");
    let pattern = format!("^{}\\.[a-z]+$", kafka.run);
    let mut settings = kafka.config(&[&pattern]);
    // As a user would have it: the interval is the service's own.
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
    let letters = read(&kafka.brokers, &format!("iot.{}", kafka.run), 1, 1).await;
    assert_eq!(letters[0].payload(), Some(&huge[..]));
    assert_eq!(header(&letters[0], "dlq-topic"), Some(topic));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_new_topic_is_read_from_its_begin_beside_a_quiet_one() {
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
        let sent = (first..first + 10_000).map(|number| {
            let value = if number % 2 == 0 { 60.0 } else { 20.0 };
            let payload = message("d", begun + number, "temperature", value).to_string();
            let record = FutureRecord::<(), str>::to(&topic).partition(0);
            let queued = kafka.producer.send_result(record.payload(&payload));
            queued.map_err(|(error, _)| error).unwrap()
        });
        for sent in join_all(sent.collect::<Vec<_>>()).await {
            sent.unwrap().map_err(|(error, _)| error).unwrap();
        }
    }
    let mut settings = kafka.config(&[&topic]);
    // Two values in turn are another alert, which has repeats of its own.
    settings.detect.toggling.enabled = false;
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
        let mut confirmed = Vec::new();
        for number in 0..MESSAGES / 2 {
            let sent =
                message(&format!("d{}", number % 100), now(), "temperature", 20.0).to_string();
            let record = FutureRecord::<(), str>::to(&topic)
                .partition(partition)
                .payload(&sent);
            let queued = kafka
                .producer
                .send_result(record)
                .map_err(|(error, _)| error);
            confirmed.push(queued.unwrap());
            if confirmed.len() >= 10_000 {
                join_all(confirmed.drain(..)).await;
            }
        }
        join_all(confirmed).await;
    };
    tokio::join!(sent(0), sent(1));
    let service = Service::start(kafka.config(&[&topic])).await;
    service.wait_consumed(MESSAGES as u64).await;
    tokio::time::timeout(Duration::from_secs(60), async {
        wait_metric(&service, "kafka_consumer_paused_partitions", 0.0).await;
    })
    .await
    .unwrap();
    assert_eq!(
        service.metric("iot_readings_total").await,
        Some(f64::from(MESSAGES))
    );
    assert_eq!(service.metric("iot_store_conflicts_total").await, Some(0.0));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_named_member_that_comes_back_has_its_partitions_without_a_rebalance() {
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
    wait_metric(&stays, PARTITIONS, 4.0).await;
    let leaves = Service::start(config("leaves")).await;
    wait_metric(&leaves, PARTITIONS, 2.0).await;
    wait_metric(&stays, PARTITIONS, 2.0).await;
    let revoked = "kafka_consumer_rebalances_total{event=\"revoked\"}";
    let timed = "kafka_consumer_rebalance_duration_seconds_count{event=\"revoked\"}";
    wait_metric(&stays, timed, 1.0).await;
    leaves.stop().await;
    let back = Service::start(config("leaves")).await;
    wait_metric(&back, PARTITIONS, 2.0).await;
    kafka.send_each(&topic, 4, 5..10).await;
    // Its memory is new: it reads its half from the begin.
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
