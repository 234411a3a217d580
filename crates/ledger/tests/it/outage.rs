//! A service that starts while a broker is down reports that, retries, and works once
//! the broker is up.

use std::net::SocketAddr;

use serde_json::Value;
use testkit::kafka::read_all;
use testkit::port::free_address;
use testkit::stack::{kafka_brokers, mqtt_url, unique};
use testkit::wait_for;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{Way, run};

/// An address at which a broker of the stack can be made to appear.
struct Door {
    address: SocketAddr,
    broker: String,
}

impl Door {
    fn to(broker: String) -> Self {
        Self {
            address: free_address(),
            broker,
        }
    }

    /// From now on, connections to the address reach the broker.
    async fn open(&self) -> JoinHandle<()> {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let broker = self.broker.clone();
        tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let broker = broker.clone();
                tokio::spawn(async move {
                    if let Ok(mut there) = TcpStream::connect(broker).await {
                        let _ = copy_bidirectional(&mut here, &mut there).await;
                    }
                });
            }
        })
    }
}

/// A way whose brokers are not reachable yet.
fn closed(test: &str) -> (Way, Door, Door) {
    let mqtt = Door::to(mqtt_url().trim_start_matches("mqtt://").to_owned());
    // Only bootstrapping goes through it; Kafka then advertises its own address.
    let kafka = Door::to(kafka_brokers());
    let mut way = Way::new(test);
    way.mqtt_url = format!("mqtt://{}", mqtt.address);
    way.kafka_brokers = kafka.address.to_string();
    (way, mqtt, kafka)
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_bridge_waits_for_mqtt_and_kafka() {
    let (way, mqtt, kafka) = closed("latebridge");
    let mut bridge = way.bridge();
    bridge.not_ready_for(&["mqtt", "kafka"]).await;
    let _mqtt = mqtt.open().await;
    let _kafka = kafka.open().await;
    bridge.ready().await;
    let common = [
        "--run",
        &*way.tenant,
        "--connections",
        "1",
        "--messages",
        "100",
    ];
    let publish = [
        "publish",
        "--url",
        &way.mqtt_url,
        "--topic",
        &way.mqtt_topic(),
    ];
    let verify = [
        "verify-kafka",
        "--brokers",
        &kafka_brokers(),
        "--topic",
        &way.kafka_topic(),
    ];
    for command in [publish, verify] {
        let outcome = run(&[&command[..], &common[..]].concat()).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    assert_eq!(bridge.process.stop().await, Some(0));
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_simulator_waits_for_kafka() {
    let (way, _, kafka) = closed("latesimk");
    let topic = unique("device-data");
    let mut simulator = way.simulator("kafka", &topic, &["--devices", "10", "--interval", "200ms"]);
    simulator.not_ready_for(&["kafka"]).await;
    let _kafka = kafka.open().await;
    simulator.ready().await;
    simulator
        .metric_reaches("kafka_producer_messages_total", 10.0)
        .await;
    assert!(read_all(&kafka_brokers(), &topic).await.len() >= 10);
    assert_eq!(simulator.process.stop().await, Some(0));
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_simulator_waits_for_mqtt() {
    let (way, mqtt, _) = closed("latesimm");
    let mut simulator = way.simulator(
        "mqtt",
        "unused",
        &["--devices", "10", "--interval", "200ms"],
    );
    simulator.not_ready_for(&["mqtt"]).await;
    let _mqtt = mqtt.open().await;
    simulator.ready().await;
    simulator
        .metric_reaches("mqtt_producer_messages_total", 10.0)
        .await;
    assert_eq!(simulator.process.stop().await, Some(0));
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_consumer_waits_for_kafka() {
    let (way, _, kafka) = closed("latecons");
    let topic = unique("device-data");
    let mut consumer = way.consumer(&topic);
    consumer.not_ready_for(&["kafka"]).await;
    let _kafka = kafka.open().await;
    let direct = Way {
        kafka_brokers: kafka_brokers(),
        ..Way::new("latecons")
    };
    let mut simulator = direct.simulator(
        "kafka",
        &topic,
        &["--devices", "10", "--messages", "10", "--rate", "max"],
    );
    assert_eq!(simulator.process.ended().await.code(), Some(0));
    consumer.ready().await;
    wait_for("the devices", async || {
        let list: Value = consumer.api("/api/v1/devices").await?;
        if list["total"] == 10 {
            Ok(())
        } else {
            Err(list.to_string())
        }
    })
    .await;
    assert_eq!(consumer.process.stop().await, Some(0));
}
