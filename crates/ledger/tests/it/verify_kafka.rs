//! `verify-kafka` must be able to fail: on topics written by another client,
//! with known gaps and damage.

use std::io::Write as _;
use std::net::TcpListener;

use serde_json::json;

use crate::support::{create_topic, kafka_brokers, produce, run, unique};

/// The payloads of a run of `messages` on one connection, made by the ledger
/// itself: a socket that acknowledges everything stands in for the MQTT broker.
async fn payloads(run_name: &str, messages: usize) -> Vec<Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let broker = std::thread::spawn(move || capture(&listener, messages));
    let total = messages.to_string();
    let args = [
        "publish",
        "--url",
        &url,
        "--run",
        run_name,
        "--connections",
        "1",
        "--messages",
        &total,
    ];
    let published = run(&[&args[..], &["--payload-size", "300"]].concat()).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    broker.join().unwrap()
}

/// Plays the broker for one connection that publishes `messages` payloads of 300 bytes.
fn capture(listener: &TcpListener, messages: usize) -> Vec<Vec<u8>> {
    let (mut stream, _) = listener.accept().unwrap();
    let connect = packet(&mut stream);
    assert_eq!(connect.0 >> 4, 1, "not a CONNECT");
    stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
    let mut payloads = Vec::new();
    loop {
        let (first, body) = packet(&mut stream);
        match first >> 4 {
            3 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let id = &body[2 + topic..4 + topic];
                stream.write_all(&[0x40, 2, id[0], id[1]]).unwrap();
                payloads.push(body[body.len() - 300..].to_vec());
            }
            14 => break,
            _ => {}
        }
    }
    assert_eq!(payloads.len(), messages);
    payloads
}

/// One MQTT packet: its first byte and its body.
fn packet(stream: &mut impl std::io::Read) -> (u8, Vec<u8>) {
    let mut byte = || {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        byte[0]
    };
    let first = byte();
    let (mut length, mut shift) = (0, 0);
    loop {
        let next = byte();
        length |= usize::from(next & 0x7f) << shift;
        shift += 7;
        if next & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (first, body)
}

/// Writes `records` to a new topic and verifies `run_name` there; the report
/// has, as `found`, the text of the file that names what arrived.
async fn verify(
    run_name: &str,
    messages: usize,
    records: &[Vec<u8>],
) -> (Option<i32>, serde_json::Value) {
    let topic = unique("ledger");
    create_topic(&topic, 2).await;
    produce(&topic, records).await;
    let (brokers, total) = (kafka_brokers(), messages.to_string());
    let found = tempfile::NamedTempFile::new().unwrap();
    let verified = run(&[
        "verify-kafka",
        "--brokers",
        &brokers,
        "--topic",
        &topic,
        "--run",
        run_name,
        "--connections",
        "1",
        "--messages",
        &total,
        "--timeout",
        "3s",
        "--found",
        &found.path().display().to_string(),
        "--json",
    ])
    .await;
    let mut report = verified.json();
    report["found"] = std::fs::read_to_string(found.path()).unwrap().into();
    (verified.code, report)
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_complete_topic_passes() {
    let mut records = payloads("whole", 50).await;
    records.insert(7, b"not of the ledger".to_vec());
    records.push(records[3].clone());
    let (code, report) = verify("whole", 50, &records).await;
    assert_eq!(code, Some(0), "{report}");
    let counts = [
        &report["lost"],
        &report["duplicated"],
        &report["regressions"],
        &report["foreign"],
    ];
    assert_eq!(counts, [0, 1, 0, 1]);
    assert_eq!(report["sent_to_record_ms"]["count"], 50);
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_gap_fails_and_is_named() {
    let mut records = payloads("gap", 50).await;
    records.drain(20..23);
    records.pop();
    let (code, report) = verify("gap", 50, &records).await;
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(
        (&report["lost"], &report["corrupt"]),
        (&json!(4), &json!(0))
    );
    let missing =
        json!([{"conn": 0, "first": 20, "last": 22}, {"conn": 0, "first": 49, "last": 49}]);
    assert_eq!(report["missing"], missing);
    assert_eq!(report["found"], "0 0 19\n0 23 48\n");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_corrupt_record_fails_even_beside_its_good_copy() {
    let mut records = payloads("bad", 50).await;
    let mut bad = records[5].clone();
    bad[280] ^= 1;
    records.push(bad);
    let (code, report) = verify("bad", 50, &records).await;
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(
        (&report["lost"], &report["corrupt"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(report["examples"][0]["offset"], 50);
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_swap_is_an_order_regression() {
    let mut records = payloads("swap", 50).await;
    records.swap(10, 11);
    let (code, report) = verify("swap", 50, &records).await;
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["regressions"], 1);
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_topic_that_is_not_there_fails() {
    let (brokers, topic) = (kafka_brokers(), unique("ledger-none"));
    let args = [
        "verify-kafka",
        "--brokers",
        &brokers,
        "--topic",
        &topic,
        "--run",
        "r",
        "--timeout",
        "1s",
    ];
    let verified = run(&args).await;
    assert_eq!(verified.code, Some(1));
    assert!(verified.stderr.contains("does not exist"), "{verified:?}");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn bad_arguments_are_told_apart() {
    for args in [
        &["verify-kafka", "--run", "no/name"][..],
        &["verify-kafka"],
        &["publish", "--payload-size", "10"],
        &["publish", "--url", "mqtts://localhost"],
        &["publish", "--topic", "a/#"],
    ] {
        assert_eq!(run(args).await.code, Some(2), "{args:?}");
    }
}
