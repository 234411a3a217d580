//! Against a server with certificates that the test made.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::*;
use crate::{ConnectError, MqttStream};

const DEADLINE: Duration = Duration::from_secs(30);

/// A CA and the certificates it signed, in files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(authority.path("ca.pem"), authority.issuer.pem()).unwrap();
        authority
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn text(&self, file: &str) -> String {
        self.path(file).to_str().unwrap().to_string()
    }

    /// Writes `<name>.pem`, with these subject alternative names, and `<name>.key`.
    fn sign(&self, name: &str, subjects: &[&str]) {
        let key = KeyPair::generate().unwrap();
        let subjects = subjects.iter().map(ToString::to_string);
        let params = CertificateParams::new(subjects.collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }
}

/// An echo server.
async fn server(authority: &Authority, wants_client: bool) -> u16 {
    server_for(authority, &["localhost"], wants_client).await
}

/// The same with these names in its certificate.
async fn server_for(authority: &Authority, names: &[&str], wants_client: bool) -> u16 {
    authority.sign("server", names);
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if wants_client {
        let roots = Arc::new(authority.roots());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let certificate = CertificateDer::from_pem_file(authority.path("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(authority.path("server.key")).unwrap();
    let config = builder.with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut bytes = [0; 1024];
                loop {
                    let read = stream.read(&mut bytes).await?;
                    stream.write_all(&bytes[..read]).await?;
                    if read == 0 {
                        return stream.shutdown().await;
                    }
                }
            });
        }
    });
    port
}

/// Sends, and reads to the end.
async fn echo(port: u16, tls: &TlsConfig) -> Result<Vec<u8>, ConnectError> {
    let broker = format!("mqtts://localhost:{port}").parse().unwrap();
    let mut stream = MqttStream::connect(&broker, tls, DEADLINE).await?;
    stream.write_all(b"hello").await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn refused(port: u16, tls: &TlsConfig, text: &str) {
    let error = echo(port, tls).await.expect_err(text).to_string();
    assert!(error.contains(text), "{error}");
}

#[tokio::test]
async fn a_trusted_certificate_is_accepted_and_others_are_explained() {
    let authority = Authority::new();
    let port = server(&authority, false).await;
    let mut tls = TlsConfig {
        ca_file: authority.text("ca.pem"),
        ..TlsConfig::default()
    };
    assert_eq!(echo(port, &tls).await.unwrap(), b"hello");

    tls.server_name = "elsewhere.example".into();
    let text = "is not for elsewhere.example but for";
    refused(port, &tls, text).await;
    refused(port, &tls, "set mqtt.tls.server_name").await;
    tls.server_name = String::new();

    let stranger = Authority::new();
    tls.ca_file = stranger.text("ca.pem");
    refused(port, &tls, "set mqtt.tls.ca_file").await;

    // It is read again for every connection.
    std::fs::copy(authority.path("ca.pem"), stranger.path("ca.pem")).unwrap();
    assert_eq!(echo(port, &tls).await.unwrap(), b"hello");
    std::fs::remove_file(stranger.path("ca.pem")).unwrap();
    refused(port, &tls, &tls.ca_file).await;
}

#[tokio::test]
async fn a_certificate_without_alternative_names_is_explained() {
    let authority = Authority::new();
    let port = server_for(&authority, &[], false).await;
    let tls = TlsConfig {
        ca_file: authority.text("ca.pem"),
        ..TlsConfig::default()
    };
    refused(port, &tls, "no subject alternative name (SAN)").await;
    refused(port, &tls, "issue one with the name localhost").await;
}

#[tokio::test]
async fn a_client_certificate_is_presented() {
    let authority = Authority::new();
    let port = server(&authority, true).await;
    let mut tls = TlsConfig {
        ca_file: authority.text("ca.pem"),
        ..TlsConfig::default()
    };
    refused(port, &tls, "set mqtt.tls.cert_file").await;

    authority.sign("client", &["bridge"]);
    tls.cert_file = authority.text("client.pem");
    tls.key_file = authority.text("client.key");
    assert_eq!(echo(port, &tls).await.unwrap(), b"hello");

    let stranger = Authority::new();
    stranger.sign("client", &["bridge"]);
    tls.cert_file = stranger.text("client.pem");
    tls.key_file = stranger.text("client.key");
    refused(port, &tls, "does not accept the certificate").await;
}

#[tokio::test]
async fn a_port_without_tls_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 1024];
        assert_ne!(stream.read(&mut bytes).await.unwrap(), 0);
        stream.write_all(&[0x20, 2, 0, 1, 0, 0]).await
    });
    let authority = Authority::new();
    let tls = TlsConfig {
        ca_file: authority.text("ca.pem"),
        ..TlsConfig::default()
    };
    refused(port, &tls, "does not speak TLS").await;
}

#[tokio::test]
async fn a_silent_broker_is_an_error_after_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = format!("mqtts://localhost:{port}").parse().unwrap();
    let authority = Authority::new();
    let tls = TlsConfig {
        ca_file: authority.text("ca.pem"),
        ..TlsConfig::default()
    };
    let soon = Duration::from_millis(100);
    let connected = MqttStream::connect(&broker, &tls, soon).await;
    let error = connected.expect_err("no answer");
    assert_eq!(error.to_string(), "no answer within 0.1 s");
}

fn problems(tls: &TlsConfig, broker: &str) -> String {
    let mut problems = Problems::default();
    tls.validate(&[broker.to_string()], &mut problems);
    problems.to_string()
}

#[test]
fn settings_that_can_not_work_are_reported() {
    assert_eq!(problems(&TlsConfig::default(), "mqtt://x"), "");
    let authority = Authority::new();
    authority.sign("client", &["bridge"]);
    let good = TlsConfig {
        ca_file: authority.text("ca.pem"),
        cert_file: authority.text("client.pem"),
        key_file: authority.text("client.key"),
        server_name: "broker.example".into(),
    };
    assert_eq!(problems(&good, "mqtts://x"), "");
    assert!(problems(&good, "mqtt://x").contains("nothing would be encrypted"));

    let mut bad = good.clone();
    bad.ca_file = authority.text("missing.pem");
    bad.cert_file = authority.text("client.key");
    bad.server_name = "two words".into();
    let found = problems(&bad, "mqtts://x");
    for text in [
        "mqtt.tls.ca_file: ",
        "missing.pem: No such file",
        "mqtt.tls.cert_file: ",
        "there is no certificate in it",
        "mqtt.tls.server_name: ",
    ] {
        assert!(found.contains(text), "{text} is not in:\n{found}");
    }
    let half = TlsConfig {
        key_file: String::new(),
        ..good
    };
    assert!(problems(&half, "mqtts://x").contains("mqtt.tls.key_file: is needed"));
}
