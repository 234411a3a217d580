//! Device -> MQTT -> bridge -> Kafka -> consumer -> browser, all of it real.

use std::collections::HashSet;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use testkit::{in_time, wait_for};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Way, create_topic, setting};

#[tokio::test]
#[ignore = "needs the stack"]
async fn every_device_reaches_the_api_and_the_websocket() {
    let devices = setting("FLEET_DEVICES", 10_000);
    let way = Way::new("whole");
    // The bridge would create it too, but a consumer that subscribed before that finds
    // it only some seconds later, when it refreshes its metadata.
    create_topic(&way.kafka_topic(), 3).await;
    let (mut bridge, mut consumer) = (way.bridge(), way.consumer(&way.kafka_topic()));
    bridge.ready().await;
    consumer.ready().await;
    let url = format!("ws://{}/ws", consumer.http);
    let early = tokio::spawn(devices_seen(url.clone(), devices as usize));

    let count = devices.to_string();
    let once = ["--devices", &count, "--messages", &count, "--rate", "5000"];
    let mut simulator = way.simulator("mqtt", "unused", &once);
    assert_eq!(simulator.process.ended().await.code(), Some(0));

    wait_for("all devices in the API", async || {
        let list = consumer.api("/api/v1/devices?limit=1").await?;
        if list["total"] == devices {
            Ok(())
        } else {
            Err(format!("total {}", list["total"]))
        }
    })
    .await;
    // One client connected before the messages, the other after them.
    for seen in [
        early.await.unwrap(),
        devices_seen(url, devices as usize).await,
    ] {
        assert_eq!(seen.len() as u64, devices);
        assert!(
            seen.iter()
                .all(|(tenant, project, _)| (tenant, project) == (&way.tenant, &way.project))
        );
    }
    let stats = consumer.api("/api/v1/stats").await.unwrap();
    assert_eq!(
        (&stats["devices"], &stats["dead_letters_total"]),
        (&devices.into(), &0.into())
    );
    for service in [&mut bridge, &mut consumer] {
        assert_eq!(service.process.stop().await, Some(0));
    }
}

/// The devices whose values a WebSocket client gets, until there are `enough`.
async fn devices_seen(url: String, enough: usize) -> HashSet<(String, String, String)> {
    let (mut socket, _) = connect_async(&url).await.unwrap();
    let requests = [
        r#"{"id":1,"connect":{}}"#,
        r#"{"id":2,"subscribe":{"channel":"readings"}}"#,
    ];
    let requests = Message::text(requests.join("\n"));
    socket.send(requests).await.unwrap();
    let mut seen = HashSet::new();
    while seen.len() < enough {
        let what = format!("a frame; {} devices seen", seen.len());
        let frame = in_time(&what, socket.next()).await.unwrap().unwrap();
        for reply in frame.to_text().unwrap().lines() {
            if reply == "{}" {
                socket.send(Message::text("{}")).await.unwrap();
                continue;
            }
            let reply: Value = serde_json::from_str(reply).unwrap();
            assert_eq!(reply["error"], Value::Null, "{reply}");
            for data in [&reply["subscribe"]["data"], &reply["push"]["pub"]["data"]] {
                seen.extend(
                    data["devices"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(identity),
                );
            }
        }
    }
    let _ = timeout(Duration::from_secs(5), socket.close(None)).await;
    seen
}

fn identity(device: &Value) -> (String, String, String) {
    let text = |field: &str| device[field].as_str().unwrap().to_owned();
    assert!(
        !device["readings"].as_object().unwrap().is_empty(),
        "{device}"
    );
    (text("tenant"), text("project"), text("device"))
}
