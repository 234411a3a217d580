//! The log that state belongs to, in Redis.

use kafka_fetch::TopicId;

use super::*;
use crate::store::KEPT_ASIDE;

/// `HGETALL` of a partition's state as the version before stored it.
const BEFORE: &str = include_str!("schema-2.txt");

fn log(id: u8, epoch: i32) -> LogId {
    LogId {
        topic_id: TopicId::from_bytes([id; 16]),
        leader_epoch: Some(epoch),
    }
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.as_bytes().chunks(2);
    let byte = |digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// Names and values of the dump.
fn dump() -> Vec<Field> {
    let lines = BEFORE.lines().filter(|line| !line.starts_with('#'));
    let fields = lines.map(|line| line.split_once(' ').unwrap());
    fields
        .map(|(name, value)| (bytes(name), bytes(value)))
        .collect()
}

impl Bench {
    async fn step(&self, from: Option<i64>, to: i64, log: LogId) -> Result<(), ApplyError> {
        let step = Step {
            partition: &self.here(),
            from,
            to,
            log,
            changes: &Changes::default(),
        };
        self.store.apply(&step).await
    }

    /// A field of the state; empty if there is none.
    async fn field(&self, name: &str) -> String {
        self.raw(&["HGET", &self.key("state"), name]).await
    }
}

#[test]
fn the_dump_of_the_version_before_is_read() {
    let fields: HashMap<_, _> = dump().into_iter().collect();
    let stored = stored(fields).unwrap();
    assert_eq!((stored.offset, stored.log), (Some(3), LogId::default()));
    let rules = crate::config::ConsumerConfig::default().fold_rules();
    let fold = iot_fold::Fold::restore(rules, "taken-over", 0, &stored.entries).unwrap();
    let devices = fold.all().devices;
    let values = devices.iter().map(|(_, device)| {
        let (sensor, value) = &device.readings[0];
        (&*device.key.device, &**sensor, value.value)
    });
    let mut values: Vec<_> = values.collect();
    values.sort_by_key(|(device, ..)| *device);
    assert_eq!(
        values,
        [("d1", "temperature", 21.5), ("d2", "humidity", 40.0)]
    );
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn state_of_the_schema_before_is_taken_over_in_place() {
    let bench = Bench::new("before");
    let client = ::redis::Client::open(bench.url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for (name, value) in dump() {
        let mut set = cmd("HSET");
        set.arg(bench.key("state")).arg(name).arg(value);
        set.exec_async(&mut connection).await.unwrap();
    }
    let before = bench.stored().await;
    assert_eq!((before.offset, before.log), (Some(3), LogId::default()));
    // The log that is found when it is loaded.
    bench.step(Some(3), 3, log(7, 4)).await.unwrap();
    let after = bench.stored().await;
    assert_eq!((after.offset, after.log), (Some(3), log(7, 4)));
    assert_eq!(after.entries, before.entries);
    assert_eq!(bench.field("schema").await, "3");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn the_log_is_stored_with_the_offset() {
    let bench = Bench::new("log");
    bench.step(None, 10, LogId::default()).await.unwrap();
    assert_eq!(bench.stored().await.log, LogId::default());
    bench.step(Some(10), 20, log(7, 4)).await.unwrap();
    assert_eq!(bench.stored().await.log, log(7, 4));
    // As kafka-topics.sh shows it.
    assert_eq!(bench.field("topic_id").await, "BwcHBwcHBwcHBwcHBwcHBw");
    assert_eq!(bench.field("leader_epoch").await, "4");
    // Fields of later versions.
    let key = bench.key("state");
    bench
        .raw::<()>(&["HSET", &key, "rules", "1", "decoders", "x"])
        .await;
    assert_eq!(bench.stored().await.entries, []);
    bench.step(Some(20), 30, log(7, 5)).await.unwrap();
    assert_eq!(bench.field("rules").await, "1");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn state_of_another_log_is_set_aside_and_expires() {
    let bench = Bench::new("aside");
    let first = changes([live("d\0a", "x")], []);
    bench.apply(None, 50, &first).await.unwrap();
    bench.step(Some(50), 60, log(7, 4)).await.unwrap();
    let mut replaced = Replaced {
        partition: &bench.here(),
        from: 50,
        before: log(7, 4),
        to: 2,
        log: log(8, 0),
    };
    let refused = bench.store.set_aside(&replaced).await;
    assert_eq!(refused, conflict(Some(60), Some(50)));
    replaced.from = 60;
    bench.store.set_aside(&replaced).await.unwrap();
    let stored = bench.stored().await;
    assert_eq!((stored.offset, stored.log), (Some(2), log(8, 0)));
    assert_eq!(stored.entries, []);
    let aside = bench.key("aside\0BwcHBwcHBwcHBwcHBwcHBw");
    let kept: String = bench.raw(&["HGET", &aside, "d\0a"]).await;
    assert_eq!(kept, "x");
    let left: i64 = bench.raw(&["PTTL", &aside]).await;
    assert!(
        (1..=KEPT_ASIDE.as_millis() as i64).contains(&left),
        "{left} ms"
    );
    let left: i64 = bench.raw(&["PTTL", &bench.key("state")]).await;
    assert_eq!(left, -1, "no time to live");
    // After an answer that got lost.
    let again = bench.store.set_aside(&replaced).await;
    assert_eq!(again, conflict(Some(2), Some(60)));
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_step_of_another_log_is_refused_even_at_the_same_offset() {
    let bench = Bench::new("other");
    bench.step(None, 3, log(1, 4)).await.unwrap();
    let late = bench.step(Some(3), 4, log(2, 4)).await;
    assert!(matches!(late, Err(ApplyError::Conflict(_))), "{late:?}");
    let done = bench.step(None, 3, log(2, 4)).await;
    assert!(matches!(done, Err(ApplyError::Conflict(_))), "{done:?}");
    bench.step(None, 3, log(1, 4)).await.unwrap();
    bench.step(Some(3), 4, log(1, 5)).await.unwrap();
    assert_eq!(bench.field("offset").await, "4");
}
