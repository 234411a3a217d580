//! Sessions that end: everything is in Kafka, nothing stays in Mosquitto.

use std::time::Duration;

use iot_mqtt::MqttUrl;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use testkit::in_time;

use crate::bridge::{RECEIVED, publish, verify, verify_unordered};
use crate::support::{Way, setting};

/// Whether the broker keeps a session for this client id; if so, it is kept afterwards.
async fn session_present(way: &Way, client_id: &str) -> bool {
    let url: MqttUrl = way.mqtt_url.parse().unwrap();
    let mut options = MqttOptions::new(client_id, url.host, url.port);
    options.set_clean_start(false);
    options.set_session_expiry_interval(Some(600));
    options.set_connection_timeout(5);
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, 1);
    let talk = async {
        let present = loop {
            if let Event::Incoming(Packet::ConnAck(answer)) = events.poll().await.unwrap() {
                break answer.session_present;
            }
        };
        client.disconnect().await.unwrap();
        // The broker closes the connection after the DISCONNECT.
        while events.poll().await.is_ok() {}
        present
    };
    in_time("an answer of the broker", talk).await
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_replica_that_drains_under_load_hands_over_to_the_other() {
    let rate = setting("LEDGER_RATE", 5000);
    let messages = rate * 4;
    let mut way = Way::new("drainrun");
    way.settings = vec![
        ("mqtt.share_group", way.tenant.clone()),
        ("shutdown", "drain".to_owned()),
    ];
    let (leaver, stayer) = (format!("{}-0", way.tenant), format!("{}-1", way.tenant));
    let (mut leaving, mut staying) = (way.bridge_as(&leaver, "run"), way.bridge_as(&stayer, "run"));
    leaving.ready().await;
    staying.ready().await;
    let load = publish(&way, rate, messages);
    let stop = async {
        leaving.metric_reaches(RECEIVED, rate as f64 / 2.0).await;
        assert_eq!(leaving.process.stop().await, Some(0));
        // On a slow machine the load may be over by now.
        staying.metric_reaches(RECEIVED, rate as f64).await;
    };
    let (published, ()) = tokio::join!(load, stop);
    assert_eq!(published.code, Some(0), "{published:?}");
    // Each replica keeps the order of its own messages; there is none between the two.
    verify_unordered(&way, messages).await;
    assert!(!session_present(&way, &leaver).await);
    assert_eq!(staying.process.stop().await, Some(0));
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn drain_empties_the_queue_of_a_stopped_bridge() {
    let messages = 5000;
    let way = Way::new("drain");
    let mut bridge = way.bridge();
    bridge.ready().await;
    assert_eq!(bridge.process.stop().await, Some(0));
    assert!(session_present(&way, &way.tenant).await);
    let published = publish(&way, "max", messages).await;
    assert_eq!(published.code, Some(0), "{published:?}");

    let mut drain = way.bridge_as(&way.tenant, "drain");
    assert_eq!(drain.process.ended().await.code(), Some(0));
    verify(&way, messages).await;
    assert!(!session_present(&way, &way.tenant).await);
}
