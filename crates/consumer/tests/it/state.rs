//! `iot-consumer state` on a real Kafka and a real Redis.

use testkit::kafka::send;
use testkit::process::Run;
use testkit::redis::RedisServer;

use crate::process::consumer;
use crate::real::Real;
use crate::service::{Service, message, now, record};

async fn state(kafka: &Real, redis: &RedisServer, args: &[&str], answer: &str) -> Run {
    let state = consumer(&["state"]).args(args);
    let state = state.args(&["--topic", &kafka.run]).settings(&[
        ("kafka.brokers", &kafka.brokers),
        ("store.url", &redis.url()),
        ("kafka.group", &kafka.run),
    ]);
    state.input(answer).run().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_device_is_printed_and_a_partition_is_reset() {
    let kafka = Real::new("tool");
    let redis = RedisServer::start(&[]).await;
    kafka.create(&kafka.run, 1).await;
    for (device, value) in [("d1", 20.0), ("d2", 30.0), ("d1", 21.0)] {
        let payload = message(device, now(), "temperature", value).to_string();
        send(&kafka.producer, record(&kafka.run, payload.as_bytes())).await;
    }
    let config = || {
        let mut config = kafka.config(&[&kafka.run]);
        config.store.url = redis.url().as_str().into();
        config
    };
    let service = Service::start(config()).await;
    service.wait_consumed(3).await;
    service.stop().await;

    let state = async |args: &[&str], answer: &str| state(&kafka, &redis, args, answer).await;
    let got = state(&["get", "d1"], "").await;
    assert_eq!(got.code, Some(0), "{got:?}");
    assert_eq!(got.json()["readings"]["temperature"]["value"], 21.0);
    let missing = state(&["get", "d9"], "").await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("no device \"d9\""));

    let refused = state(&["reset", "--to", "earliest"], "no\n").await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stdout.contains("partition 0: 3 -> 0"),
        "{refused:?}"
    );
    assert_eq!(state(&["get", "d1"], "").await.code, Some(0));
    let outside = ["reset", "--partition", "0", "--to", "4", "--yes"];
    let outside = state(&outside, "").await;
    assert!(outside.stderr.contains("from 0 to 3"), "{outside:?}");

    let reset = ["reset", "--partition", "0", "--to", "1"];
    let reset = state(&reset, "yes\n").await;
    assert_eq!(reset.code, Some(0), "{reset:?}");
    assert_ne!(state(&["get", "d1"], "").await.code, Some(0));
    let service = Service::start(config()).await;
    service.wait_consumed(2).await;
    let path = "/api/v1/devices/default/default/d1";
    let (status, device) = service.get(path).await;
    assert_eq!(
        (status, &device["readings"]["temperature"]["value"]),
        (200, &21.0.into())
    );

    // A running consumer would not notice a reset.
    let reset = state(&["reset", "--to", "latest", "--yes"], "").await;
    assert_eq!(reset.code, Some(1));
    assert!(reset.stderr.contains("has 1 members"), "{reset:?}");
    service.stop().await;
}
