//! `iot-consumer state` on a real Kafka and a real Redis.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::real::Real;
use crate::redis_server::Server;
use crate::service::{Service, message, now, send};

fn state(kafka: &Real, redis: &Server, args: &[&str], answer: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iot-consumer"));
    command
        .arg("state")
        .args(args)
        .args(["--topic", &kafka.run]);
    command.args(["--set", &format!("kafka.brokers={}", kafka.brokers)]);
    command.args(["--set", &format!("store.url={}", redis.url())]);
    command.args(["--set", &format!("kafka.group={}", kafka.run)]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended without asking.
    let _ = stdin.write_all(answer.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_device_is_shown_and_a_partition_begins_anew() {
    let kafka = Real::new("tool");
    let redis = Server::start(&[]).await;
    kafka.create(&kafka.run, 1).await;
    for (device, value) in [("d1", 20.0), ("d2", 30.0), ("d1", 21.0)] {
        let payload = message(device, now(), "temperature", value).to_string();
        send(&kafka.producer, &kafka.run, payload.as_bytes()).await;
    }
    let config = || {
        let mut config = kafka.config(&[&kafka.run]);
        config.store.url = redis.url().as_str().into();
        config
    };
    let service = Service::start(config()).await;
    service.wait_consumed(3).await;
    service.stop().await;

    let got = state(&kafka, &redis, &["get", "d1"], "");
    assert!(got.status.success(), "{}", text(&got.stderr));
    let device: Value = serde_json::from_slice(&got.stdout).unwrap();
    assert_eq!(device["readings"]["temperature"]["value"], 21.0);
    let missing = state(&kafka, &redis, &["get", "d9"], "");
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("no device \"d9\""));

    let refused = state(&kafka, &redis, &["reset", "--to", "earliest"], "no\n");
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stdout).contains("partition 0: 3 -> 0"),
        "{refused:?}"
    );
    assert!(state(&kafka, &redis, &["get", "d1"], "").status.success());
    let outside = ["reset", "--partition", "0", "--to", "4", "--yes"];
    let outside = state(&kafka, &redis, &outside, "");
    assert!(text(&outside.stderr).contains("from 0 to 3"), "{outside:?}");

    let reset = ["reset", "--partition", "0", "--to", "1"];
    let reset = state(&kafka, &redis, &reset, "yes\n");
    assert!(reset.status.success(), "{}", text(&reset.stderr));
    assert!(!state(&kafka, &redis, &["get", "d1"], "").status.success());
    let service = Service::start(config()).await;
    service.wait_consumed(2).await;
    let path = "/api/v1/devices/default/default/d1";
    let (status, device) = service.get(path).await;
    assert_eq!(
        (status, &device["readings"]["temperature"]["value"]),
        (200, &21.0.into())
    );

    // One that runs would not notice.
    let reset = state(&kafka, &redis, &["reset", "--to", "latest", "--yes"], "");
    assert_eq!(reset.status.code(), Some(1));
    assert!(text(&reset.stderr).contains("has 1 members"), "{reset:?}");
    service.stop().await;
}
