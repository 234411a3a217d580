//! Every message that the bridge acknowledged is in Kafka, whatever fails.

use serde_json::Value;
use testkit::process::Run;
use testkit::stack::OwnStack;

use crate::support::{Way, run, setting};

const CONNECTIONS: &str = "4";
pub(crate) const RECEIVED: &str = "mqtt_messages_received_total";
pub(crate) const PRODUCED: &str = "kafka_messages_produced_total";

/// `rate`: messages a second, or `max`.
pub(crate) async fn publish(way: &Way, rate: impl ToString, messages: u64) -> Run {
    run(&[
        "publish",
        "--url",
        &way.mqtt_url,
        "--topic",
        &way.mqtt_topic(),
        "--run",
        &run_name(way),
        "--connections",
        CONNECTIONS,
        "--rate",
        &rate.to_string(),
        "--messages",
        &messages.to_string(),
        "--payload-size",
        "400",
    ])
    .await
}

/// Checks that every message of the run is in Kafka, in order.
pub(crate) async fn verify(way: &Way, messages: u64) {
    let report = verify_unordered(way, messages).await;
    // A crash may cause duplicates, but the first copies are in order.
    assert_eq!(report["regressions"], 0, "{report}");
}

/// Checks that every message of the run is in Kafka; returns the report.
pub(crate) async fn verify_unordered(way: &Way, messages: u64) -> Value {
    let verified = run(&[
        "verify-kafka",
        "--brokers",
        &way.kafka_brokers,
        "--topic",
        &way.kafka_topic(),
        "--run",
        &run_name(way),
        "--connections",
        CONNECTIONS,
        "--messages",
        &messages.to_string(),
        "--json",
    ])
    .await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    println!("{}", verified.stdout);
    let report = verified.json();
    assert_eq!(
        (&report["lost"], &report["corrupt"]),
        (&0.into(), &0.into()),
        "{report}"
    );
    report
}

fn run_name(way: &Way) -> String {
    way.tenant.clone()
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn at_full_rate_nothing_is_lost() {
    let messages = setting("LEDGER_MESSAGES", 200_000);
    let way = Way::new("flat");
    let mut bridge = way.bridge();
    bridge.ready().await;
    let published = publish(&way, "max", messages).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    println!("{}", published.stdout);
    verify(&way, messages).await;
    assert_eq!(bridge.process.stop().await, Some(0));
}

/// SIGKILL in the middle of the stream, several times: each new process finds the broker's
/// session and continues where Kafka's confirmations ended.
#[tokio::test]
#[ignore = "needs the stack"]
async fn repeated_kills_lose_nothing() {
    killed(&Way::new("kill"), setting("KILLS", 3)).await;
}

/// With 3.1.1 there is no receive maximum, and the session is kept by its clean flag.
#[tokio::test]
#[ignore = "needs the stack"]
async fn a_kill_with_mqtt_3_1_1_loses_nothing() {
    let mut way = Way::new("killmqtt3");
    way.settings = vec![("mqtt.protocol", "3.1.1".to_owned())];
    killed(&way, 1).await;
}

async fn killed(way: &Way, kills: u64) {
    let rate = setting("LEDGER_RATE", 5000);
    // So many that messages are still being published at the last kill.
    let messages = rate * (2 * kills + 2);
    let mut bridge = way.bridge();
    bridge.ready().await;
    let load = publish(way, rate, messages);
    let kills = async {
        for _ in 0..kills {
            bridge.metric_reaches(PRODUCED, rate as f64).await;
            bridge.process.kill();
            bridge = way.bridge();
        }
    };
    let (published, ()) = tokio::join!(load, kills);
    assert_eq!(published.code, Some(0), "{published:?}");
    verify(way, messages).await;
    assert_eq!(bridge.process.stop().await, Some(0));
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn sigterm_under_load_exits_with_0_and_a_successor_continues() {
    let rate = setting("LEDGER_RATE", 5000);
    let messages = rate * 4;
    let way = Way::new("term");
    let mut bridge = way.bridge();
    bridge.ready().await;
    let load = publish(&way, rate, messages);
    let restart = async {
        bridge.metric_reaches(RECEIVED, rate as f64).await;
        assert_eq!(bridge.process.stop().await, Some(0));
        bridge = way.bridge();
    };
    let (published, ()) = tokio::join!(load, restart);
    assert_eq!(published.code, Some(0), "{published:?}");
    verify(&way, messages).await;
    assert_eq!(bridge.process.stop().await, Some(0));
}

/// Kafka stops and comes back, then Mosquitto does; the bridge stays.
#[tokio::test]
#[ignore = "needs the stack"]
async fn outages_of_either_broker_lose_nothing() {
    let rate = setting("LEDGER_RATE", 5000);
    let messages = rate * 12;
    let stack = OwnStack::up().await;
    let mut way = Way::new("outage");
    way.kafka_brokers = stack.variable("KAFKA_BROKERS");
    way.mqtt_url = stack.variable("MQTT_URL");
    let mut bridge = way.bridge();
    bridge.ready().await;
    let load = publish(&way, rate, messages);
    let outages = async {
        bridge.metric_reaches(PRODUCED, rate as f64).await;
        stack.stop("kafka").await;
        bridge.not_ready_for(&["kafka"]).await;
        stack.start("kafka").await;
        bridge.metric_grows(PRODUCED, rate as f64).await;
        stack.stop("mosquitto").await;
        bridge.not_ready_for(&["mqtt"]).await;
        stack.start("mosquitto").await;
    };
    let (published, ()) = tokio::join!(load, outages);
    assert_eq!(published.code, Some(0), "{published:?}");
    println!("{}", published.stdout);
    verify(&way, messages).await;
    assert_eq!(bridge.process.stop().await, Some(0));
}
