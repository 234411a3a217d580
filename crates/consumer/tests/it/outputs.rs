//! Events for other programs: alerts and sealed windows, in Kafka before the offset moves.

use serde_json::{Value, json};

use crate::service::{Kafka, Service, config, message, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_and_sealed_windows_are_published() {
    let kafka = Kafka::new(&["device-data"]);
    let begun = now() / 60_000 * 60_000 - 600_000;
    let send = async |after: i64, value: f64| {
        let message = message("d1", begun + after, "temperature", value);
        kafka.send("device-data", message).await;
    };
    for (after, value) in [(0, 20.0), (1_000, 55.0), (2_000, 56.0), (3_000, 20.0)] {
        send(after, value).await;
    }
    // Two minutes later the first one is sealed.
    send(120_000, 21.0).await;
    let settings = || {
        let mut settings = config(&kafka.brokers());
        settings.outputs.alerts = "alert-events".into();
        settings.outputs.windows = "device-aggregates".into();
        settings
    };
    let first = Service::start(settings()).await;
    let alerts = kafka.read("alert-events", 2).await;
    let (raised, cleared) = (alerts[0].json(), alerts[1].json());
    assert_eq!(
        (&raised["type"], &cleared["type"]),
        (&json!("alert.created"), &json!("alert.cleared"))
    );
    assert_eq!(raised["data"]["sensor"], "temperature");
    assert_eq!(
        (&raised["data"]["kind"], &raised["data"]["value"]),
        (&json!("threshold"), &json!(55.0))
    );
    assert_eq!(raised["data"]["id"], cleared["data"]["id"]);
    let time: jiff::Timestamp = raised["timestamp"].as_str().unwrap().parse().unwrap();
    assert_eq!(time.as_millisecond(), begun + 1_000);
    assert_eq!(alerts[0].key(), Some("default/default/d1"));
    for (name, value) in [
        ("ce_id", raised["id"].as_str().unwrap()),
        ("ce_type", "alert.created"),
        ("ce_specversion", "1.0"),
        ("ce_source", "/iot-consumer/device-data/0"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(alerts[0].header(name), Some(value), "{name}");
    }
    let windows = kafka.read("device-aggregates", 1).await;
    let sealed = windows[0].json();
    assert_eq!(sealed["type"], "window.sealed");
    let data = &sealed["data"];
    assert_eq!(
        (&data["device"], &data["size_ms"]),
        (&json!("d1"), &json!(60_000))
    );
    assert_eq!(
        (&data["start"], &data["end"]),
        (&json!(begun), &json!(begun + 60_000))
    );
    let window = &data["sensors"]["temperature"];
    assert_eq!(
        (&window["count"], &window["max"]),
        (&json!(4), &json!(56.0))
    );
    let published =
        "kafka_events_published_total{event_type=\"alert.created\",topic=\"alert-events\"}";
    assert_eq!(first.metric(published).await, Some(1.0));
    first.stop().await;

    // A second one with a state of its own publishes the same events under the same ids.
    let second = Service::start(settings()).await;
    let again = kafka.read("alert-events", 4).await;
    let mut ids: Vec<Value> = again
        .iter()
        .map(|record| record.json()["id"].clone())
        .collect();
    ids.sort_by_key(Value::to_string);
    ids.dedup();
    assert_eq!(ids.len(), 2, "{ids:?}");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_topics_are_created_for_outputs_that_are_off() {
    let kafka = Kafka::new(&["device-data"]);
    let service = Service::start(config(&kafka.brokers())).await;
    kafka
        .send("device-data", message("d1", now(), "temperature", 55.0))
        .await;
    service.wait_consumed(1).await;
    service.stop().await;
    assert!(!kafka.has("alert-events") && !kafka.has("device-aggregates"));
}
