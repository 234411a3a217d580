//! `verify-kafka` must be able to fail: on topics written by another client, with known
//! gaps and damage.

use rumqttc::v5::mqttbytes::v5::Packet;
use serde_json::json;
use testkit::mqtt_broker::Broker;
use testkit::stack::{kafka_brokers, unique};

use crate::support::{create_topic, produce, run};

/// How long an incomplete run is waited for.
const PATIENCE: &str = "10s";

/// The payloads of a run of `messages` on one connection, made by the ledger itself:
/// a scripted broker acknowledges everything.
pub(crate) async fn payloads(run_name: &str, messages: usize) -> Vec<Vec<u8>> {
    let broker = Broker::start().await;
    let url = format!("mqtt://{}", broker.address());
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
        "--payload-size",
        "300",
    ];
    let (published, payloads) = tokio::join!(run(&args), capture(&broker));
    assert_eq!(published.code, Some(0), "{published:?}");
    assert_eq!(payloads.len(), messages);
    payloads
}

/// What one connection publishes until it disconnects.
async fn capture(broker: &Broker) -> Vec<Vec<u8>> {
    let mut peer = broker.accept(false).await;
    let mut payloads = Vec::new();
    loop {
        match peer.next().await {
            Packet::Publish(publish) => {
                peer.acknowledge(publish.pkid).await;
                payloads.push(publish.payload.to_vec());
            }
            Packet::Disconnect(_) => return payloads,
            other => panic!("{other:?} is not expected"),
        }
    }
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
        PATIENCE,
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
async fn swapped_records_are_an_order_regression() {
    let mut records = payloads("swap", 50).await;
    records.swap(10, 11);
    let (code, report) = verify("swap", 50, &records).await;
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["regressions"], 1);
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_missing_topic_fails() {
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
        PATIENCE,
    ];
    let verified = run(&args).await;
    assert_eq!(verified.code, Some(1));
    assert!(verified.stderr.contains("does not exist"), "{verified:?}");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn invalid_arguments_exit_with_2() {
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
