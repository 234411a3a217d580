//! The ops endpoints over HTTP.

use iot_service::health::Health;
use testkit::http::Ops;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn metrics_and_health_are_served_until_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ops = Ops(listener.local_addr().unwrap());
    let (health, stop) = (Health::default(), CancellationToken::new());
    let kafka = health.component("kafka");
    let registry = prometheus::Registry::new();
    let counter = prometheus::IntCounter::new("example_total", "An example.").unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    let server = iot_service::ops::serve(listener, registry, health, stop.clone());

    counter.inc();
    let (status, metrics) = ops.get("/metrics").await.unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("example_total 1"), "{metrics}");
    assert!(
        metrics.contains("process_resident_memory_bytes"),
        "{metrics}"
    );

    kafka.not_ready("no broker answers");
    let (status, body) = ops.get("/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(body.contains("no broker answers"), "{body}");
    assert_eq!(ops.get("/livez").await.unwrap().0, 200);

    kafka.ready();
    assert_eq!(ops.get("/readyz").await.unwrap().0, 200);
    stop.cancel();
    server.await.unwrap();
}
