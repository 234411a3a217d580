//! Devices that are gone.

use iot_service::config::HumanDuration;
use serde_json::json;

use crate::service::{Kafka, Service, config, message, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_gone_is_removed_everywhere() {
    let kafka = Kafka::new(&["device-data"]);
    let begun = now() / 1_000 * 1_000 - 600_000;
    let send = async |device: &str, after: i64, value: f64| {
        let at = begun + after;
        let message = message(device, at, "temperature", value);
        kafka.send_at("device-data", at, message).await;
    };
    let mut settings = config(&kafka.brokers());
    settings.outputs.alerts = "alert-events".into();
    settings.retention.devices = HumanDuration::from_secs(60);
    settings.detect.silence.after = HumanDuration::from_secs(30);
    let service = Service::start(settings).await;
    send("gone", 0, 60.0).await;
    service.wait_consumed(1).await;
    let mut client = service.connect().await;
    client.of_type("snapshot").await;
    // Five seconds are less than half of both times, and the time is three records behind.
    for number in 0..18 {
        send("on", number * 5_000, 20.0).await;
    }
    let removed = client.of_type("removed").await;
    let gone = json!({"tenant": "default", "project": "default", "device": "gone"});
    assert_eq!(removed["devices"], json!([gone]));
    service.wait_consumed(19).await;
    let path = "/api/v1/devices/default/default";
    assert_eq!(service.get(&format!("{path}/gone")).await.0, 404);
    assert_eq!(service.get(&format!("{path}/on")).await.0, 200);
    let (_, alerts) = service.get("/api/v1/alerts").await;
    assert_eq!(alerts["alerts"], json!([]));
    let events = kafka.read("alert-events", 4).await;
    let events: Vec<_> = events.iter().map(|event| event.json()).collect();
    let of_threshold: Vec<_> = events
        .iter()
        .filter(|event| event["data"]["kind"] == "threshold")
        .collect();
    assert_eq!(of_threshold.len(), 2, "{events:?}");
    assert_eq!(of_threshold[0]["type"], "alert.created");
    assert_eq!(of_threshold[1]["type"], "alert.cleared");
    assert_eq!(of_threshold[1]["data"]["reason"], "device_removed");
    assert_eq!(service.metric("iot_devices_removed_total").await, Some(1.0));
    // It comes back as a new device.
    send("gone", 90_000, 20.0).await;
    let readings = client
        .find("its readings", |frame| {
            frame["type"] == "readings" && frame["devices"][0]["device"] == "gone"
        })
        .await;
    assert_eq!(readings["devices"][0]["timestamp"], begun + 90_000);
    service.stop().await;
}
