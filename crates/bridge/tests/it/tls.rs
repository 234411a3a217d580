//! An MQTT broker with TLS that asks for a client certificate.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use testkit::mqtt_broker::Broker;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::{Bridge, KAFKA_TOPIC, TOPIC, start_cluster};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn signed(authority: &Authority, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_string()]).unwrap();
    (params.signed_by(&key, authority).unwrap(), key)
}

/// Takes clients whose certificate the authority has signed.
fn acceptor(authority: &Authority) -> TlsAcceptor {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let (certificate, key) = signed(authority, "127.0.0.1");
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_over_tls_and_replaced_certificates_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let (own, other) = (authority(), authority());
    let write_client = |authority: &Authority| {
        let (certificate, key) = signed(authority, "bridge");
        std::fs::write(file("client.pem"), certificate.pem()).unwrap();
        std::fs::write(file("client.key"), key.serialize_pem()).unwrap();
    };
    write_client(&own);
    std::fs::write(file("ca.pem"), other.pem()).unwrap();

    let broker = Broker::start().await.with_tls(acceptor(&own));
    let cluster = start_cluster();
    let address = broker.address();
    let bridge = Bridge::start(address, &cluster.brokers(), |config| {
        config.mqtt.brokers = vec![format!("mqtts://{address}")];
        config.mqtt.tls.ca_file = text(&file("ca.pem"));
        config.mqtt.tls.cert_file = text(&file("client.pem"));
        config.mqtt.tls.key_file = text(&file("client.key"));
    })
    .await;
    broker.expect_failed_handshake().await;
    bridge.wait_for("/readyz", "set mqtt.tls.ca_file").await;
    std::fs::write(file("ca.pem"), own.pem()).unwrap();
    let mut peer = broker.accept_subscribed(false).await;
    peer.publish(1, TOPIC, b"secret").await;
    assert_eq!(peer.acknowledgements(1).await, [1]);
    let records = cluster.read(KAFKA_TOPIC, 1).await;
    assert_eq!(records[0].payload, b"secret");
    // Longer than one TLS record.
    peer.publish(2, TOPIC, &vec![7; 100_000]).await;
    assert_eq!(peer.acknowledgements(1).await, [2]);
    bridge.stop().await;
}
