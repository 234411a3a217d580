//! Partitions that another replica owns: each replica shows the devices of all.

use iot_consumer::{ConsumerConfig, Follow, Role};
use serde_json::json;
use testkit::{http, wait_for};

use crate::service::{Kafka, Service, config, message, now};

const PARTITIONS: &str = "kafka_consumer_active_partitions";
const FOLLOWED: &str = "iot_followed_partitions";
/// Of one partition each.
const TOPICS: [&str; 4] = ["device-data", "acme.a", "acme.b", "acme.c"];

async fn shown(service: &Service) -> u64 {
    let (status, devices) = service.get("/api/v1/devices").await;
    assert_eq!(status, 200, "{devices}");
    devices["total"].as_u64().unwrap()
}

/// The value of a device, if it is shown.
async fn value(service: &Service, topic: &str) -> Option<f64> {
    let (_, devices) = service.get("/api/v1/devices").await;
    let id = format!("d-{topic}");
    let mut devices = devices["devices"].as_array()?.iter();
    let device = devices.find(|device| device["device"] == *id)?;
    device["readings"]["temperature"]["value"].as_f64()
}

async fn send_all(kafka: &Kafka, value: f64) {
    for topic in TOPICS {
        let message = message(&format!("d-{topic}"), now(), "temperature", value);
        kafka.send(topic, message).await;
    }
}

/// Waits until all devices have that value.
async fn wait_value(service: &Service, expected: f64) {
    wait_for("all values", async || {
        for topic in TOPICS {
            if value(service, topic).await != Some(expected) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

fn with_role(kafka: &Kafka, role: Role) -> ConsumerConfig {
    let mut config = config(&kafka.brokers());
    config.role = role;
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_replica_shows_all_devices_and_goes_on_without_a_blank_when_the_other_ends() {
    let kafka = Kafka::new(&TOPICS);
    send_all(&kafka, 1.0).await;
    let first = Service::start(config(&kafka.brokers())).await;
    first.wait_ready().await;
    wait_value(&first, 1.0).await;
    let second = Service::start(config(&kafka.brokers())).await;
    wait_for("the partitions to be shared", async || {
        // What is revoked is followed, and never gone.
        assert_eq!(shown(&first).await, 4);
        let owned = [
            first.metric(PARTITIONS).await,
            second.metric(PARTITIONS).await,
        ];
        (owned == [Some(2.0); 2]).then_some(())
    })
    .await;
    second.wait_ready().await;
    for service in [&first, &second] {
        service.wait_metric(FOLLOWED, 2.0).await;
        wait_value(service, 1.0).await;
    }
    send_all(&kafka, 2.0).await;
    for service in [&first, &second] {
        wait_value(service, 2.0).await;
    }
    let lag = r#"iot_follower_lag_messages{partition="0",topic="acme.a"}"#;
    let lags = [first.metric(lag).await, second.metric(lag).await];
    assert!(
        lags.contains(&Some(0.0)) && lags.contains(&None),
        "{lags:?}"
    );

    let ending = tokio::spawn(first.stop());
    wait_for("the takeover", async || {
        assert_eq!(shown(&second).await, 4);
        let owned = second.metric(PARTITIONS).await;
        (owned == Some(4.0) && ending.is_finished()).then_some(())
    })
    .await;
    ending.await.unwrap();
    send_all(&kafka, 3.0).await;
    wait_for("the new values", async || {
        assert_eq!(shown(&second).await, 4);
        value(&second, TOPICS[0])
            .await
            .filter(|value| *value == 3.0)
    })
    .await;
    wait_value(&second, 3.0).await;
    second.wait_metric(FOLLOWED, 0.0).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_only_serves_shows_everything_and_writes_nothing() {
    let kafka = Kafka::new(&TOPICS);
    let owner = Service::start(with_role(&kafka, Role::Fold)).await;
    owner.wait_ready().await;
    send_all(&kafka, 1.0).await;
    kafka.send("device-data", "no message").await;
    owner.wait_consumed(5).await;
    let url = format!("http://{}/api/v1/devices", owner.http);
    http::get(&url)
        .await
        .expect_err("a replica that only folds has no API");

    let replica = Service::start(with_role(&kafka, Role::Serve)).await;
    replica.wait_ready().await;
    wait_value(&replica, 1.0).await;
    let (_, report) = replica.readyz().await;
    let components: Vec<_> = report["components"].as_object().unwrap().keys().collect();
    assert_eq!(
        components,
        ["followers", "state", "store"],
        "of a member are no others"
    );
    replica.wait_metric(FOLLOWED, 4.0).await;
    assert_eq!(replica.metric(PARTITIONS).await, Some(0.0));
    let messages = replica.metric("iot_follower_messages_total").await;
    assert_eq!(messages, Some(5.0));
    assert_eq!(
        replica
            .metric("kafka_consumer_messages_consumed_total")
            .await,
        Some(0.0)
    );
    // A window that is sealed, and which no store has but this process.
    let begun = now() / 60_000 * 60_000 - 3_600_000;
    for minute in 0..3 {
        let message = message("w", begun + minute * 60_000, "temperature", 5.0);
        kafka
            .send_at("device-data", begun + minute * 60_000, message)
            .await;
    }
    wait_for("a sealed window", async || {
        let (status, device) = replica.get("/api/v1/devices/default/default/w").await;
        let windows = device["windows"]["temperature"].as_array()?;
        let sealed = windows.iter().filter(|window| window["sealed"] == true);
        (status == 200 && sealed.count() > 0).then_some(())
    })
    .await;
    owner.wait_consumed(8).await;
    let letters = kafka.read("iot.dead-letter", 1).await;
    assert_eq!(letters.len(), 1);
    let all = testkit::kafka::read_all(&kafka.brokers(), "iot.dead-letter").await;
    assert_eq!(all.len(), 1, "followers write no dead letters");
    replica.stop().await;
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_follows_the_topics_it_is_told_to_and_finds_new_ones() {
    let kafka = Kafka::new(&["acme.a", "other.b"]);
    for topic in ["acme.a", "other.b"] {
        kafka
            .send(topic, message("d", now(), "temperature", 1.0))
            .await;
    }
    let mut settings = with_role(&kafka, Role::Serve);
    settings.follow = Follow::Topics;
    settings.follow_topics = vec![r"^acme\.".into()];
    let replica = Service::start(settings).await;
    replica.wait_ready().await;
    let tenants = async || {
        let (_, devices) = replica.get("/api/v1/devices").await;
        let devices = devices["devices"].as_array().unwrap().iter();
        json!(
            devices
                .map(|device| device["project"].clone())
                .collect::<Vec<_>>()
        )
    };
    wait_for("the device", async || {
        (tenants().await == json!(["a"])).then_some(())
    })
    .await;
    kafka.create("acme.late", 1);
    kafka
        .send("acme.late", message("d", now(), "temperature", 1.0))
        .await;
    wait_for("the device of the new topic", async || {
        (tenants().await == json!(["a", "late"])).then_some(())
    })
    .await;
    replica.wait_metric(FOLLOWED, 2.0).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_followers_a_replica_shows_what_it_owns() {
    let kafka = Kafka::new(&TOPICS);
    send_all(&kafka, 1.0).await;
    let mut settings = config(&kafka.brokers());
    settings.follow = Follow::None;
    let owner = Service::start(settings.clone()).await;
    owner.wait_ready().await;
    wait_value(&owner, 1.0).await;
    let (_, report) = owner.readyz().await;
    assert_eq!(report["components"]["followers"], json!(null));
    // Another group owns its partitions itself.
    settings.kafka.topics = vec!["nothing-yet".into()];
    settings.kafka.group = "another".into();
    let other = Service::start(settings).await;
    wait_for("an answer", async || {
        (shown(&other).await == 0).then_some(())
    })
    .await;
    assert_eq!(other.metric(FOLLOWED).await, Some(0.0));
    other.stop().await;
    owner.stop().await;
}
