//! Invalid input: each kind goes to the dead-letter topic with reason and origin, and
//! the messages around it arrive.

use iot_core::message::{Quality, ReadingTemplate, Template};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use serde_json::{Value, json};
use testkit::kafka::{producer, send};
use testkit::wait_for;

use crate::service::{Kafka, Service, config, message, now};

/// What can be wrong with a message of `device-data`, and the reason it gets.
fn bad_payloads() -> Vec<(&'static str, Vec<u8>)> {
    let altered = |change: fn(&mut Value)| {
        let mut message = message("bad", now(), "temperature", 20.0);
        change(&mut message);
        message.to_string().into_bytes()
    };
    let text = |json: &str| json.replace("NOW", &now().to_string()).into_bytes();
    vec![
        ("not_utf8", vec![b'{', 0xff, 0xfe, b'}']),
        ("not_json", b"temperature=20".to_vec()),
        (
            "wrong_type",
            altered(|m| m["timestamp"] = json!("yesterday")),
        ),
        (
            "missing_device_id",
            altered(|m| drop(m.as_object_mut().unwrap().remove("device_id"))),
        ),
        (
            "missing_timestamp",
            altered(|m| drop(m.as_object_mut().unwrap().remove("timestamp"))),
        ),
        ("no_readings", altered(|m| m["readings"] = json!([]))),
        (
            "not_json",
            text(r#"{"device_id":"bad","timestamp":NOW,"readings":[{"sensor":"s","value":NaN}]}"#),
        ),
        (
            "number_out_of_range",
            text(
                r#"{"device_id":"bad","timestamp":NOW,"readings":[{"sensor":"s","value":1e999}]}"#,
            ),
        ),
        (
            "impossible_value",
            altered(|m| m["readings"][0]["value"] = json!(4_000)),
        ),
        (
            "timestamp_in_future",
            altered(|m| m["timestamp"] = json!(now() + 3_600_000)),
        ),
        (
            "timestamp_implausible",
            altered(|m| m["timestamp"] = json!(1_700_000_000)),
        ),
        (
            "invalid_tenant_or_project",
            altered(|m| m["tenant"] = json!("a.b")),
        ),
        (
            "unexpected_unit",
            altered(|m| m["readings"][0]["unit"] = json!("furlong")),
        ),
        ("empty", Vec::new()),
        ("not_json", vec![b'x'; 2 << 20]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_messages_are_dead_letters_and_the_others_arrive() {
    let kafka = Kafka::new(&["device-data", "acme.plant"]);
    let bad = bad_payloads();
    for (number, (_, payload)) in bad.iter().enumerate() {
        let good = message(&format!("good-{number}"), now(), "temperature", 20.0);
        kafka.send("device-data", good).await;
        kafka.send_bytes("device-data", payload).await;
    }
    let mut foreign = message("bad", now(), "temperature", 20.0);
    foreign["tenant"] = json!("other");
    kafka.send("acme.plant", foreign).await;
    kafka
        .send("acme.plant", message("bridged", now(), "temperature", 20.0))
        .await;

    let service = Service::start(config(&kafka.brokers())).await;
    let total = 2 * bad.len() as u64 + 2;
    service.wait_consumed(total).await;

    let letters = kafka.read("iot.dead-letter", bad.len() + 1).await;
    assert_eq!(letters.len(), bad.len() + 1);
    for (number, (reason, payload)) in bad.iter().enumerate() {
        let offset = (2 * number + 1).to_string();
        let letter = letters.iter().find(|letter| {
            letter.header("dlq-topic") == Some("device-data")
                && letter.header("dlq-offset") == Some(&*offset)
        });
        let letter = letter.unwrap_or_else(|| panic!("no dead letter for {reason}"));
        assert_eq!(letter.header("dlq-reason"), Some(*reason));
        assert_eq!(letter.header("dlq-partition"), Some("0"));
        assert!(letter.header("dlq-time").is_some());
        let detail = letter.header("dlq-detail");
        assert!(detail.is_some_and(|detail| (1..=200).contains(&detail.len())));
        assert_eq!(&letter.payload, payload, "{reason}");
        assert_eq!(letter.key(), Some("key"));
        let counter = format!("kafka_consumer_processing_errors_total{{reason=\"{reason}\"}}");
        assert!(service.metric(&counter).await.unwrap() >= 1.0, "{counter}");
    }
    let foreign = letters
        .iter()
        .find(|l| l.header("dlq-topic") == Some("acme.plant"));
    assert_eq!(
        foreign.unwrap().header("dlq-reason"),
        Some("contradicts_topic")
    );

    let (_, devices) = service.get("/api/v1/devices").await;
    assert_eq!(devices["total"], bad.len() + 1);
    let (status, bridged) = service.get("/api/v1/devices/acme/plant/bridged").await;
    assert_eq!((status, &bridged["tenant"]), (200, &json!("acme")));
    let (_, stats) = service.get("/api/v1/stats").await;
    assert_eq!(stats["dead_letters_total"], bad.len() + 1);

    // The pattern finds a topic that appears after the dead-letter topic, so that one was
    // checked, too, and not subscribed.
    kafka.create("acme.late", 1);
    kafka
        .send("acme.late", message("late", now(), "temperature", 20.0))
        .await;
    service.wait_consumed(total + 1).await;
    assert_eq!(
        service.metric("kafka_consumer_active_partitions").await,
        Some(3.0)
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_beyond_the_limits_of_devices_and_sensors_are_dead_letters() {
    let kafka = Kafka::new(&["device-data"]);
    let mut settings = config(&kafka.brokers());
    settings.limits.devices = 1;
    settings.limits.sensors = 1;
    let service = Service::start(settings).await;
    kafka
        .send("device-data", message("d1", now(), "a", 1.0))
        .await;
    kafka
        .send("device-data", message("d1", now(), "b", 1.0))
        .await;
    kafka
        .send("device-data", message("d2", now(), "a", 1.0))
        .await;
    kafka
        .send("device-data", message("d1", now(), "a", 2.0))
        .await;
    service.wait_consumed(4).await;
    let letters = kafka.read("iot.dead-letter", 2).await;
    let mut reasons: Vec<_> = letters
        .iter()
        .filter_map(|letter| letter.header("dlq-reason"))
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["too_many_devices", "too_many_sensors"]);
    wait_for("the newest value", async || {
        let (_, device) = service.get("/api/v1/devices/default/default/d1").await;
        (device["readings"]["a"]["value"] == 2.0).then_some(())
    })
    .await;
    service.stop().await;
}

/// A message as Protobuf, with one temperature in degrees Fahrenheit.
fn protobuf(device: &str) -> Vec<u8> {
    let json = json!({"device_id": device, "timestamp": 1, "readings": [
        {"sensor": "temperature", "value": 1}]});
    let json = json.to_string();
    let message = iot_core::message::parse(json.as_bytes()).unwrap();
    let unit = Some("degF");
    let reading = ReadingTemplate::protobuf("temperature", unit, Quality::Good);
    let mut out = Vec::new();
    let time = u64::try_from(now()).unwrap();
    let readings = [(&reading, 212.0)].into_iter();
    Template::protobuf(&message).write(0, time as i64, readings, &mut out);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_formats_and_units_are_converted() {
    let kafka = Kafka::new(&["device-data", "acme.plant"]);
    let mut settings = config(&kafka.brokers());
    settings.mappings = serde_json::from_value(json!({"ready": ["zigbee2mqtt"]})).unwrap();
    let service = Service::start(settings).await;
    let headers = |key, value| OwnedHeaders::new().insert(Header { key, value });
    let publish = async |topic, payload: &[u8], headers| {
        let record = FutureRecord::<(), [u8]>::to(topic).payload(payload);
        send(&producer(&kafka.brokers()), record.headers(headers)).await;
    };
    let binary = headers("content-type", Some("application/protobuf"));
    publish("device-data", &protobuf("binary"), binary).await;
    let mqtt = headers("mqtt-topic", Some("zigbee2mqtt/kitchen"));
    let state = br#"{"temperature":21.5,"state":"ON"}"#;
    publish("acme.plant", state, mqtt).await;
    service.wait_consumed(2).await;
    let value = async |path: &str, sensor: &str| {
        let (_, device) = service.get(&format!("/api/v1/devices/{path}")).await;
        let reading = &device["readings"][sensor];
        (reading["value"].as_f64(), reading["unit"].clone())
    };
    let celsius = |value| (Some(value), json!("celsius"));
    assert_eq!(
        value("default/default/binary", "temperature").await,
        celsius(100.0)
    );
    assert_eq!(
        value("acme/plant/kitchen", "temperature").await,
        celsius(21.5)
    );
    let on = (Some(1.0), json!("state"));
    assert_eq!(value("acme/plant/kitchen", "switch").await, on);
    service.stop().await;
}
