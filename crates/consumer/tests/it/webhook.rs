//! Alerts that are posted to an endpoint: grouped, tried again, and never in the way.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Json, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::serve::Listener;
use iot_consumer::ConsumerConfig;
use iot_service::config::{HumanDuration, Live};
use serde_json::Value;
use testkit::port::free_port;
use testkit::wait_for;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

use crate::service::{Kafka, Service, config, message, now};

/// An endpoint that answers with these first, then with 200, and keeps what came.
#[derive(Clone, Default)]
struct Endpoint {
    answers: Arc<Mutex<VecDeque<u16>>>,
    posts: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Endpoint {
    /// Starts it; gives its address too.
    async fn start(answers: &[u16]) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/alerts", listener.local_addr().unwrap());
        (Self::serve(listener, answers), url)
    }

    fn serve<L: Listener<Addr: Debug>>(listener: L, answers: &[u16]) -> Self {
        let endpoint = Self::default();
        endpoint.answers.lock().unwrap().extend(answers);
        let app = Router::new().route("/alerts", post(take));
        let app = app.with_state(endpoint.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        endpoint
    }

    /// Who posted what.
    fn posts(&self) -> Vec<(String, Value)> {
        self.posts.lock().unwrap().clone()
    }

    async fn wait_posts(&self, count: usize) {
        wait_for(&format!("{count} posts"), async || {
            self.posts().len() >= count
        })
        .await;
    }
}

/// Takes connections with TLS.
struct Tls(TcpListener, TlsAcceptor);

impl Tls {
    /// With a certificate that it has signed itself, as PEM.
    async fn listen() -> (Self, String) {
        let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        (Self(listener, acceptor), signed.cert.pem())
    }
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            // Who doesn't trust the certificate hangs up.
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

async fn take(
    State(endpoint): State<Endpoint>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> StatusCode {
    let who = headers.get("authorization");
    let who = who.map_or("", |who| who.to_str().unwrap());
    endpoint.posts.lock().unwrap().push((who.to_owned(), body));
    let answer = endpoint.answers.lock().unwrap().pop_front();
    StatusCode::from_u16(answer.unwrap_or(200)).unwrap()
}

fn settings(kafka: &Kafka, url: &str) -> ConsumerConfig {
    let mut settings = config(&kafka.brokers());
    settings.webhook.url = url.into();
    settings.webhook.group_wait = HumanDuration::from_millis(200);
    settings.webhook.group_interval = HumanDuration::from_secs(1);
    settings
}

/// A temperature beyond its limit.
fn hot(device: &str) -> Value {
    message(device, now(), "temperature", 55.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_of_one_building_are_grouped_into_few_posts() {
    const DEVICES: u64 = 500;
    let kafka = Kafka::new(&["device-data"]);
    let (endpoint, url) = Endpoint::start(&[]).await;
    let mut settings = settings(&kafka, &url);
    settings.webhook.group_wait = HumanDuration::from_secs(2);
    settings.webhook.max_alerts = 20;
    let all: Vec<_> = (0..DEVICES)
        .map(|n| hot(&format!("d{n}")).to_string())
        .collect();
    kafka.send_all("device-data", &all).await;
    let service = Service::start(settings).await;
    let raised = |posts: &[(String, Value)]| -> u64 {
        let raised = posts.iter().map(|(_, post)| post["raised"].as_u64());
        raised.map(Option::unwrap).sum()
    };
    wait_for("all alerts", async || raised(&endpoint.posts()) >= DEVICES).await;
    let posts = endpoint.posts();
    assert_eq!(raised(&posts), DEVICES);
    assert!(posts.len() <= 10, "{} posts", posts.len());
    let mut listed = 0;
    for (who, post) in &posts {
        assert_eq!(who, "");
        assert_eq!(
            (&post["tenant"], &post["building"], &post["kind"]),
            (&"default".into(), &"b1".into(), &"threshold".into())
        );
        let alerts = post["alerts"].as_array().unwrap();
        let truncated = post["truncated"].as_u64().unwrap();
        assert!(alerts.len() <= 20);
        assert_eq!(
            alerts.len() as u64 + truncated,
            post["raised"].as_u64().unwrap()
        );
        assert_eq!(alerts[0]["sensor"], "temperature");
        listed += alerts.len();
    }
    let metric = async |result: &str| {
        let name = format!("iot_webhook_alerts_total{{result=\"{result}\"}}");
        service.metric(&name).await.unwrap() as usize
    };
    wait_for("the last answer", async || metric("listed").await == listed).await;
    assert_eq!(metric("truncated").await, DEVICES as usize - listed);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transient_failures_are_retried_and_refusals_are_not() {
    let kafka = Kafka::new(&["device-data"]);
    let (endpoint, url) = Endpoint::start(&[503, 429, 200, 400]).await;
    let mut settings = settings(&kafka, &url);
    settings.webhook.bearer_token = "hunter2".into();
    let service = Service::start(settings).await;
    kafka.send("device-data", hot("d1")).await;
    endpoint.wait_posts(3).await;
    let posts = endpoint.posts();
    assert!(posts.iter().all(|post| *post == posts[0]), "{posts:?}");
    assert_eq!(posts[0].0, "Bearer hunter2");
    assert_eq!(posts[0].1["alerts"][0]["device"], "d1");
    assert_eq!(service.metric("iot_webhook_retries_total").await, Some(2.0));

    kafka.send("device-data", hot("d2")).await;
    let refused = "iot_webhook_notifications_total{result=\"refused\"}";
    wait_for("a refusal", async || {
        (service.metric(refused).await? > 0.0).then_some(())
    })
    .await;
    let (status, ready) = service.readyz().await;
    let webhook = &ready["components"]["webhook"];
    assert_eq!(
        (status, &webhook["state"]),
        (200, &"degraded".into()),
        "{ready}"
    );

    kafka.send("device-data", hot("d3")).await;
    endpoint.wait_posts(5).await;
    wait_for("health", async || {
        let (_, ready) = service.readyz().await;
        (ready["components"]["webhook"]["state"] == "ready").then_some(())
    })
    .await;
    let devices: Vec<_> = endpoint.posts()[3..]
        .iter()
        .map(|(_, post)| post["alerts"][0]["device"].clone())
        .collect();
    assert_eq!(devices, ["d2", "d3"]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_endpoint_does_not_block_the_consumer() {
    let kafka = Kafka::new(&["device-data"]);
    let mut settings = settings(&kafka, &format!("http://127.0.0.1:{}/secret", free_port()));
    settings.webhook.queue = 1;
    let all: Vec<_> = (0..300)
        .map(|n| hot(&format!("d{n}")).to_string())
        .collect();
    kafka.send_all("device-data", &all).await;
    let service = Service::start(settings).await;
    service.wait_consumed(300).await;
    let ready = wait_for("the reason", async || {
        let (status, ready) = service.readyz().await;
        let degraded = ready["components"]["webhook"]["state"] == "degraded";
        (degraded && status == 200).then_some(ready)
    })
    .await;
    let reason = ready["components"]["webhook"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("refused") && !reason.contains("secret"),
        "{reason}"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_trusted_only_with_its_certificate() {
    let kafka = Kafka::new(&["device-data"]);
    let (listener, certificate) = Tls::listen().await;
    let address = Listener::local_addr(&listener).unwrap();
    let endpoint = Endpoint::serve(listener, &[]);
    let mut settings = settings(&kafka, &format!("https://{address}/alerts"));
    let (sender, live) = watch::channel(Arc::new(settings.clone()));
    let service = Service::follow(Live::of(live)).await;
    kafka.send("device-data", hot("d1")).await;
    wait_for("the reason", async || {
        let (_, ready) = service.readyz().await;
        let reason = ready["components"]["webhook"]["reason"].as_str()?;
        reason.contains("certificate").then_some(())
    })
    .await;
    assert_eq!(endpoint.posts(), []);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), certificate).unwrap();
    settings.webhook.ca_file = file.path().to_str().unwrap().into();
    sender.send_replace(Arc::new(settings));
    endpoint.wait_posts(1).await;
    assert_eq!(endpoint.posts()[0].1["alerts"][0]["device"], "d1");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_that_fail_go_to_a_newly_configured_endpoint() {
    let kafka = Kafka::new(&["device-data"]);
    let mut settings = settings(&kafka, "");
    let (sender, live) = watch::channel(Arc::new(settings.clone()));
    let service = Service::follow(Live::of(live)).await;
    kafka.send("device-data", hot("d1")).await;
    service.wait_consumed(1).await;

    settings.webhook.url = format!("http://127.0.0.1:{}", free_port()).as_str().into();
    sender.send_replace(Arc::new(settings.clone()));
    kafka.send("device-data", hot("d2")).await;
    wait_for("a try", async || {
        (service.metric("iot_webhook_retries_total").await? > 0.0).then_some(())
    })
    .await;

    let (endpoint, url) = Endpoint::start(&[]).await;
    settings.webhook.url = url.as_str().into();
    sender.send_replace(Arc::new(settings.clone()));
    endpoint.wait_posts(1).await;
    let posts = endpoint.posts();
    let devices = posts[0].1["alerts"].as_array().unwrap().iter();
    let devices: Vec<_> = devices.map(|alert| &alert["device"]).collect();
    assert_eq!(devices, ["d2"], "the first came without an endpoint");

    settings.webhook.url = "".into();
    sender.send_replace(Arc::new(settings));
    kafka.send("device-data", hot("d3")).await;
    service.wait_consumed(3).await;
    service.stop().await;
    assert_eq!(endpoint.posts().len(), 1);
}
