//! A real Kafka that asks who is there: `scripts/stack` has listeners for it.

use iot_bridge::BridgeConfig;
use iot_kafka::security::SecurityProtocol;

use crate::broker::Broker;
use crate::kafka::read_from;
use crate::real::{brokers, environment, tenant};
use crate::{Bridge, TOPIC};

fn login(config: &mut BridgeConfig) {
    config.topics.create = true;
    config.kafka.security.protocol = SecurityProtocol::SaslPlaintext;
    config.kafka.security.username = environment("KAFKA_USERNAME");
    config.kafka.security.password = environment("KAFKA_PASSWORD").as_str().into();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_login_with_a_password_delivers() {
    delivers("login", "KAFKA_SASL_BROKERS", login).await;
}

/// One message goes through a bridge that uses another listener of the Kafka.
async fn delivers(name: &str, listener: &str, secure: impl FnOnce(&mut BridgeConfig)) {
    let (broker, tenant) = (Broker::start().await, tenant(name));
    let bridge = Bridge::start(broker.address(), &environment(listener), secure).await;
    let mut peer = broker.accept_subscribed(false).await;
    let topic = TOPIC.replace("tenant123", &tenant);
    peer.publish(1, &topic, b"signed").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let records = read_from(brokers(), format!("{tenant}.project456"), 1).await;
    assert_eq!(records[0].payload, b"signed");
    bridge.says("/readyz", r#""ok":true"#).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn a_wrong_password_is_told_and_costs_no_message() {
    let (broker, tenant) = (Broker::start().await, tenant("wrong"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong\n").unwrap();
    let with_file = |config: &mut BridgeConfig| {
        login(config);
        config.kafka.security.password = Default::default();
        config.kafka.security.password_file = file.path().to_str().unwrap().into();
    };
    let listener = environment("KAFKA_SASL_BROKERS");
    let bridge = Bridge::start(broker.address(), &listener, with_file).await;
    let mut peer = broker.accept_subscribed(false).await;
    let topic = TOPIC.replace("tenant123", &tenant);
    peer.publish(1, &topic, b"patient").await;
    bridge.says("/readyz", "Authentication failed").await;
    assert!(!bridge.get("/readyz").await.contains("wrong\\n"));
    // A restart, as it has to be when the password is another.
    bridge.task.abort();

    let password = environment("KAFKA_PASSWORD");
    std::fs::write(file.path(), format!("{password}\n")).unwrap();
    let bridge = Bridge::start(broker.address(), &listener, with_file).await;
    // It was not acknowledged, so the MQTT broker has it still.
    let mut peer = broker.accept_subscribed(true).await;
    peer.publish(1, &topic, b"patient").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let records = read_from(brokers(), format!("{tenant}.project456"), 1).await;
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
        config.kafka.security.ca_file = environment("KAFKA_CERT_FILE");
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the stack"]
    async fn a_certificate_of_the_client_delivers() {
        delivers("certificate", "KAFKA_TLS_BROKERS", |config| {
            trust(config);
            config.kafka.security.protocol = SecurityProtocol::Ssl;
            config.kafka.security.cert_file = environment("KAFKA_CERT_FILE");
            config.kafka.security.key_file = environment("KAFKA_KEY_FILE");
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the stack"]
    async fn a_login_by_challenge_over_tls_delivers() {
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
    async fn a_broker_that_is_not_trusted_is_told() {
        let broker = Broker::start().await;
        let listener = environment("KAFKA_SASL_TLS_BROKERS");
        let bridge = Bridge::start(broker.address(), &listener, |config| {
            login(config);
            config.kafka.security.protocol = SecurityProtocol::SaslSsl;
        })
        .await;
        bridge.says("/readyz", "certificate verify failed").await;
        bridge.stop().await;
    }
}
