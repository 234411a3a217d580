//! State in Redis under faults, on a real Kafka: in the end it is what a consumer
//! has that reads the topic from its begin into memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use iot_consumer::{From, Missing};
use rdkafka::producer::FutureRecord;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::process::Process;
use crate::real::{Real, wait_metric};
use crate::redis_server::Server;
use crate::service::{DEADLINE, Endpoints, Service, message, wait_for};

const MESSAGES: i64 = 20_000;
const DEVICES: i64 = 20;
/// Between two messages, by event time (ms): six minutes and a half in all, so that
/// windows are sealed.
const STEP: i64 = 20;
const CONFLICTS: &str = "iot_store_conflicts_total";
const CONSUMED: &str = "kafka_consumer_messages_consumed_total";

/// A topic of two partitions that fills for about four seconds.
async fn fill(kafka: &Real) -> JoinHandle<()> {
    let (topic, producer) = (kafka.run.clone(), kafka.producer.clone());
    kafka.create(&topic, 2).await;
    let begun = begun(kafka);
    tokio::spawn(async move {
        for first in (0..MESSAGES).step_by(500) {
            let sent = (first..first + 500).map(|number| {
                let device = number % DEVICES;
                let value = 20.0 + (number * 7_919 % 500) as f64 / 10.0;
                let timestamp = begun + number * STEP;
                let payload = message(&format!("d{device}"), timestamp, "temperature", value);
                let payload = payload.to_string();
                let record = FutureRecord::<(), str>::to(&topic).partition((device % 2) as i32);
                let queued = producer.send_result(record.payload(&payload));
                queued.map_err(|(error, _)| error).unwrap()
            });
            for sent in join_all(sent.collect::<Vec<_>>()).await {
                sent.unwrap().map_err(|(error, _)| error).unwrap();
            }
            // The pace of a fleet, so that faults fall into the middle.
            tokio::time::sleep(Duration::from_millis(80)).await;
        }
    })
}

/// Event time of the first message: the name of a run ends with when it began.
fn begun(kafka: &Real) -> i64 {
    let name = kafka.run.rsplit('-').next().unwrap();
    name.parse::<i64>().unwrap() - MESSAGES * STEP
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
async fn wait_exact(of: &Endpoints, kafka: &Real) {
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
    let begun = Instant::now();
    loop {
        let found = state(of).await;
        if found.as_ref() == Some(&expected) {
            return;
        }
        if begun.elapsed() > DEADLINE {
            // Device by device, so that one can see what it is.
            for (device, expected) in &expected {
                let found = found.as_ref().map(|found| &found[device]);
                assert_eq!(found, Some(expected), "d{device}");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until so many messages were processed, or more.
async fn wait_past(of: &Endpoints, count: i64) {
    wait_for(&format!("more than {count} messages"), async || {
        (of.metric(CONSUMED).await? > count as f64).then_some(())
    })
    .await;
}

/// Waits until each partition is stored up to that offset.
async fn wait_stored(redis: &Server, kafka: &Real, offset: i64) {
    wait_for(&format!("offset {offset} in Redis"), async || {
        let stored = |partition: i32| {
            let key = format!("iot:{{{}:{partition}}}:state", kafka.run);
            redis.cli(&["HGET", &key, "offset"]).trim().parse::<i64>()
        };
        (stored(0).ok()? >= offset && stored(1).ok()? >= offset).then_some(())
    })
    .await;
}

/// Why a component is not ready, once it has tried.
async fn reason(of: &Endpoints, component: &str) -> Option<String> {
    let (status, report) = of.readyz().await;
    let reason = report["components"][component]["reason"].as_str()?;
    (status == 503 && reason != "starting").then(|| reason.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_flushed_redis_is_built_again() {
    let kafka = Real::new("flushed");
    let redis = Server::start(&[]).await;
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    let filling = fill(&kafka).await;
    let service = Service::start(config).await;
    wait_past(&service, MESSAGES / 3).await;
    redis.cli(&["FLUSHALL"]);
    wait_metric(&service, "iot_store_rebuilds_total", 2.0).await;
    filling.await.unwrap();
    wait_exact(&service, &kafka).await;
    service.wait_ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_stored_window_that_can_not_be_read_is_left_out() {
    let kafka = Real::new("unreadable");
    let redis = Server::start(&[]).await;
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
async fn a_redis_that_is_killed_and_lost_its_last_writes_is_waited_for() {
    let kafka = Real::new("killed");
    let mut redis = Server::start(&["--appendonly", "yes"]).await;
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    let filling = fill(&kafka).await;
    let service = Service::start(config).await;
    wait_past(&service, MESSAGES / 2).await;
    redis.kill();
    let reason = wait_for("a reason", async || reason(&service, "store").await).await;
    assert!(reason.contains("waits for it"), "{reason}");
    // As after a power cut: the end of the file is missing, in the middle of a step.
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
async fn a_fail_over_to_a_replica_is_followed() {
    let kafka = Real::new("failover");
    let mut master = Server::start(&[]).await;
    let port = master.port.to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port]).await;
    let sentinel = Server::sentinel(master.port).await;
    wait_for("the replica to be known and in step", async || {
        let known = sentinel.cli(&["SENTINEL", "MASTER", "main"]);
        let in_step = master.cli(&["INFO", "replication"]);
        (known.contains("num-slaves\n1") && in_step.contains("state=online")).then_some(())
    })
    .await;
    let mut config = kafka.config(&[&kafka.run]);
    let url = format!("redis-sentinel://127.0.0.1:{}/main", sentinel.port);
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

fn settings<'s>(kafka: &'s Real, redis: &'s str) -> Vec<(&'s str, &'s str)> {
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
async fn a_consumer_that_is_killed_goes_on_where_the_store_ends() {
    let kafka = Real::new("crash");
    let redis = Server::start(&[]).await;
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
async fn a_consumer_that_wakes_up_after_its_partitions_moved_is_refused() {
    let kafka = Real::new("stopped");
    let redis = Server::start(&[]).await;
    let url = redis.url();
    let filling = fill(&kafka).await;
    let sleeper = Process::start(&settings(&kafka, &url)).await;
    wait_past(&sleeper, MESSAGES / 4).await;
    sleeper.signal("STOP");
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = url.as_str().into();
    let other = Service::start(config).await;
    wait_metric(&other, "kafka_consumer_active_partitions", 2.0).await;
    filling.await.unwrap();
    wait_exact(&other, &kafka).await;
    wait_stored(&redis, &kafka, MESSAGES / 2).await;
    sleeper.signal("CONT");
    wait_for("a conflict", async || {
        (sleeper.metric(CONFLICTS).await? >= 1.0).then_some(())
    })
    .await;
    drop(sleeper);
    wait_metric(&other, "kafka_consumer_active_partitions", 2.0).await;
    wait_exact(&other, &kafka).await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn state_that_is_gone_is_refused_or_built_again() {
    let kafka = Real::new("missing");
    let redis = Server::start(&[]).await;
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
    assert_eq!(refusing.metric(CONSUMED).await, Some(0.0));
    refusing.stop().await;

    // Although it would begin at the end where there was never any state.
    config.store.missing = Missing::Rebuild;
    config.kafka.from = From::Latest;
    let building = Service::start(config).await;
    wait_exact(&building, &kafka).await;
    building.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn state_of_another_version_is_refused() {
    let kafka = Real::new("schema");
    let redis = Server::start(&[]).await;
    kafka.create(&kafka.run, 1).await;
    let key = format!("iot:{{{}:0}}:state", kafka.run);
    redis.cli(&["HSET", &key, "schema", "99", "offset", "0"]);
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    let service = Service::start(config).await;
    let said = wait_for("a reason", async || reason(&service, "state").await).await;
    assert!(said.contains("schema is 99"), "{said}");
    assert!(said.contains("run the version that wrote it"), "{said}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_redis_that_is_down_at_the_start_is_waited_for() {
    let kafka = Real::new("down");
    let mut redis = Server::start(&[]).await;
    redis.kill();
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    let filling = fill(&kafka).await;
    let service = Service::start(config.clone()).await;
    let said = wait_for("a reason", async || reason(&service, "store").await).await;
    assert!(said.contains("refused"), "{said}");
    // Without it a consumer can be stopped all the same.
    service.stop().await;
    let service = Service::start(config).await;
    filling.await.unwrap();
    assert_eq!(service.metric(CONSUMED).await, Some(0.0));
    redis.start_again().await;
    wait_exact(&service, &kafka).await;
    service.wait_ready().await;
    service.stop().await;
}
