//! A real Kafka with authentication: `scripts/stack` has listeners for it.

use iot_bridge::BridgeConfig;
use iot_kafka::security::SecurityProtocol;
use testkit::kafka::read;
use testkit::mqtt_broker::Broker;
use testkit::stack::{kafka_brokers, unique, variable};

use crate::{Bridge, TOPIC};

fn login(config: &mut BridgeConfig) {
    config.topics.create = true;
    config.kafka.security.protocol = SecurityProtocol::SaslPlaintext;
    config.kafka.security.username = variable("KAFKA_USERNAME");
    config.kafka.security.password = variable("KAFKA_PASSWORD").as_str().into();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn messages_are_delivered_with_a_password() {
    delivers("login", "KAFKA_SASL_BROKERS", login).await;
}

/// One message goes through a bridge that uses another listener of the Kafka.
async fn delivers(name: &str, listener: &str, secure: impl FnOnce(&mut BridgeConfig)) {
    let (broker, tenant) = (Broker::start().await, unique(name));
    let bridge = Bridge::start(broker.address(), &variable(listener), secure).await;
    let mut peer = broker.accept_subscribed(false).await;
    let topic = TOPIC.replace("tenant123", &tenant);
    peer.publish(1, &topic, b"signed").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let records = read(&kafka_brokers(), &format!("{tenant}.project456"), 1).await;
    assert_eq!(records[0].payload, b"signed");
    bridge.wait_for("/readyz", r#""ok":true"#).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_wrong_password_is_reported_and_no_message_is_lost() {
    let (broker, tenant) = (Broker::start().await, unique("wrong"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong\n").unwrap();
    let with_file = |config: &mut BridgeConfig| {
        login(config);
        config.kafka.security.password = Default::default();
        config.kafka.security.password_file = file.path().to_str().unwrap().into();
    };
    let listener = variable("KAFKA_SASL_BROKERS");
    let bridge = Bridge::start(broker.address(), &listener, with_file).await;
    let mut peer = broker.accept_subscribed(false).await;
    let topic = TOPIC.replace("tenant123", &tenant);
    peer.publish(1, &topic, b"patient").await;
    bridge.wait_for("/readyz", "Authentication failed").await;
    assert!(!bridge.get("/readyz").await.contains("wrong\\n"));
    // A new password takes a restart.
    bridge.task.abort();

    let password = variable("KAFKA_PASSWORD");
    std::fs::write(file.path(), format!("{password}\n")).unwrap();
    let bridge = Bridge::start(broker.address(), &listener, with_file).await;
    // It was not acknowledged, so the MQTT broker still has it.
    let mut peer = broker.accept_subscribed(true).await;
    peer.publish(1, &topic, b"patient").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let records = read(&kafka_brokers(), &format!("{tenant}.project456"), 1).await;
    assert_eq!(records[0].payload, b"patient");
    bridge.stop().await;
}

/// Only in a build with OpenSSL: `cargo test -p iot-bridge --features tls`.
#[cfg(feature = "tls")]
mod tls {
    use iot_kafka::security::SaslMechanism;

    use super::*;

    fn trust(config: &mut BridgeConfig) {
        config.topics.create = true;
        config.kafka.security.ca_file = variable("KAFKA_CERT_FILE");
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the stack"]
    async fn messages_are_delivered_with_a_client_certificate() {
        delivers("certificate", "KAFKA_TLS_BROKERS", |config| {
            trust(config);
            config.kafka.security.protocol = SecurityProtocol::Ssl;
            config.kafka.security.cert_file = variable("KAFKA_CERT_FILE");
            config.kafka.security.key_file = variable("KAFKA_KEY_FILE");
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the stack"]
    async fn messages_are_delivered_with_scram_over_tls() {
        for (name, mechanism) in [
            ("scram-256", SaslMechanism::ScramSha256),
            ("scram-512", SaslMechanism::ScramSha512),
        ] {
            delivers(name, "KAFKA_SASL_TLS_BROKERS", |config| {
                login(config);
                trust(config);
                config.kafka.security.protocol = SecurityProtocol::SaslSsl;
                config.kafka.security.mechanism = mechanism;
            })
            .await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the stack"]
    async fn an_untrusted_certificate_is_reported() {
        let broker = Broker::start().await;
        let listener = variable("KAFKA_SASL_TLS_BROKERS");
        let bridge = Bridge::start(broker.address(), &listener, |config| {
            login(config);
            config.kafka.security.protocol = SecurityProtocol::SaslSsl;
        })
        .await;
        bridge
            .wait_for("/readyz", "certificate verify failed")
            .await;
        bridge.stop().await;
    }
}
