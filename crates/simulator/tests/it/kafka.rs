//! Sink `kafka` against librdkafka's mock cluster, which speaks the protocol over
//! sockets but can't create topics.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use iot_core::partition::partition_for;
use iot_service::config::HumanDuration;
use iot_simulator::config::{
    CompressionKind, Format, OnUnavailable, Rate, SimulatorConfig, SinkKind,
};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use testkit::kafka::MockKafka;
use testkit::process::Program;
use testkit::wait_for;

use crate::support::{Arrived, Simulator, assert_complete, assert_ordered, fleet, read_topic};

const TOPIC: &str = "device-data";
const PARTITIONS: u32 = 10;
const SENT: &str = "kafka_producer_messages_total";

fn cluster() -> MockKafka {
    let cluster = MockKafka::start(&[]);
    cluster.create(TOPIC, PARTITIONS as i32);
    cluster
}

fn config(cluster: &MockKafka, devices: u32, messages: u64) -> SimulatorConfig {
    let mut config = fleet(SinkKind::Kafka, devices, messages);
    config.kafka.brokers = vec![cluster.brokers()];
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_device_are_in_order_in_its_partition() {
    let cluster = cluster();
    let mut config = config(&cluster, 200, 5_000);
    let truth = tempfile::NamedTempFile::new().unwrap();
    config.anomaly.rate = 0.1;
    config.anomaly.readings = 2;
    config.anomaly.truth_file = truth.path().to_str().unwrap().into();
    Simulator::start(config).await.ended().await;
    let arrived = read_topic(&cluster.brokers(), TOPIC).await;
    assert_eq!(arrived.len(), 5_000);
    let counts = assert_complete(&arrived, PARTITIONS);
    assert!(counts.len() == 200 && counts.values().all(|n| *n == 25));
    let truths = read_truths(truth.path());
    let mut labelled = 0;
    for record in &arrived {
        assert_eq!(record.headers["content-type"], "application/json");
        for label in record
            .headers
            .get("iot-label")
            .iter()
            .flat_map(|l| l.split(','))
        {
            let (sensor, kind) = label.split_once('=').unwrap();
            let is_there = record.message.readings.iter().any(|r| r.sensor == sensor);
            assert_eq!(is_there, kind != "dropout");
            let device = (record.message.device_id.to_string(), sensor.to_owned());
            let at = record.message.timestamp;
            let is_known = truths[&device]
                .iter()
                .any(|truth| truth.kind == kind && (truth.from..=truth.to).contains(&at));
            assert!(
                is_known,
                "{device:?} {kind} at {at} is not in the truth file"
            );
            labelled += 1;
        }
    }
    // Of 25,000 readings: a few less than a tenth, because no sensor starts with an anomaly.
    assert!((2_100..2_800).contains(&labelled), "{labelled}");
    let kinds: HashSet<_> = truths.values().flatten().map(|t| t.kind.as_str()).collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_formats_carry_the_same_messages() {
    let mut said = Vec::new();
    for format in [Format::Json, Format::Protobuf] {
        let cluster = cluster();
        let mut config = config(&cluster, 20, 400);
        config.format = format;
        Simulator::start(config).await.ended().await;
        let mut arrived = read_topic(&cluster.brokers(), TOPIC).await;
        assert_complete(&arrived, PARTITIONS);
        arrived.sort_by_key(|record| (record.key.clone(), record.message.seq));
        let messages = arrived.into_iter().map(|mut record| {
            record.message.timestamp = 0;
            record.message
        });
        said.push(messages.collect::<Vec<_>>());
    }
    assert_eq!(said[0].len(), 400);
    assert_eq!(said[0], said[1]);
}

#[derive(serde::Deserialize)]
struct Truth {
    device: String,
    sensor: String,
    kind: String,
    from: i64,
    to: i64,
}

/// The anomalies of a truth file by device and sensor.
fn read_truths(path: &Path) -> HashMap<(String, String), Vec<Truth>> {
    let mut truths: HashMap<_, Vec<_>> = HashMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let truth: Truth = serde_json::from_str(line).unwrap();
        let key = (truth.device.clone(), truth.sensor.clone());
        truths.entry(key).or_default().push(truth);
    }
    truths
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truth_file_on_a_full_disk_fails_the_run() {
    let cluster = cluster();
    let mut config = config(&cluster, 20, 1_000);
    config.anomaly.rate = 0.1;
    config.anomaly.truth_file = "/dev/full".into();
    let error = Simulator::start(config).await.failed().await;
    assert!(error.contains("anomaly.truth_file /dev/full"), "{error}");
    assert!(error.contains("No space left"), "{error}");
    assert_eq!(read_topic(&cluster.brokers(), TOPIC).await.len(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_can_be_read() {
    for compression in [
        CompressionKind::None,
        CompressionKind::Gzip,
        CompressionKind::Snappy,
        CompressionKind::Lz4,
        CompressionKind::Zstd,
    ] {
        let cluster = cluster();
        let mut config = config(&cluster, 20, 400);
        config.kafka.compression = compression;
        Simulator::start(config).await.ended().await;
        let arrived = read_topic(&cluster.brokers(), TOPIC).await;
        assert_complete(&arrived, PARTITIONS);
        assert_eq!(arrived.len(), 400, "{compression:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_batch_is_retried_before_the_next() {
    let cluster = cluster();
    let mut config = config(&cluster, 50, 0);
    config.fleet.rate = Rate::PerSecond(1_000.0);
    config.kafka.batch_messages = 10;
    let errors = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
    ];
    cluster.request_errors(RDKafkaApiKey::Produce, &errors);
    let simulator = Simulator::start(config).await;
    let retries = "kafka_producer_retries_total";
    simulator
        .wait_for_metric(retries, errors.len() as f64)
        .await;
    simulator.wait_for_metric(SENT, 1_000.0).await;
    simulator.stop().await;
    let arrived = read_topic(&cluster.brokers(), TOPIC).await;
    let counts = assert_ordered(&arrived, PARTITIONS);
    let (least, most) = (
        counts.values().min().unwrap(),
        counts.values().max().unwrap(),
    );
    assert!(counts.len() == 50 && most - least <= 1, "{least} {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanently_rejected_batch_does_not_stop_the_others() {
    let cluster = cluster();
    let mut config = config(&cluster, 10, 0);
    config.fleet.rate = Rate::PerSecond(500.0);
    cluster.refuse_next_batch_as_too_large();
    let simulator = Simulator::start(config).await;
    let dropped = r#"kafka_producer_dropped_messages_total{reason="refused"}"#;
    simulator.wait_for_metric(dropped, 1.0).await;
    simulator.wait_for_metric(SENT, 100.0).await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_kafka_is_reported_and_waited_for() {
    let cluster = cluster();
    cluster.down();
    let simulator = Simulator::start(config(&cluster, 10, 100)).await;
    wait_for("the reason", async || {
        let trouble = simulator.reason("kafka").await;
        trouble.is_some_and(|reason| reason.contains("connecting to Kafka"))
    })
    .await;
    cluster.up();
    simulator.ended().await;
    let arrived = read_topic(&cluster.brokers(), TOPIC).await;
    assert_eq!(arrived.len(), 100);
    assert_complete(&arrived, PARTITIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulator_stops_while_kafka_is_down() {
    let cluster = cluster();
    cluster.down();
    let simulator = Simulator::start(config(&cluster, 10, 100)).await;
    wait_for("the attempt", async || {
        simulator.reason("kafka").await.is_some()
    })
    .await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_loses_nothing_that_fits_the_buffer() {
    let cluster = cluster();
    let mut config = config(&cluster, 50, 0);
    config.fleet.rate = Rate::PerSecond(1_000.0);
    let simulator = Simulator::start(config).await;
    simulator.wait_for_metric(SENT, 200.0).await;
    cluster.down();
    wait_for("trouble", async || {
        simulator.reason("kafka").await.is_some()
    })
    .await;
    simulator
        .wait_for_metric("kafka_producer_queue_depth", 500.0)
        .await;
    cluster.up();
    simulator.wait_for_recovery("kafka").await;
    simulator.wait_for_metric(SENT, 2_000.0).await;
    simulator.stop().await;
    let arrived = read_topic(&cluster.brokers(), TOPIC).await;
    let counts = assert_ordered(&arrived, PARTITIONS);
    // Devices send in turn, so without a loss their counts differ by at most one.
    let (least, most) = (
        counts.values().min().unwrap(),
        counts.values().max().unwrap(),
    );
    assert!(most - least <= 1, "{least} {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_sends_all_buffered_messages() {
    let cluster = cluster();
    let mut config = config(&cluster, 50, 0);
    config.fleet.rate = Rate::PerSecond(1_000.0);
    // Only shutdown closes a batch.
    config.kafka.linger = std::time::Duration::from_secs(3_600).into();
    let simulator = Simulator::start(config).await;
    simulator
        .wait_for_metric("kafka_producer_queue_depth", 300.0)
        .await;
    simulator.stop().await;
    let arrived = read_topic(&cluster.brokers(), TOPIC).await;
    assert!(arrived.len() >= 300, "{}", arrived.len());
    let counts = assert_complete(&arrived, PARTITIONS);
    let (least, most) = (
        counts.values().min().unwrap(),
        counts.values().max().unwrap(),
    );
    assert!(most - least <= 1, "{least} {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_cannot_be_created_is_waited_for() {
    let cluster = MockKafka::start(&[]);
    let simulator = Simulator::start(config(&cluster, 10, 50)).await;
    wait_for("the reason", async || {
        let trouble = simulator.reason("kafka").await;
        trouble.is_some_and(|reason| reason.contains("creating topic device-data"))
    })
    .await;
    cluster.create(TOPIC, 3);
    simulator.ended().await;
    // The partitions that it has count, not the configured ones.
    let arrived = read_topic(&cluster.brokers(), TOPIC).await;
    assert_eq!(arrived.len(), 50);
    assert_complete(&arrived, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_simulators_in_one_process_make_one_fleet() {
    let cluster = cluster();
    let one = config(&cluster, 30, 300);
    let mut other = config(&cluster, 20, 200);
    other.fleet.first_device = 30;
    let (one, other) = (Simulator::start(one).await, Simulator::start(other).await);
    one.ended().await;
    other.ended().await;
    let counts = assert_complete(&read_topic(&cluster.brokers(), TOPIC).await, PARTITIONS);
    assert!(counts.len() == 50 && counts.values().all(|n| *n == 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duration_ends_the_run() {
    let cluster = cluster();
    let mut config = config(&cluster, 10, 0);
    config.fleet.rate = Rate::PerSecond(200.0);
    config.run.duration = std::time::Duration::from_millis(300).into();
    Simulator::start(config).await.ended().await;
    assert_complete(&read_topic(&cluster.brokers(), TOPIC).await, PARTITIONS);
}

/// A fleet that continues to send while partition 3 has no leader.
async fn without_leader(on_unavailable: OnUnavailable) -> (MockKafka, Simulator) {
    let cluster = cluster();
    let mut config = config(&cluster, 100, 0);
    config.fleet.rate = Rate::PerSecond(1_000.0);
    config.kafka.on_unavailable = on_unavailable;
    config.kafka.request_timeout = HumanDuration::from_secs(2);
    config.circuit.failures = 2;
    config.circuit.open_for = HumanDuration::from_millis(500);
    let simulator = Simulator::start(config).await;
    simulator.wait_for_metric(SENT, 500.0).await;
    cluster.partition_leader(TOPIC, 3, None).unwrap();
    let open = r#"kafka_producer_circuits{state="open"}"#;
    simulator.wait_for_metric(open, 1.0).await;
    (cluster, simulator)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_leader_holds_only_its_own_devices() {
    let (cluster, simulator) = without_leader(OnUnavailable::Hold).await;
    let before = simulator.metric(SENT).await;
    simulator.wait_for_metric(SENT, before + 1_000.0).await;
    assert_eq!(
        simulator.metric("kafka_producer_active_connections").await,
        9.0
    );
    let trouble = simulator.reason("kafka").await.unwrap();
    assert!(trouble.contains("partition 3 of topic"), "{trouble}");
    cluster.partition_leader(TOPIC, 3, Some(1)).unwrap();
    simulator.wait_for_recovery("kafka").await;
    assert_eq!(
        simulator
            .metric("kafka_producer_rerouted_messages_total")
            .await,
        0.0
    );
    assert_eq!(
        simulator
            .metric("kafka_producer_dropped_messages_total")
            .await,
        0.0
    );
    simulator.stop().await;
    let arrived = read_topic(&cluster.brokers(), TOPIC).await;
    let counts = assert_complete(&arrived, PARTITIONS);
    let most = counts.values().max().unwrap();
    assert!(
        counts.len() == 100 && counts.values().all(|n| most - n <= 1),
        "{counts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_for_a_partition_without_leader_can_be_rerouted() {
    let (cluster, simulator) = without_leader(OnUnavailable::Reroute).await;
    let rerouted = "kafka_producer_rerouted_messages_total";
    simulator.wait_for_metric(rerouted, 100.0).await;
    cluster.partition_leader(TOPIC, 3, Some(1)).unwrap();
    simulator.wait_for_recovery("kafka").await;
    let before = simulator.metric(SENT).await;
    simulator.wait_for_metric(SENT, before + 1_000.0).await;
    let rerouted = simulator.metric(rerouted).await;
    simulator.stop().await;
    let arrived = read_topic(&cluster.brokers(), TOPIC).await;
    let home = |record: &&Arrived| partition_for(&record.key, PARTITIONS) as i32;
    let away = arrived
        .iter()
        .filter(|record| record.partition != home(record));
    let away: Vec<_> = away.map(|record| home(&record)).collect();
    assert!(away.iter().all(|home| *home == 3), "{away:?}");
    assert_eq!(away.len() as f64, rerouted);
    let mut seqs: HashMap<_, HashSet<_>> = HashMap::new();
    for record in &arrived {
        let seq = record.message.seq.unwrap();
        seqs.entry(&record.key).or_default().insert(seq);
    }
    for (device, seqs) in seqs {
        let missing = (0..seqs.len() as u64).find(|seq| !seqs.contains(seq));
        assert_eq!(missing, None, "{device}");
    }
}

#[test]
fn messages_that_kafka_rejects_are_logged_once_in_a_while() {
    let cluster = cluster();
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large; 2_000]);
    let run = ["run", "--rate", "max", "--messages", "300", "--json"];
    let run = Program::new(env!("CARGO_BIN_EXE_iot-simulator"))
        .args(&run)
        .set("kafka.brokers", cluster.brokers())
        .set("ops.listen", "127.0.0.1:0")
        .set("http.listen", "")
        .run_sync();
    assert_eq!(run.json()["drops_refused"], 300, "{}", run.stderr);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let lines = run.stderr.matches("Kafka rejected a message").count();
    assert!((1..=2).contains(&lines), "{lines} lines");
}
