//! HTTPS and secured WebSockets, from the settings to the answers.

use std::fs;

use futures::{SinkExt, StreamExt};
use iot_service::config::HttpTlsConfig;
use iot_service::tls::client_config;
use testkit::{in_time, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::service::{Kafka, Service, config};

/// Puts a certificate for `localhost` and its key into the files.
fn issue(files: &HttpTlsConfig) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&files.cert_file, issued.cert.pem()).unwrap();
    fs::write(&files.key_file, issued.signing_key.serialize_pem()).unwrap();
}

/// A connection of a client that trusts the certificate in the file.
async fn connect(
    consumer: &Service,
    files: &HttpTlsConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let trusted = client_config(&files.cert_file, "", "").unwrap();
    let stream = TcpStream::connect(consumer.http).await?;
    let name = "localhost".try_into().unwrap();
    TlsConnector::from(trusted).connect(name, stream).await
}

#[tokio::test]
async fn page_and_websocket_have_tls_and_the_certificate_can_be_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let files = HttpTlsConfig {
        cert_file: path("tls.crt"),
        key_file: path("tls.key"),
    };
    issue(&files);
    let kafka = Kafka::new(&["acme.plant"]);
    let mut config = config(&kafka.brokers());
    config.http.tls = files.clone();
    let consumer = Service::start(config).await;

    let mut page = connect(&consumer, &files).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    page.write_all(request).await.unwrap();
    let mut answer = String::new();
    page.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    let stream = connect(&consumer, &files).await.unwrap();
    let (mut socket, _) = client_async("wss://localhost/ws", stream).await.unwrap();
    let request = Message::text(r#"{"id": 1, "connect": {}}"#);
    socket.send(request).await.unwrap();
    let reply = in_time("the reply", socket.next()).await.unwrap().unwrap();
    assert!(reply.to_text().unwrap().contains("\"connect\""), "{reply}");

    issue(&files);
    wait_for("the renewed certificate", || connect(&consumer, &files)).await;
    // The connections that there are go on.
    socket
        .send(Message::text(r#"{"id": 2, "ping": {}}"#))
        .await
        .unwrap();
    let reply = in_time("the reply", socket.next()).await.unwrap().unwrap();
    assert!(reply.to_text().unwrap().contains("\"ping\""), "{reply}");
    drop(socket);
    consumer.stop().await;
}
