//! The API that changes the fleet while it runs.

use std::collections::HashSet;

use iot_core::message::parse;
use iot_simulator::config::{Rate, SimulatorConfig, SinkKind};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::wait_for;

use crate::support::{Simulator, fleet};

fn config(file: &tempfile::NamedTempFile) -> SimulatorConfig {
    let mut config = fleet(SinkKind::File, 20, 0);
    config.fleet.rate = Rate::PerSecond(1_000.0);
    config.anomaly.rate = 0.0;
    config.file.path = file.path().to_str().unwrap().into();
    config
}

async fn get(simulator: &Simulator) -> Value {
    simulator.api(Method::GET, "fleet", Value::Null).await.1
}

async fn patch(simulator: &Simulator, changes: Value) -> (u16, Value) {
    simulator.api(Method::PATCH, "fleet", changes).await
}

/// Devices in what was written from that byte on.
fn devices(file: &tempfile::NamedTempFile, from: usize) -> HashSet<String> {
    let text = std::fs::read_to_string(file.path()).unwrap();
    let messages = text[from..]
        .lines()
        .filter_map(|line| parse(line.as_bytes()).ok());
    messages
        .map(|message| message.device_id.to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_fleet_is_resized_paused_and_reset() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let written = || file.as_file().metadata().unwrap().len();
    let simulator = Simulator::start(config(&file)).await;
    wait_for("all 20 devices", async || devices(&file, 0).len() == 20).await;

    let (status, answer) = patch(&simulator, json!({"devices": 200, "rate": 5000})).await;
    assert_eq!((status, &answer["devices"]), (200, &json!(200)), "{answer}");
    wait_for("all 200 devices", async || devices(&file, 0).len() == 200).await;

    let (status, answer) = patch(&simulator, json!({"paused": true})).await;
    assert_eq!((status, &answer["paused"]), (200, &json!(true)), "{answer}");
    let metric = "file_producer_queue_depth";
    wait_for("an empty queue", async || {
        simulator.metric(metric).await == 0.0
    })
    .await;
    let before = written();
    let changes = json!({"paused": null, "devices": null, "rate": 2000.0});
    let (_, answer) = patch(&simulator, changes).await;
    assert_eq!(answer["changed"], json!({"rate": 2000.0}));
    assert_eq!(
        (&answer["devices"], &answer["paused"]),
        (&json!(20), &json!(false))
    );
    wait_for("messages after the pause", async || {
        written() > before + 10_000
    })
    .await;
    assert_eq!(devices(&file, before as usize).len(), 20);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_changes_are_rejected_as_a_whole() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let simulator = Simulator::start(config(&file)).await;
    for (changes, reason) in [
        (
            json!({"devices": 0, "anomaly_rate": 0.5}),
            "fleet.devices: must be from 1 to 100000\nanomaly.rate",
        ),
        (json!({"speed": null}), "unknown field `speed`"),
        (json!({"speed": 1}), "unknown field `speed`"),
        (json!({"rate": "fast"}), "\"fast\" is not"),
        (json!([]), "expected a map"),
    ] {
        let (status, answer) = patch(&simulator, changes).await;
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer["detail"].as_str().unwrap().contains(reason),
            "{answer}"
        );
    }
    assert_eq!(get(&simulator).await["changed"], json!({}));
    let (status, _) = simulator.api(Method::GET, "flete", Value::Null).await;
    assert_eq!(status, 404);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anomalies_are_injected_on_request() {
    let (file, truth) = (
        tempfile::NamedTempFile::new().unwrap(),
        tempfile::NamedTempFile::new().unwrap(),
    );
    let mut config = config(&file);
    config.anomaly.truth_file = truth.path().to_str().unwrap().into();
    let simulator = Simulator::start(config).await;
    let inject = async |body| simulator.api(Method::POST, "anomalies", body).await;
    wait_for("the fleet", async || {
        inject(json!({"kind": "stuck", "device": "device-000003"}))
            .await
            .0
            != 503
    })
    .await;
    let (status, answer) =
        inject(json!({"kind": "drift", "room": "room-102", "readings": 3})).await;
    assert_eq!((status, &answer["devices"]), (202, &json!(10)), "{answer}");
    let (status, _) = inject(json!({"kind": "drift", "room": "room-999"})).await;
    assert_eq!(status, 404);
    let (status, answer) = inject(json!({"kind": "drift"})).await;
    assert_eq!(
        (status, answer["detail"].as_str()),
        (400, Some("device, building, floor or room is missing"))
    );
    let truths = || std::fs::read_to_string(truth.path()).unwrap();
    wait_for("10 devices with 4 sensors that drift", async || {
        truths()
            .lines()
            .filter(|line| line.contains("\"drift\""))
            .count()
            == 40
    })
    .await;
    simulator.stop().await;
    let stuck = truths();
    let stuck = stuck.lines().filter(|line| line.contains("\"stuck\""));
    assert!(stuck.clone().count() == 4, "{}", stuck.collect::<String>());
}
