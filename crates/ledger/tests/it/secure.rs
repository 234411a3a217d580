//! Brokers with authentication and TLS.
use testkit::kafka::read_all;
use testkit::process::Run;
use testkit::stack::{kafka_brokers, unique, variable};

use crate::bridge::{PRODUCED, publish, verify as verify_bridge};
use crate::support::{Way, create_topic, produce, run};
use crate::verify_kafka::payloads;

/// What the ledger says of a topic with one message, behind the listener with TLS and login.
async fn verify(topic: &str, password: &str) -> Run {
    let (brokers, username) = (
        variable("KAFKA_SASL_TLS_BROKERS"),
        variable("KAFKA_USERNAME"),
    );
    let certificate = variable("KAFKA_CERT_FILE");
    run(&[
        "verify-kafka",
        "--brokers",
        &brokers,
        "--security-protocol",
        "SASL_SSL",
        "--sasl-mechanism",
        "SCRAM-SHA-512",
        "--username",
        &username,
        "--password",
        password,
        "--ca-file",
        &certificate,
        "--topic",
        topic,
        "--run",
        "one",
        "--connections",
        "1",
        "--messages",
        "1",
    ])
    .await
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn verify_kafka_reads_with_the_right_password_only() {
    let topic = unique("ledger");
    create_topic(&topic, 1).await;
    produce(&topic, &payloads("one", 1).await).await;
    let verified = verify(&topic, &variable("KAFKA_PASSWORD")).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let refused = verify(&topic, "wrong").await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let cause = "SaslAuthenticationFailed";
    assert!(refused.stderr.contains(cause), "{refused:?}");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn contradicting_settings_are_invalid_arguments() {
    let refused = run(&["verify-kafka", "--run", "x", "--username", "me"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(format!("{refused:?}").contains("kafka.security.username: has no effect"));
}

/// The stack's Mosquitto has a certificate that only its own authority has signed.
#[tokio::test]
#[ignore = "needs the stack"]
async fn bridge_and_simulator_reach_mosquitto_with_tls() {
    let mut way = Way::new("mqtts");
    way.settings = vec![
        ("mqtt.brokers", variable("MQTT_TLS_URL")),
        ("mqtt.tls.ca_file", variable("MQTT_CA_FILE")),
    ];
    let mut bridge = way.bridge();
    bridge.ready().await;
    // The ledger itself connects without TLS.
    let published = publish(&way, 5000, 5000).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    verify_bridge(&way, 5000).await;

    let own = Way {
        project: "simulated".to_owned(),
        tenant: way.tenant.clone(),
        mqtt_url: way.mqtt_url.clone(),
        kafka_brokers: way.kafka_brokers.clone(),
        settings: way.settings.clone(),
    };
    let once = ["--devices", "10", "--messages", "1000", "--rate", "max"];
    let mut simulator = own.simulator("mqtt", "unused", &once);
    assert_eq!(simulator.process.ended().await.code(), Some(0));
    bridge.metric_reaches(PRODUCED, 6000.0).await;
    assert_eq!(
        read_all(&kafka_brokers(), &own.kafka_topic()).await.len(),
        1000
    );
    assert_eq!(bridge.process.stop().await, Some(0));
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn an_untrusted_mosquitto_is_reported_with_the_missing_setting() {
    let mut way = Way::new("mqttsno");
    way.settings = vec![("mqtt.brokers", variable("MQTT_TLS_URL"))];
    let mut bridge = way.bridge();
    bridge
        .not_ready_because(&[("mqtt", "mqtt.tls.ca_file")])
        .await;
    assert_eq!(bridge.process.stop().await, Some(0));
}
