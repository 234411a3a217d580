//! A real Kafka with TLS. Only in a build with OpenSSL: `cargo test -p iot-consumer
//! --features tls`.

use iot_consumer::ConsumerConfig;
use iot_kafka::security::{SaslMechanism, SecurityProtocol};
use testkit::kafka::read;
use testkit::stack::variable;
use testkit::wait_for;

use crate::real::Real;
use crate::service::Service;

/// Reads a message, and writes a dead letter, through a listener of the Kafka.
async fn consumes(name: &str, listener: &str, secure: impl FnOnce(&mut ConsumerConfig)) {
    let kafka = Real::new(name);
    let topic = kafka.run.clone();
    kafka.create(&topic, 1).await;
    kafka.send_each(&topic, 1, 0..1).await;
    kafka.send(&topic, 0, b"no message").await;
    let mut config = kafka.config(&[&topic]);
    config.kafka.brokers = vec![variable(listener)];
    config.kafka.security.ca_file = variable("KAFKA_CERT_FILE");
    secure(&mut config);
    let letters = config.dead_letter.topic.clone();
    let service = Service::start(config).await;
    service.wait_consumed(2).await;
    let letters = read(&kafka.brokers, &letters, 1).await;
    assert_eq!(letters[0].payload, b"no message");
    service.wait_ready().await;
    service.stop().await;
}

fn login(config: &mut ConsumerConfig) {
    config.kafka.security.protocol = SecurityProtocol::SaslSsl;
    config.kafka.security.username = variable("KAFKA_USERNAME");
    config.kafka.security.password = variable("KAFKA_PASSWORD").as_str().into();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn records_and_dead_letters_pass_with_a_client_certificate() {
    consumes("certificate", "KAFKA_TLS_BROKERS", |config| {
        config.kafka.security.protocol = SecurityProtocol::Ssl;
        config.kafka.security.cert_file = variable("KAFKA_CERT_FILE");
        config.kafka.security.key_file = variable("KAFKA_KEY_FILE");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn records_and_dead_letters_pass_with_scram_over_tls() {
    for (name, mechanism) in [
        ("scram-256", SaslMechanism::ScramSha256),
        ("scram-512", SaslMechanism::ScramSha512),
    ] {
        consumes(name, "KAFKA_SASL_TLS_BROKERS", |config| {
            login(config);
            config.kafka.security.mechanism = mechanism;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn an_untrusted_certificate_is_reported() {
    let kafka = Real::new("untrusted");
    let mut config = kafka.config(&[&kafka.run]);
    config.kafka.brokers = vec![variable("KAFKA_SASL_TLS_BROKERS")];
    login(&mut config);
    let service = Service::start(config).await;
    wait_for("the reason", async || {
        let (_, ready) = service.readyz().await;
        let reason = ready["components"]["kafka"]["reason"].as_str()?;
        reason.contains("certificate verify failed").then_some(())
    })
    .await;
    service.stop().await;
}
