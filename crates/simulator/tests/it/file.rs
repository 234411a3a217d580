//! Sinks `file` and `null`, and shards of a fleet.

use std::collections::HashMap;
use std::time::Duration;

use iot_core::message::parse;
use iot_simulator::config::{Rate, SinkKind};
use testkit::wait_for;

use crate::support::{Simulator, fleet};

/// What a fleet, or one shard of it, writes: payloads by device, without times.
async fn written(shard: &str) -> HashMap<String, Vec<String>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut config = fleet(SinkKind::File, 50, 1_000);
    config.fleet.shard = shard.parse().unwrap();
    config.file.path = file.path().to_str().unwrap().into();
    Simulator::start(config).await.ended().await;
    let mut devices: HashMap<_, Vec<_>> = HashMap::new();
    for line in std::fs::read_to_string(file.path()).unwrap().lines() {
        let message = parse(line.as_bytes()).unwrap();
        let said = format!("{:?} {:?}", message.seq, message.readings);
        let device = message.device_id.to_string();
        devices.entry(device).or_default().push(said);
    }
    devices
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_together_are_the_whole_fleet() {
    let whole = written("0/1").await;
    assert!(whole.len() == 50 && whole.values().all(|said| said.len() == 20));
    let mut together = HashMap::new();
    for shard in ["0/3", "1/3", "2/3"] {
        let part = written(shard).await;
        assert!((16..=17).contains(&part.len()), "{shard}: {}", part.len());
        for (device, said) in part {
            assert!(together.insert(device, said).is_none(), "in two shards");
        }
    }
    assert_eq!(together, whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_counted_and_the_run_continues() {
    let mut config = fleet(SinkKind::File, 50, 0);
    config.fleet.rate = Rate::PerSecond(5_000.0);
    config.file.path = "/dev/full".into();
    config.shutdown.flush = Duration::from_millis(500).into();
    let simulator = Simulator::start(config).await;
    wait_for("the reason", async || {
        let trouble = simulator.reason("file").await.unwrap_or_default();
        trouble.contains("/dev/full: No space left on device")
    })
    .await;
    let dropped = r#"file_producer_dropped_messages_total{reason="buffer_full"}"#;
    simulator.wait_for_metric(dropped, 1.0).await;
    assert_eq!(simulator.metric("file_producer_messages_total").await, 0.0);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_a_duration_ends_although_the_disk_is_full() {
    let mut config = fleet(SinkKind::File, 50, 0);
    config.fleet.rate = Rate::PerSecond(1_000.0);
    config.file.path = "/dev/full".into();
    config.run.duration = Duration::from_millis(300).into();
    config.run.fail_when = vec!["drops_shutdown>0".parse().unwrap()];
    config.shutdown.flush = Duration::from_millis(300).into();
    let error = Simulator::start(config).await.failed().await;
    assert!(error.contains("drops_shutdown>0 holds"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_to_a_full_disk_fails() {
    let mut config = fleet(SinkKind::File, 50, 0);
    config.fleet.rate = Rate::PerSecond(1_000.0);
    config.file.path = "/dev/full".into();
    config.run.duration = Duration::from_millis(300).into();
    config.shutdown.flush = Duration::from_millis(300).into();
    let error = Simulator::start(config).await.failed().await;
    assert!(error.contains("no message was confirmed"), "{error}");
}

/// As logrotate does it: rename, SIGHUP.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_file_is_followed_after_a_sighup() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("out"), directory.path().join("old"));
    let mut config = fleet(SinkKind::File, 50, 0);
    config.fleet.rate = Rate::PerSecond(1_000.0);
    config.file.path = path.to_str().unwrap().into();
    let simulator = Simulator::start(config).await;
    let written = "file_producer_messages_total";
    simulator.wait_for_metric(written, 100.0).await;
    std::fs::rename(&path, &old).unwrap();
    let hangup = format!("kill -HUP {}", std::process::id());
    let sent = std::process::Command::new("sh")
        .args(["-c", &hangup])
        .status();
    assert!(sent.unwrap().success());
    wait_for("a new file", async || {
        std::fs::metadata(&path).is_ok_and(|file| file.len() > 0)
    })
    .await;
    simulator.stop().await;
    let mut seqs: HashMap<_, Vec<_>> = HashMap::new();
    for file in [old, path] {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let message = parse(line.as_bytes()).unwrap();
            let device = message.device_id.to_string();
            seqs.entry(device).or_default().push(message.seq.unwrap());
        }
    }
    assert!(
        seqs.values()
            .all(|seqs| seqs.iter().copied().eq(0..seqs.len() as u64))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_opened_fails_the_run() {
    let mut config = fleet(SinkKind::File, 1, 1);
    config.file.path = "/missing/out.ndjson".into();
    let error = Simulator::start(config).await.failed().await;
    assert!(error.contains("file.path /missing/out.ndjson"), "{error}");
}
