//! The server over real sockets.

use axum::Extension;
use axum::routing::get;
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::Issued;

struct Fixture {
    address: std::net::SocketAddr,
    refused: IntCounter,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Fixture {
    async fn start(routes: Router, limit: usize) -> Self {
        Self::with(routes, limit, &HttpTlsConfig::default()).await
    }

    async fn with(routes: Router, limit: usize, tls: &HttpTlsConfig) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = Listener::new(socket, tls).unwrap();
        let address = listener.local_addr().unwrap();
        let refused = IntCounter::new("refused", "Refused connections").unwrap();
        let stop = CancellationToken::new();
        let server = serve(listener, routes, limit, refused.clone(), stop.clone());
        Self {
            address,
            refused,
            stop,
            server: tokio::spawn(server),
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The answer to a request on a connection of its own.
    async fn get(&self) -> String {
        let mut stream = self.connect().await;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn ended(self) {
        self.stop.cancel();
        self.server.await.unwrap();
    }
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// Routes that answer once notified, and the requests that wait for it.
fn late() -> (Router, mpsc::UnboundedReceiver<()>, Arc<Notify>) {
    let answer = Arc::new(Notify::new());
    let (begun, requests) = mpsc::unbounded_channel();
    let answered = answer.clone();
    let routes = Router::new().route(
        "/",
        get(async move || {
            begun.send(()).unwrap();
            answered.notified().await;
            "late"
        }),
    );
    (routes, requests, answer)
}

#[tokio::test]
async fn idle_connections_make_room_for_others() {
    let server = Fixture::start(hello(), 2).await;
    let mut idle = Vec::new();
    for _ in 0..5 {
        idle.push(server.connect().await);
        let answer = server.get().await;
        assert!(answer.ends_with("hello"), "{answer}");
    }
    // The first one was idle for longest.
    assert_eq!(idle[0].read(&mut [0; 9]).await.unwrap(), 0);
    assert_eq!(server.refused.get(), 0);
    server.ended().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_while_all_others_are_busy() {
    let (routes, mut requests, answer) = late();
    let server = Fixture::start(routes, 1).await;
    let (late, refused) = tokio::join!(server.get(), async {
        requests.recv().await;
        let refused = server.get().await;
        answer.notify_one();
        refused
    });
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(late.ends_with("late"), "{late}");
    assert_eq!(server.refused.get(), 1);
    server.ended().await;
}

#[tokio::test]
async fn a_connection_that_a_handler_took_over_counts_until_the_handler_ends() {
    let (taken, mut permits) = mpsc::unbounded_channel();
    let routes = Router::new().route(
        "/",
        get(async move |Extension(permit): Extension<Permit>| {
            taken.send(permit).unwrap();
            "taken"
        }),
    );
    let server = Fixture::start(routes, 1).await;
    assert!(server.get().await.ends_with("taken"));
    let permit = permits.recv().await.unwrap();
    let refused = server.get().await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    drop(permit);
    assert!(server.get().await.ends_with("taken"));
    server.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_complete_request_is_closed() {
    let server = Fixture::start(hello(), 2).await;
    let mut half = server.connect().await;
    half.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
    let mut rest = Vec::new();
    half.read_to_end(&mut rest).await.unwrap();
    server.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_body_never_comes_is_answered() {
    let routes = Router::new().route("/", axum::routing::post(async |body: String| body));
    let server = Fixture::start(routes, 1).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    server.ended().await;
}

#[tokio::test]
async fn half_a_request_does_not_delay_the_end() {
    let server = Fixture::start(hello(), 2).await;
    let mut half = server.connect().await;
    half.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
    assert!(server.get().await.ends_with("hello"));
    timeout(REQUEST_DEADLINE / 2, server.ended()).await.unwrap();
}

/// Larger than the buffers of both sockets, so that much of it waits for the client.
#[tokio::test]
async fn a_large_answer_is_completed_before_the_end() {
    const SIZE: usize = 32 << 20;
    let routes = Router::new().route("/", get(async || vec![b'x'; SIZE]));
    let server = Fixture::start(routes, 2).await;
    let mut stream = server.connect().await;
    let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = vec![0; 1024];
    stream.read_exact(&mut answer).await.unwrap();
    server.stop.cancel();
    // Longer than a connection without a request is given.
    sleep(CLOSE * 2).await;
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.len() > SIZE, "{}", answer.len());
    server.ended().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_client_does_not_take_is_given_up() {
    const SIZE: usize = 32 << 20;
    let routes = Router::new().route("/", get(async || vec![b'x'; SIZE]));
    let server = Fixture::start(routes, 2).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = vec![0; 1024];
    stream.read_exact(&mut answer).await.unwrap();
    sleep(REQUEST_DEADLINE * 5).await;
    // The end, or an error: it is closed in the middle.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() < SIZE, "{}", answer.len());
    server.ended().await;
}

#[tokio::test]
async fn an_answer_under_way_is_completed_before_the_end() {
    let (routes, mut requests, answer) = late();
    let server = Fixture::start(routes, 2).await;
    let (late, ()) = tokio::join!(server.get(), async {
        requests.recv().await;
        server.stop.cancel();
        answer.notify_one();
    });
    assert!(late.ends_with("late"), "{late}");
    server.ended().await;
}

/// The answer over TLS, from a client that trusts the certificate.
async fn get_secured(server: &Fixture, issued: &Issued) -> io::Result<String> {
    let trusted = crate::tls::client_config(&issued.config.cert_file, "", "").unwrap();
    let stream = server.connect().await;
    let name = "localhost".try_into().unwrap();
    let mut stream = TlsConnector::from(trusted).connect(name, stream).await?;
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn with_tls_only_clients_with_tls_are_answered() {
    let issued = Issued::new();
    let server = Fixture::with(hello(), 2, &issued.config).await;
    let mut plain = server.connect().await;
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // An alert, or a reset when the rest of the request was not read.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let answer = get_secured(&server, &issued).await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    assert!(get_secured(&server, &Issued::new()).await.is_err());
    server.ended().await;
}

#[tokio::test]
async fn connections_without_a_handshake_make_room_for_others() {
    let issued = Issued::new();
    let server = Fixture::with(hello(), 1, &issued.config).await;
    let mut silent = server.connect().await;
    let answer = get_secured(&server, &issued).await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    assert!(matches!(silent.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert_eq!(server.refused.get(), 0);
    // And none of them delays the shutdown.
    let _silent = server.connect().await;
    server.ended().await;
}
