//! The WebSocket.

use std::collections::BTreeMap;

use iot_service::config::ByteSize;
use serde_json::json;
use testkit::wait_for;

use crate::service::{Kafka, Seen, Service, config, message, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_a_snapshot_and_then_every_change() {
    let kafka = Kafka::new(&["device-data"]);
    let service = Service::start(config(&kafka.brokers())).await;
    let begun = now() - 60_000;
    kafka
        .send("device-data", message("before", begun, "temperature", 60.0))
        .await;
    service.wait_consumed(1).await;

    let mut client = service.connect().await;
    let devices = client.of_type("snapshot").await;
    assert_eq!(devices["devices"][0]["device"], "before");
    let snapshot = client.of_type("snapshot").await;
    assert_eq!(snapshot["alerts"][0]["state"], "raised");

    kafka
        .send(
            "device-data",
            message("before", begun + 1_000, "temperature", 20.0),
        )
        .await;
    let cleared = client.of_type("alert").await;
    assert_eq!(cleared["alert"]["state"], "cleared");
    assert_eq!(cleared["alert"]["id"], snapshot["alerts"][0]["id"]);
    let readings = client.of_type("readings").await;
    assert_eq!(
        readings["devices"][0]["readings"]["temperature"]["value"],
        20.0
    );

    // Another sensor of the same device: only its value is sent.
    kafka
        .send(
            "device-data",
            message("before", begun + 2_000, "humidity", 10.0),
        )
        .await;
    let raised = client.of_type("alert").await;
    assert_eq!(
        (&raised["alert"]["state"], &raised["alert"]["sensor"]),
        (&json!("raised"), &json!("humidity"))
    );
    let readings = client.of_type("readings").await;
    let changed = readings["devices"][0]["readings"].as_object().unwrap();
    assert_eq!(changed.keys().collect::<Vec<_>>(), ["humidity"]);

    let stats = client
        .find("statistics", |f| {
            f["type"] == "stats" && f["stats"]["messages_total"] == 3
        })
        .await;
    assert_eq!(
        (&stats["stats"]["clients"], &stats["stats"]["alerts_active"]),
        (&json!(1), &json!(1))
    );
    client.close().await;
    wait_for("the client to be gone", async || {
        (service.metric("iot_websocket_clients").await? == 0.0).then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missed_between_snapshot_and_stream() {
    const DEVICES: usize = 50;
    const ROUNDS: i64 = 40;
    let kafka = Kafka::new(&["device-data"]);
    let service = Service::start(config(&kafka.brokers())).await;
    let begun = now() - 60_000;
    let round = |number: i64| -> Vec<String> {
        let send = |device| {
            message(
                &format!("d{device}"),
                begun + number,
                "vibration",
                number as f64,
            )
        };
        (0..DEVICES)
            .map(|device| send(device).to_string())
            .collect()
    };
    kafka.send_all("device-data", &round(0)).await;
    service.wait_consumed(DEVICES as u64).await;
    let (mut client, ()) = tokio::join!(service.connect(), async {
        for number in 1..=ROUNDS {
            kafka.send_all("device-data", &round(number)).await;
        }
    });
    // Whatever was merged on the way: the newest value of each arrives.
    let mut newest = BTreeMap::new();
    while newest.len() < DEVICES || newest.values().any(|value| *value < ROUNDS as f64) {
        let Seen::Frame(frame) = client.next().await else {
            panic!("closed")
        };
        for device in frame["devices"].as_array().into_iter().flatten() {
            let value = device["readings"]["vibration"]["value"].as_f64().unwrap();
            let before = newest.insert(device["device"].to_string(), value);
            assert!(
                before.is_none_or(|before| before <= value),
                "an older value came later"
            );
        }
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_disconnected_as_slow() {
    let kafka = Kafka::new(&["device-data"]);
    let mut settings = config(&kafka.brokers());
    settings.push.queue = ByteSize::kib(4);
    let service = Service::start(settings).await;
    let mut slow = service.connect_small().await;
    // Every message changes the alert of a device with a long name.
    let device = "d".repeat(250);
    let begun = now() - 3_600_000;
    let mut sent = 0;
    wait_for("the hub to give up", async || {
        let batch: Vec<_> = (sent..sent + 500)
            .map(|n| {
                message(
                    &device,
                    begun + n,
                    "temperature",
                    if n % 2 == 0 { 60.0 } else { 20.0 },
                )
                .to_string()
            })
            .collect();
        kafka.send_all("device-data", &batch).await;
        sent += 500;
        service.wait_consumed(sent as u64).await;
        (service.metric("iot_websocket_clients").await? == 0.0).then_some(())
    })
    .await;
    let closed = loop {
        match slow.next().await {
            Seen::Frame(_) => {}
            Seen::Closed(code) => break code,
        }
    };
    assert_eq!(closed, Some(3008));
    wait_for("the count", async || {
        (service
            .metric("iot_websocket_closed_total{connection=\"websocket\",reason=\"slow\"}")
            .await?
            == 1.0)
            .then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_survives_a_backlog_of_alerts() {
    // The mock cluster keeps 5 MiB of a partition. The real-stack test has more.
    const MESSAGES: i64 = 20_000;
    let kafka = Kafka::new(&["device-data"]);
    // Every message changes an alert.
    let begun = now() - 3_600_000;
    for first in (0..MESSAGES).step_by(10_000) {
        let messages: Vec<_> = (first..first + 10_000)
            .map(|n| {
                let value = if n % 2 == 0 { 60.0 } else { 20.0 };
                message("d", begun + n, "temperature", value).to_string()
            })
            .collect();
        kafka.send_all("device-data", &messages).await;
    }
    let mut settings = config(&kafka.brokers());
    // All of it comes at once.
    settings.push.queue = ByteSize::mib(64);
    // Two values in turn are another alert, which has repeats of its own.
    settings.detect.toggling.enabled = false;
    let service = Service::start(settings).await;
    let mut client = service.connect().await;
    // It connects while the backlog is read; the last change is sent in any case.
    let mut before = 0;
    while before < begun + MESSAGES - 1 {
        let alert = client.of_type("alert").await;
        let timestamp = alert["alert"]["timestamp"].as_i64().unwrap();
        assert!(
            before == 0 || timestamp == before + 1,
            "in order, without a gap"
        );
        before = timestamp;
    }
    service.wait_consumed(MESSAGES as u64).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_from_other_origins_are_refused() {
    let kafka = Kafka::new(&["device-data"]);
    let service = Service::start(config(&kafka.brokers())).await;
    let response = reqwest::Client::new()
        .get(format!("http://{}/ws", service.http))
        .header("origin", "http://evil.example")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 403);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_closed_with_3001_when_the_service_stops() {
    let kafka = Kafka::new(&["device-data"]);
    let service = Service::start(config(&kafka.brokers())).await;
    let mut client = service.connect().await;
    client.of_type("snapshot").await;
    service.stop().await;
    let code = loop {
        match client.next().await {
            Seen::Frame(_) => {}
            Seen::Closed(code) => break code,
        }
    };
    assert_eq!(code, Some(3001));
}
