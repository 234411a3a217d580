//! Against a real Kafka and a real Mosquitto: `scripts/stack up`, then
//! `cargo test -- --ignored` in the environment that it prints.

use iot_kafka::security::{SaslMechanism, SecurityProtocol};
use iot_mqtt::MqttUrl;
use iot_simulator::config::{CompressionKind, Rate, SinkKind};
use testkit::stack::{kafka_brokers, mqtt_url, unique, variable};
use testkit::wait_for;
use tokio_util::sync::CancellationToken;

use crate::mqtt::{assert_heard, subscribe};
use crate::support::{Simulator, assert_complete, fleet, read_topic};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_missing_topic_is_created_and_every_message_arrives_in_order() {
    let brokers = kafka_brokers();
    let mut config = fleet(SinkKind::Kafka, 500, 20_000);
    config.kafka.brokers = brokers.split(',').map(str::to_owned).collect();
    config.kafka.topic = unique("simulator-test");
    config.kafka.compression = CompressionKind::Lz4;
    let topic = config.kafka.topic.clone();
    Simulator::start(config).await.ended().await;
    let arrived = read_topic(&brokers, &topic).await;
    assert_eq!(arrived.len(), 20_000);
    assert_complete(&arrived, 10);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn messages_arrive_with_every_kind_of_kafka_security() {
    use SecurityProtocol::{SaslPlaintext, SaslSsl, Ssl};
    for (listener, protocol, mechanism) in [
        ("KAFKA_SASL_BROKERS", SaslPlaintext, SaslMechanism::Plain),
        (
            "KAFKA_SASL_TLS_BROKERS",
            SaslSsl,
            SaslMechanism::ScramSha256,
        ),
        (
            "KAFKA_SASL_TLS_BROKERS",
            SaslSsl,
            SaslMechanism::ScramSha512,
        ),
        ("KAFKA_TLS_BROKERS", Ssl, SaslMechanism::Plain),
    ] {
        let mut config = fleet(SinkKind::Kafka, 10, 100);
        config.kafka.brokers = vec![variable(listener)];
        config.kafka.topic = unique("simulator-secure");
        let security = &mut config.kafka.security;
        security.protocol = protocol;
        security.mechanism = mechanism;
        if protocol.sasl() {
            security.username = variable("KAFKA_USERNAME");
            security.password = variable("KAFKA_PASSWORD").as_str().into();
        } else {
            security.cert_file = variable("KAFKA_CERT_FILE");
            security.key_file = variable("KAFKA_KEY_FILE");
        }
        if protocol.tls() {
            security.ca_file = variable("KAFKA_CERT_FILE");
        }
        let topic = config.kafka.topic.clone();
        Simulator::start(config).await.ended().await;
        let arrived = read_topic(&kafka_brokers(), &topic).await;
        assert_eq!(arrived.len(), 100, "{protocol} with {mechanism}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_wrong_password_is_reported_and_a_new_one_is_used() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong\n").unwrap();
    let mut config = fleet(SinkKind::Kafka, 10, 100);
    config.kafka.brokers = vec![variable("KAFKA_SASL_BROKERS")];
    config.kafka.topic = unique("simulator-secure");
    config.kafka.security.protocol = SecurityProtocol::SaslPlaintext;
    config.kafka.security.username = variable("KAFKA_USERNAME");
    config.kafka.security.password_file = file.path().to_str().unwrap().into();
    let topic = config.kafka.topic.clone();
    let simulator = Simulator::start(config).await;
    wait_for("the refusal of the login", async || {
        let trouble = simulator.reason("kafka").await;
        trouble.is_some_and(|trouble| trouble.contains("Sasl"))
    })
    .await;
    std::fs::write(file.path(), variable("KAFKA_PASSWORD")).unwrap();
    simulator.ended().await;
    let arrived = read_topic(&kafka_brokers(), &topic).await;
    assert_eq!(arrived.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn mosquitto_gets_every_message_in_order() {
    let broker = mqtt_url();
    let url: MqttUrl = broker.parse().unwrap();
    let root = unique("simulator-test");
    let mut config = fleet(SinkKind::Mqtt, 200, 0);
    config.mqtt.brokers = vec![broker];
    config.mqtt.topic = format!("{root}/{{tenant}}/{{project}}");
    // Mosquitto queues 1,000 messages for a slow subscriber and drops the others.
    config.fleet.rate = Rate::PerSecond(2_000.0);
    config.run.messages = 10_000;
    let stop = CancellationToken::new();
    let filter = format!("{root}/#");
    let mut heard = subscribe((&url.host, url.port), &filter, stop.clone()).await;
    let simulator = Simulator::start(config).await;
    assert_heard(&mut heard, 10_000).await;
    simulator.ended().await;
    stop.cancel();
}
