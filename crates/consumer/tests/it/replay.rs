//! `iot-consumer replay` on a real Kafka.

use std::process::{Command, Output};

use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use serde_json::Value;

use crate::real::Real;
use crate::service::{DEADLINE, header, message, now, read};

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
        let sent = kafka.producer.send(record, DEADLINE).await;
        sent.map_err(|(error, _)| error).unwrap();
    }
    first
}

fn replay(kafka: &Real, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iot-consumer"));
    command.arg("replay").args(args);
    command.args(["--set", &format!("kafka.brokers={}", kafka.brokers)]);
    command.output().unwrap()
}

fn moment(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis)
        .unwrap()
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_part_of_the_log_is_read_again_in_its_order() {
    let kafka = Real::new("replay");
    let topic = kafka.run.clone();
    kafka.create(&topic, 3).await;
    let first = fill(&kafka, &topic).await;
    let (from, to) = (moment(first + 2_000), moment(first + 8_000));
    let output = replay(&kafka, &["--topic", &topic, "--from", &from, "--to", &to]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors.trim(), "6 records replayed");
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines
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
    let output = replay(&kafka, &wanted);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let copies = read(&kafka.brokers, &copy, 1, 5).await;
    assert!(copies.iter().all(|record| record.key() == Some(&b"d1"[..])));
    let origin = format!("{topic}/1/0");
    assert_eq!(
        header(&copies[0], "replay-of").as_deref(),
        Some(origin.as_str())
    );
    assert_eq!(
        header(&copies[0], "iot-label").as_deref(),
        Some("temperature=spike")
    );
    assert_eq!(copies[0].timestamp().to_millis(), Some(first + 1_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_replay_that_can_not_be_says_why() {
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
        let output = replay(&kafka, args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(expected), "{errors}");
    }
    let nothing = replay(&kafka, &["--topic", &topic, "--from", "1h"]);
    assert!(nothing.status.success() && nothing.stdout.is_empty());
}
