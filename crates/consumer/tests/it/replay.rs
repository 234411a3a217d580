//! `iot-consumer replay` on a real Kafka.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use serde_json::Value;
use testkit::kafka::{read, send};
use testkit::process::Run;

use crate::process::consumer;
use crate::real::Real;
use crate::service::{message, now};

/// Messages of two devices in two partitions, a second apart; returns the time of the
/// first.
async fn fill(kafka: &Real, topic: &str) -> i64 {
    let first = now() - 60_000;
    for number in 0..10 {
        let time = first + 1_000 * number;
        let device = format!("d{}", number % 2);
        let payload = message(&device, time, "temperature", number as f64).to_string();
        let label = Some("temperature=spike");
        let key = "iot-label";
        let record = FutureRecord::to(topic)
            .partition((number % 2) as i32)
            .timestamp(time)
            .headers(OwnedHeaders::new().insert(Header { key, value: label }))
            .key(&device)
            .payload(&payload);
        send(&kafka.producer, record).await;
    }
    first
}

async fn replay(kafka: &Real, args: &[&str]) -> Run {
    let replay = consumer(&["replay"]).args(args);
    replay.set("kafka.brokers", &kafka.brokers).run().await
}

fn moment(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis)
        .unwrap()
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_range_of_the_log_is_replayed_in_order() {
    let kafka = Real::new("replay");
    let topic = kafka.run.clone();
    kafka.create(&topic, 3).await;
    let first = fill(&kafka, &topic).await;
    let (from, to) = (moment(first + 2_000), moment(first + 8_000));
    let part = ["--topic", &topic, "--from", &from, "--to", &to];
    let replayed = replay(&kafka, &part).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert_eq!(replayed.stderr.trim(), "6 records replayed");
    let lines: Vec<Value> = replayed
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let values = lines
        .iter()
        .map(|line| line["payload"]["readings"][0]["value"].as_f64().unwrap());
    assert_eq!(values.collect::<Vec<_>>(), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert_eq!(lines[0]["timestamp"], first + 2_000);
    assert_eq!(lines[0]["headers"]["iot-label"], "temperature=spike");
    assert_eq!(
        (&lines[1]["partition"], &lines[1]["key"]),
        (&1.into(), &"d1".into())
    );

    // One device, into another topic.
    let copy = format!("{topic}-copy");
    kafka.create(&copy, 1).await;
    let wanted = [
        "--topic", &topic, "--from", "2m", "--device", "d1", "--sink", &copy,
    ];
    let replayed = replay(&kafka, &wanted).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let copies = read(&kafka.brokers, &copy, 5).await;
    assert!(copies.iter().all(|record| record.key() == Some("d1")));
    let origin = format!("{topic}/1/0");
    assert_eq!(copies[0].header("replay-of"), Some(origin.as_str()));
    assert_eq!(copies[0].header("iot-label"), Some("temperature=spike"));
    assert_eq!(copies[0].timestamp, Some(first + 1_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn an_impossible_replay_is_refused_with_the_reason() {
    let kafka = Real::new("replay");
    let topic = kafka.run.clone();
    kafka.create(&topic, 1).await;
    for (args, expected) in [
        (
            &["--topic", &topic, "--from", "1h", "--sink", &topic][..],
            "that would never end",
        ),
        (&["--topic", "missing", "--from", "1h"], "missing"),
        (
            &["--topic", &topic, "--from", "1h", "--to", "2h"],
            "is not after --from",
        ),
        (
            &["--topic", &topic, "--from", "1h", "--sink", "iot.x"],
            "is reserved",
        ),
    ] {
        let refused = replay(&kafka, args).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(expected), "{refused:?}");
    }
    let nothing = replay(&kafka, &["--topic", &topic, "--from", "1h"]).await;
    assert_eq!((nothing.code, &*nothing.stdout), (Some(0), ""));
}
