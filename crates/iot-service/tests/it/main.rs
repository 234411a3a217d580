//! The ops endpoints over HTTP.

use iot_service::health::Health;
use iot_service::ops;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

async fn get(url: String) -> (u16, String) {
    let response = reqwest::get(url).await.expect("an answer");
    let status = response.status().as_u16();
    (status, response.text().await.expect("a body"))
}

#[tokio::test]
async fn metrics_and_health_are_served_until_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (health, stop) = (Health::default(), CancellationToken::new());
    let kafka = health.component("kafka");
    let registry = prometheus::Registry::new();
    let counter = prometheus::IntCounter::new("example_total", "An example.").unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    let server = ops::serve(listener, registry, health, stop.clone());

    counter.inc();
    let (status, metrics) = get(format!("{base}/metrics")).await;
    assert_eq!(status, 200);
    assert!(metrics.contains("example_total 1"), "{metrics}");
    assert!(
        metrics.contains("process_resident_memory_bytes"),
        "{metrics}"
    );

    kafka.not_ready("no broker answers");
    let (status, body) = get(format!("{base}/readyz")).await;
    assert_eq!(status, 503);
    assert!(body.contains("no broker answers"), "{body}");
    assert_eq!(get(format!("{base}/livez")).await.0, 200);

    kafka.ready();
    assert_eq!(get(format!("{base}/readyz")).await.0, 200);
    stop.cancel();
    server.await.unwrap();
}
