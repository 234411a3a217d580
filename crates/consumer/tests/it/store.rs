//! State in Redis under faults, on a real Kafka: in the end it equals the state of a
//! consumer that reads the topic from its start into memory.

use std::collections::BTreeMap;
use std::time::Duration;

use iot_consumer::{From, Missing};
use rdkafka::producer::FutureRecord;
use serde_json::Value;
use testkit::kafka::send_all;
use testkit::redis::RedisServer;
use testkit::wait_for;
use tokio::task::JoinHandle;

use crate::process::Process;
use crate::real::Real;
use crate::service::{Endpoints, Service, message};

pub(crate) const MESSAGES: i64 = 20_000;
const DEVICES: i64 = 20;
/// Between two messages, by event time (ms): six minutes and a half in all, so that
/// windows are sealed.
const STEP: i64 = 20;
const CONFLICTS: &str = "iot_store_conflicts_total";
const CONSUMED: &str = "kafka_consumer_messages_consumed_total";

/// A topic of two partitions that fills for about four seconds.
pub(crate) async fn fill(kafka: &Real) -> JoinHandle<()> {
    let (topic, producer) = (kafka.run.clone(), kafka.producer.clone());
    kafka.create(&topic, 2).await;
    let begun = begun(kafka);
    tokio::spawn(async move {
        for first in (0..MESSAGES).step_by(500) {
            let payloads = (first..first + 500).map(|number| {
                let device = number % DEVICES;
                let value = 20.0 + (number * 7_919 % 500) as f64 / 10.0;
                let timestamp = begun + number * STEP;
                let message = message(&format!("d{device}"), timestamp, "temperature", value);
                (message.to_string(), (device % 2) as i32)
            });
            let payloads: Vec<_> = payloads.collect();
            let records = payloads.iter().map(|(payload, partition)| {
                let record = FutureRecord::<(), str>::to(&topic).partition(*partition);
                record.payload(payload)
            });
            send_all(&producer, records).await;
            // At the rate of a fleet, so that faults happen in the middle.
            tokio::time::sleep(Duration::from_millis(80)).await;
        }
    })
}

/// Event time of the first message.
fn begun(kafka: &Real) -> i64 {
    kafka.begun - MESSAGES * STEP
}

/// Everything that is known of every device; nothing while it is not available.
async fn state(of: &Endpoints) -> Option<BTreeMap<i64, Value>> {
    let mut devices = BTreeMap::new();
    for device in 0..DEVICES {
        let path = format!("/api/v1/devices/default/default/d{device}");
        let (status, value) = of.get(&path).await;
        (status == 200).then_some(())?;
        devices.insert(device, value);
    }
    Some(devices)
}

/// Waits until a consumer knows what one knows that reads the topic into memory.
pub(crate) async fn wait_exact(of: &Endpoints, kafka: &Real) {
    let mut config = kafka.config(&[&kafka.run]);
    config.kafka.group = format!("{}-reference", kafka.run);
    let reference = Service::start(config).await;
    reference.wait_consumed(MESSAGES as u64).await;
    // The API learns of readings a little later.
    let expected = wait_for("the reference", async || {
        let state = state(&reference).await?;
        let last = |device| begun(kafka) + (MESSAGES - DEVICES + device) * STEP;
        let is_complete = |device: &i64| state[device]["timestamp"] == last(*device);
        state.keys().all(is_complete).then_some(state)
    })
    .await;
    let windows = expected[&0]["windows"]["temperature"].as_array().unwrap();
    assert!(
        windows.len() > 5 && windows[0]["sealed"] == true,
        "{windows:?}"
    );
    reference.stop().await;
    wait_for("the state of the reference", async || {
        let found = state(of).await.ok_or_else(|| "no answer".to_owned())?;
        // The first device that differs says enough.
        let differs = expected
            .iter()
            .find(|(device, value)| found[device] != **value);
        differs.map_or(Ok(()), |(device, expected)| {
            Err(format!("d{device} is {}, not {expected}", found[device]))
        })
    })
    .await;
}

/// Waits until so many messages were processed, or more.
async fn wait_past(of: &Endpoints, count: i64) {
    wait_for(&format!("more than {count} messages"), async || {
        (of.metric(CONSUMED).await? > count as f64).then_some(())
    })
    .await;
}

/// Waits until each partition is stored up to that offset.
pub(crate) async fn wait_stored(redis: &RedisServer, kafka: &Real, offset: i64) {
    wait_for(&format!("offset {offset} in Redis"), async || {
        let stored = |partition: i32| {
            let key = format!("iot:{{{}:{partition}}}:state", kafka.run);
            redis.cli(&["HGET", &key, "offset"]).trim().parse::<i64>()
        };
        (stored(0).ok()? >= offset && stored(1).ok()? >= offset).then_some(())
    })
    .await;
}

/// Why a component is not ready, once it has tried to be.
async fn reason(of: &Endpoints, component: &str) -> Option<String> {
    let (status, report) = of.readyz().await;
    let reason = report["components"][component]["reason"].as_str()?;
    (status == 503 && reason != "starting").then(|| reason.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn state_is_rebuilt_after_redis_is_flushed() {
    let kafka = Real::new("flushed");
    let redis = RedisServer::start(&[]).await;
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    let filling = fill(&kafka).await;
    let service = Service::start(config).await;
    wait_past(&service, MESSAGES / 3).await;
    redis.cli(&["FLUSHALL"]);
    service.wait_metric("iot_store_rebuilds_total", 2.0).await;
    filling.await.unwrap();
    wait_exact(&service, &kafka).await;
    service.wait_ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn an_unreadable_stored_window_is_left_out() {
    let kafka = Real::new("unreadable");
    let redis = RedisServer::start(&[]).await;
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    let filling = fill(&kafka).await;
    let service = Service::start(config).await;
    filling.await.unwrap();
    wait_exact(&service, &kafka).await;
    let before = state(&service).await.unwrap();
    let spoil = "local keys = redis.call('KEYS', 'iot:*:w\\000default\\000default\\000d0\\00060000\\000*') \
                 redis.call('SET', keys[1], 'x') return #keys";
    redis.cli(&["EVAL", spoil, "0"]);
    let after = state(&service).await.expect("every device is answered for");
    let windows = |of: &BTreeMap<i64, Value>| {
        let windows = &of[&0]["windows"]["temperature"];
        windows.as_array().unwrap().len()
    };
    assert_eq!(windows(&after), windows(&before) - 1);
    let unreadable = "iot_store_unreadable_windows_total";
    assert_eq!(service.metric(unreadable).await, Some(1.0));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn state_is_exact_after_redis_is_killed_and_loses_its_last_writes() {
    let kafka = Real::new("killed");
    let mut redis = RedisServer::start(&["--appendonly", "yes"]).await;
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    let filling = fill(&kafka).await;
    let service = Service::start(config).await;
    wait_past(&service, MESSAGES / 2).await;
    redis.kill();
    let reason = wait_for("a reason", async || reason(&service, "store").await).await;
    assert!(reason.contains("processing is paused"), "{reason}");
    // As after a power failure: the file is truncated in the middle of a step.
    let file = redis.dir().join("appendonlydir/appendonly.aof.1.incr.aof");
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length * 2 / 3).unwrap();
    filling.await.unwrap();
    let consumed = service.metric(CONSUMED).await.unwrap() as i64;
    assert!(consumed < MESSAGES, "nothing more is read");
    redis.start_again().await;
    wait_exact(&service, &kafka).await;
    assert!(service.metric(CONFLICTS).await.unwrap() >= 1.0);
    service.wait_ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn state_is_exact_after_a_failover_to_a_replica() {
    let kafka = Real::new("failover");
    let mut master = RedisServer::start(&[]).await;
    let port = master.port().to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]).await;
    let sentinel = RedisServer::start_sentinel(master.port()).await;
    wait_for("the replica to be known and in step", async || {
        let known = sentinel.cli(&["SENTINEL", "MASTER", "main"]);
        let in_step = master.cli(&["INFO", "replication"]);
        (known.contains("num-slaves\n1") && in_step.contains("state=online")).then_some(())
    })
    .await;
    let mut config = kafka.config(&[&kafka.run]);
    let url = format!("redis-sentinel://127.0.0.1:{}/main", sentinel.port());
    config.store.url = url.as_str().into();
    let filling = fill(&kafka).await;
    let service = Service::start(config).await;
    wait_stored(&replica, &kafka, MESSAGES / 8).await;
    master.kill();
    filling.await.unwrap();
    wait_exact(&service, &kafka).await;
    wait_stored(&replica, &kafka, MESSAGES / 2).await;
    service.wait_ready().await;
    service.stop().await;
}

pub(crate) fn settings<'s>(kafka: &'s Real, redis: &'s str) -> Vec<(&'s str, &'s str)> {
    vec![
        ("kafka.brokers", &kafka.brokers),
        ("kafka.topics", &kafka.run),
        ("kafka.group", &kafka.run),
        // The shortest that Kafka allows.
        ("kafka.session_timeout", "6s"),
        ("store.url", redis),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_killed_consumer_resumes_at_the_stored_offset() {
    let kafka = Real::new("crash");
    let redis = RedisServer::start(&[]).await;
    let url = redis.url();
    let filling = fill(&kafka).await;
    for part in 1..=2 {
        let mut process = Process::start(&settings(&kafka, &url)).await;
        wait_stored(&redis, &kafka, MESSAGES / 8 * part).await;
        process.kill();
    }
    let last = Process::start(&settings(&kafka, &url)).await;
    filling.await.unwrap();
    wait_exact(&last, &kafka).await;
    let consumed = last.metric(CONSUMED).await.unwrap() as i64;
    assert!(consumed < MESSAGES, "it read all {consumed} again");
    assert_eq!(last.metric("iot_store_rebuilds_total").await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn writes_of_a_paused_consumer_are_refused_after_its_partitions_moved() {
    let kafka = Real::new("stopped");
    let redis = RedisServer::start(&[]).await;
    let url = redis.url();
    let filling = fill(&kafka).await;
    let sleeper = Process::start(&settings(&kafka, &url)).await;
    wait_past(&sleeper, MESSAGES / 4).await;
    sleeper.signal("STOP");
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = url.as_str().into();
    let other = Service::start(config).await;
    other
        .wait_metric("kafka_consumer_active_partitions", 2.0)
        .await;
    filling.await.unwrap();
    wait_exact(&other, &kafka).await;
    wait_stored(&redis, &kafka, MESSAGES / 2).await;
    sleeper.signal("CONT");
    wait_for("a conflict", async || {
        (sleeper.metric(CONFLICTS).await? >= 1.0).then_some(())
    })
    .await;
    drop(sleeper);
    other
        .wait_metric("kafka_consumer_active_partitions", 2.0)
        .await;
    wait_exact(&other, &kafka).await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn missing_state_is_refused_or_rebuilt() {
    let kafka = Real::new("missing");
    let redis = RedisServer::start(&[]).await;
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    fill(&kafka).await.await.unwrap();
    let first = Service::start(config.clone()).await;
    first.wait_consumed(MESSAGES as u64).await;
    first.stop().await;
    redis.cli(&["FLUSHALL"]);

    config.store.missing = Missing::Refuse;
    let refusing = Service::start(config.clone()).await;
    let said = wait_for("a reason", async || reason(&refusing, "state").await).await;
    assert!(said.contains("is gone from the store"), "{said}");
    assert_eq!(refusing.livez().await, 200, "a restart does not help");
    assert_eq!(refusing.metric(CONSUMED).await, Some(0.0));
    refusing.stop().await;

    // A rebuild starts at the start of the log, although a new group would start at its end.
    config.store.missing = Missing::Rebuild;
    config.kafka.from = From::Latest;
    let building = Service::start(config).await;
    wait_exact(&building, &kafka).await;
    building.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn state_with_an_unknown_schema_is_refused() {
    let kafka = Real::new("schema");
    let redis = RedisServer::start(&[]).await;
    kafka.create(&kafka.run, 1).await;
    let key = format!("iot:{{{}:0}}:state", kafka.run);
    redis.cli(&["HSET", &key, "schema", "99", "offset", "0"]);
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    let service = Service::start(config).await;
    let said = wait_for("a reason", async || reason(&service, "state").await).await;
    assert!(said.contains("schema is 99"), "{said}");
    assert!(said.contains("run the version that wrote it"), "{said}");
    assert_eq!(service.livez().await, 200, "a restart does not help");
    // Somebody repairs it, and no restart is needed.
    redis.cli(&["DEL", &key]);
    service.wait_ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_consumer_waits_for_a_redis_that_is_down_at_the_start() {
    let kafka = Real::new("down");
    let mut redis = RedisServer::start(&[]).await;
    redis.kill();
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    let filling = fill(&kafka).await;
    let service = Service::start(config.clone()).await;
    let said = wait_for("a reason", async || reason(&service, "store").await).await;
    assert!(said.contains("refused"), "{said}");
    // The consumer can be stopped nevertheless.
    service.stop().await;
    let service = Service::start(config).await;
    filling.await.unwrap();
    assert_eq!(service.metric(CONSUMED).await, Some(0.0));
    redis.start_again().await;
    wait_exact(&service, &kafka).await;
    service.wait_ready().await;
    service.stop().await;
}
