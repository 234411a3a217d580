//! Sink `mqtt` against a broker in the process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use iot_core::message::{DeviceMessage, parse};
use iot_simulator::config::{Rate, SimulatorConfig, SinkKind};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAck, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use testkit::mqtt_broker;
use testkit::port::free_address;
use testkit::process::Program;
use testkit::{in_time, wait_for};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::{Simulator, fleet};

/// A topic, a message, and its label.
pub(crate) type Heard = (String, DeviceMessage<'static>, Option<String>);

/// Starts a broker on a thread of its own; it ends with the process.
fn start_broker(listen: SocketAddr) {
    let settings = ServerSettings {
        name: "test".into(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 1024 * 1024,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let config = Config {
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 200,
            max_segment_size: 10 * 1024 * 1024,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v5: Some(HashMap::from([("test".to_owned(), settings)])),
        ..Config::default()
    };
    std::thread::spawn(move || Broker::new(config).start().unwrap());
}

/// Subscribes to every message of the fleet until `stop`; waits until the
/// subscription stands.
pub(crate) async fn subscribe(
    address: (&str, u16),
    filter: &str,
    stop: CancellationToken,
) -> mpsc::UnboundedReceiver<Heard> {
    let id = format!("subscriber-{:x}", rand::random::<u32>());
    let mut options = MqttOptions::new(id, address.0, address.1);
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    let (ready, standing) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut ready = Some(ready);
        loop {
            let event = tokio::select! {
                event = events.poll() => event,
                () = stop.cancelled() => return drop(client),
            };
            match event {
                Ok(Event::Incoming(Incoming::SubAck(_))) => {
                    ready.take().map(|ready| ready.send(()));
                }
                Ok(Event::Incoming(Incoming::Publish(publish))) => {
                    let properties = publish.properties.unwrap_or_default();
                    let labels = properties.user_properties;
                    let label = labels.into_iter().find(|(name, _)| name == "iot-label");
                    let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                    let message = parse(&publish.payload).unwrap().into_owned();
                    let heard = (topic, message, label.map(|(_, label)| label));
                    if sender.send(heard).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    in_time("the subscription", standing).await.unwrap();
    receiver
}

/// Waits for `count` messages and asserts that each device's are in order and
/// on the topic of its tenant and project.
pub(crate) async fn assert_heard(
    heard: &mut mpsc::UnboundedReceiver<Heard>,
    count: u64,
) -> Vec<Heard> {
    let mut next: HashMap<String, u64> = HashMap::new();
    let mut all = Vec::new();
    while next.values().sum::<u64>() < count {
        let (topic, message, label) = in_time("a message", heard.recv()).await.unwrap();
        let (tenant, project) = (message.tenant.as_deref(), message.project.as_deref());
        let place = format!("/{}/{}", tenant.unwrap(), project.unwrap());
        assert!(topic.ends_with(&place), "{topic} {place}");
        let next = next.entry(message.device_id.to_string()).or_default();
        let seq = message.seq.unwrap();
        assert!(
            seq <= *next,
            "{}: {seq} came before {next}",
            message.device_id
        );
        *next = (*next).max(seq + 1);
        all.push((topic, message, label));
    }
    all
}

fn config(address: SocketAddr, devices: u32, messages: u64) -> SimulatorConfig {
    let mut config = fleet(SinkKind::Mqtt, devices, messages);
    config.mqtt.brokers = vec![format!("tcp://{address}")];
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_in_order_with_its_label() {
    let address = free_address();
    start_broker(address);
    let stop = CancellationToken::new();
    let filter = "mtic/msg/client/realtime/+/#";
    let mut heard = subscribe(("127.0.0.1", address.port()), filter, stop.clone()).await;
    let mut config = config(address, 40, 2_000);
    config.anomaly.rate = 0.1;
    let simulator = Simulator::start(config).await;
    let all = assert_heard(&mut heard, 2_000).await;
    simulator.ended().await;
    assert!(all.iter().any(|(_, _, label)| {
        label
            .as_deref()
            .is_some_and(|label| label.contains("=spike"))
    }));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_broker_is_reported_and_waited_for() {
    let address = free_address();
    let mut config = config(address, 10, 0);
    config.fleet.rate = Rate::PerSecond(200.0);
    let simulator = Simulator::start(config).await;
    wait_for("the reason", async || {
        let trouble = simulator.reason("mqtt").await;
        trouble.is_some_and(|reason| reason.contains(&format!("connecting to tcp://{address}")))
    })
    .await;
    start_broker(address);
    simulator
        .wait_for_metric("mqtt_producer_messages_total", 100.0)
        .await;
    simulator.wait_for_recovery("mqtt").await;
    assert_eq!(
        simulator.metric("mqtt_producer_active_connections").await,
        4.0
    );
    simulator.stop().await;
}

#[tokio::test]
async fn messages_that_the_broker_rejects_are_logged_once_in_a_while() {
    let broker = mqtt_broker::Broker::start().await;
    let address = broker.address();
    let run = tokio::task::spawn_blocking(move || {
        let run = ["run", "--rate", "max", "--messages", "300", "--json"];
        Program::new(env!("CARGO_BIN_EXE_iot-simulator"))
            .args(&run)
            .set("sink", "mqtt")
            .set("mqtt.brokers", format!("mqtt://{address}"))
            .set("mqtt.connections", "1")
            .set("mqtt.in_flight", "10")
            .set("ops.listen", "127.0.0.1:0")
            .set("http.listen", "")
            .run_sync()
    });
    let mut peer = broker.accept(false).await;
    for _ in 0..300 {
        let Packet::Publish(publish) = peer.next().await else {
            panic!("not a message");
        };
        let mut rejected = PubAck::new(publish.pkid, None);
        rejected.reason = PubAckReason::NotAuthorized;
        peer.send(Packet::PubAck(rejected)).await;
    }
    let run = run.await.unwrap();
    assert_eq!(run.json()["drops_refused"], 300, "{}", run.stderr);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let lines = run.stderr.matches("permanently rejected messages").count();
    assert!((1..=2).contains(&lines), "{lines} lines");
}
