//! The store against Redis servers. Those that a test starts itself are its own:
//! it ends them by their pid.

use std::sync::Arc;
use std::time::Duration;

use ::redis::AsyncConnectionConfig;
use iot_core::partition::TopicPartition;
use iot_fold::Changes;
use testkit::redis::RedisServer;
use testkit::stack::{redis_url, unique};

use super::*;
use crate::store::tests::sealed;
use crate::store::{LogId, Replaced, Store, now};

mod copy;
mod footprint;
mod log;
mod servers;

const PART: i32 = 3;

/// The stack's Redis, under keys that no other test uses.
struct Bench {
    store: Store,
    topic: String,
    url: String,
}

fn config(url: &str) -> StoreConfig {
    StoreConfig {
        url: url.into(),
        key_prefix: format!("test-{}", std::process::id()),
        ..StoreConfig::default()
    }
}

const RETENTION: Duration = Duration::from_secs(600);

fn open(config: &StoreConfig) -> Store {
    Store::open(config, RETENTION).unwrap()
}

impl Bench {
    /// In the stack's Redis.
    fn new(name: &str) -> Self {
        Self::at(&redis_url(), name)
    }

    fn at(url: &str, name: &str) -> Self {
        Self {
            store: open(&config(url)),
            topic: unique(name),
            url: url.to_owned(),
        }
    }

    fn here(&self) -> TopicPartition {
        TopicPartition::new(self.topic.as_str(), PART)
    }

    async fn apply(&self, from: Option<i64>, to: i64, changes: &Changes) -> Result<(), ApplyError> {
        let step = Step {
            partition: &self.here(),
            from,
            to,
            log: LogId::default(),
            changes,
        };
        self.store.apply(&step).await
    }

    /// The same as for another version or somebody else: directly.
    async fn raw<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let client = ::redis::Client::open(self.url.as_str()).unwrap();
        // Generous: the defaults are half a second and one.
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(60)))
            .set_response_timeout(Some(Duration::from_secs(60)));
        let connection = client.get_multiplexed_async_connection_with_config(&patient);
        let mut connection = connection.await.unwrap();
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.unwrap()
    }

    fn key(&self, rest: &str) -> String {
        format!(
            "{}:{{{}:{PART}}}:{rest}",
            config(&self.url).key_prefix,
            self.topic
        )
    }

    async fn stored(&self) -> Stored {
        let mut stored = self.store.load(&self.here()).await.unwrap();
        stored.entries.sort();
        stored
    }
}

type Live = (String, Vec<u8>);

fn live(key: impl ToString, value: impl AsRef<[u8]>) -> Live {
    (key.to_string(), value.as_ref().to_vec())
}

/// The same under the name of a device.
fn device(number: impl ToString, value: impl AsRef<[u8]>) -> Live {
    live(format!("d\0{}", number.to_string()), value)
}

fn window(device: impl ToString, lifetime: i64) -> Sealed {
    sealed(&device.to_string(), now() + lifetime)
}

fn window_key(device: &str) -> String {
    sealed(device, 0).store_key()
}

fn changes(devices: impl Into<Vec<Live>>, windows: impl Into<Vec<Sealed>>) -> Changes {
    Changes {
        live: devices.into(),
        windows: windows.into(),
        ..Changes::default()
    }
}

fn conflict(stored: Option<i64>, expected: Option<i64>) -> Result<(), ApplyError> {
    Err(Conflict { stored, expected }.into())
}

fn trouble<T: std::fmt::Debug>(result: Result<T, ApplyError>) -> Trouble {
    match result {
        Err(ApplyError::Unavailable(unavailable)) => unavailable.trouble,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_step_is_compared_applied_and_recognised() {
    let bench = Bench::new("step");
    assert_eq!(bench.stored().await, Stored::default());
    let first = changes([live("d\0a", [0, 255]), live("s\0b", "x")], []);
    let nothing = Changes::default();
    bench.apply(None, 10, &first).await.unwrap();
    assert_eq!(
        bench.apply(None, 11, &nothing).await,
        conflict(Some(10), None)
    );
    // The answer of the first one got lost.
    bench.apply(None, 10, &first).await.unwrap();
    bench
        .apply(Some(10), 12, &changes([live("s\0b", "y")], []))
        .await
        .unwrap();
    let late = changes([live("s\0b", "z")], [window("late", 60_000)]);
    for from in [None, Some(9), Some(10), Some(13)] {
        assert_eq!(bench.apply(from, 20, &late).await, conflict(Some(12), from));
    }
    let stored = bench.stored().await;
    assert_eq!(stored.offset, Some(12));
    let expected = [("d\0a", &[0, 255][..]), ("s\0b", b"y")];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_vec()));
    assert_eq!(stored.entries, expected);
    assert_eq!(
        bench
            .raw::<i64>(&["EXISTS", &bench.key(&window_key("late"))])
            .await,
        0,
        "a refused step writes no window either"
    );
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn removed_values_are_deleted_and_empty_ones_are_none() {
    let bench = Bench::new("removed");
    let first = changes(
        [live("d\0a", "x"), live("d\0b", "x"), live("d\0c", "x")],
        [],
    );
    bench.apply(None, 1, &first).await.unwrap();
    let second = Changes {
        removed: vec!["d\0a".into(), "d\0never".into()],
        ..changes([live("d\0b", "y")], [window("a", 60_000)])
    };
    bench.apply(Some(1), 2, &second).await.unwrap();
    let left: Vec<String> = bench.raw(&["HKEYS", &bench.key("state")]).await;
    let values = left.iter().filter(|name| name.contains('\0'));
    assert_eq!(values.count(), 2, "b and c: {left:?}");
    // As a script that failed before it deleted them leaves them.
    bench
        .raw::<()>(&["HSET", &bench.key("state"), "d\0c", ""])
        .await;
    let stored = bench.stored().await;
    assert_eq!(stored.entries, [("d\0b".to_owned(), b"y".to_vec())]);
    // As many as one step removes.
    let many: Vec<_> = (0..3_400).map(|n| live(format!("d\0{n}"), "x")).collect();
    let removed = many.iter().map(|(key, _)| key.clone()).collect();
    bench.apply(Some(2), 3, &changes(many, [])).await.unwrap();
    let all = Changes {
        removed,
        ..Changes::default()
    };
    bench.apply(Some(3), 4, &all).await.unwrap();
    assert_eq!(bench.stored().await.entries.len(), 1);
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn windows_expire_and_live_state_does_not() {
    let bench = Bench::new("windows");
    let keys = ["a", "b", "over", "never"].map(window_key);
    let windows = [window("a", 60_000), window("b", 60_000), window("over", -1)];
    let first = changes([live("d\0a", "x")], windows);
    bench.apply(None, 1, &first).await.unwrap();
    let found = bench.store.windows(&bench.here(), &keys).await.unwrap();
    assert_eq!(found, ["a", "b"].map(|device| sealed(device, 0).encode()));
    let left: i64 = bench.raw(&["PTTL", &bench.key(&keys[0])]).await;
    assert!((1..=60_000).contains(&left), "{left} ms");
    // The clock of the broker or producer that stamped the record is wrong.
    let key = window_key("future");
    let future = changes([], [sealed("future", i64::MAX)]);
    bench.apply(Some(1), 2, &future).await.unwrap();
    let left: i64 = bench.raw(&["PTTL", &bench.key(&key)]).await;
    assert!(
        (60_000..=RETENTION.as_millis() as i64).contains(&left),
        "{left} ms"
    );
    let left: i64 = bench.raw(&["PTTL", &bench.key("state")]).await;
    assert_eq!(left, -1, "no time to live");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn the_largest_step_is_taken_at_once() {
    let bench = Bench::new("large");
    // As many devices as a step may have, as many bytes, one of them with as many
    // sensors as there may be, and as many windows as one may seal at once.
    let mut devices: Vec<_> = (1..1_000)
        .map(|n| live(format!("d\0{n}"), [7; 2_100]))
        .collect();
    devices.push(live("d\x000", vec![7; 1_000 * 1_000]));
    let windows: Vec<_> = (0..8 * 102).map(|n| window(n, 60_000)).collect();
    let step = changes(devices, windows);
    bench.apply(None, 1, &step).await.unwrap();
    assert_eq!(bench.stored().await.entries.len(), 1_000);
    // And no step can be above what Lua's unpack takes.
    let most: Vec<_> = (0..MOST_LIVE).map(|n| device(n, "x")).collect();
    bench.apply(Some(1), 2, &changes(most, [])).await.unwrap();
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_key_of_another_type_or_schema_is_not_written_to() {
    let bench = Bench::new("type");
    let key = bench.key("state");
    bench.raw::<()>(&["SET", &key, "mine"]).await;
    let changes = changes([live("d\0a", "x")], [window("a", 60_000)]);
    assert_eq!(
        trouble(bench.apply(None, 1, &changes).await),
        Trouble::Refused
    );
    assert_eq!(bench.raw::<String>(&["GET", &key]).await, "mine");
    assert_eq!(
        bench
            .raw::<i64>(&["EXISTS", &bench.key(&window_key("a"))])
            .await,
        0
    );

    for (fields, expected) in [
        (&["schema", "1", "offset", "5"][..], "its schema is 1"),
        (&["offset", "5"], "no schema"),
        (&["schema", "2"], "no offset"),
        (
            &["schema", "3", "offset", "5", "topic_id", "x"],
            "topic_id is invalid",
        ),
        (&["schema", "2", "offset", "x"], "no offset"),
    ] {
        bench.raw::<()>(&["DEL", &key]).await;
        bench.raw::<()>(&[&["HSET", &key], fields].concat()).await;
        let Err(LoadError::Unusable(reason)) = bench.store.load(&bench.here()).await else {
            panic!("{fields:?} was loaded")
        };
        assert!(reason.contains(expected), "{reason}");
    }
    let older = ["HSET", &key, "schema", "1", "offset", "5"];
    bench.raw::<()>(&older).await;
    let refused = bench.apply(Some(5), 6, &changes).await;
    assert_eq!(refused, conflict(Some(5), Some(5)), "another schema");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_script_that_redis_forgot_is_sent_again() {
    let server = RedisServer::start(&[]).await;
    let bench = Bench::at(&server.url(), "forgotten");
    bench.apply(None, 1, &Changes::default()).await.unwrap();
    bench.raw::<()>(&["SCRIPT", "FLUSH"]).await;
    bench.apply(Some(1), 2, &Changes::default()).await.unwrap();
    assert_eq!(bench.stored().await.offset, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn state_is_read_as_of_one_moment_while_it_is_written() {
    let bench = Arc::new(Bench::new("moment"));
    // All values say the same at each offset.
    let changes = |offset: i64| {
        let devices = (0..3_000).map(|n| device(n, offset.to_string()));
        changes(devices.collect::<Vec<_>>(), [])
    };
    bench.apply(None, 0, &changes(0)).await.unwrap();
    let writer = bench.clone();
    let writing = tokio::spawn(async move {
        for offset in 0..30 {
            let changes = changes(offset + 1);
            let step = writer.apply(Some(offset), offset + 1, &changes);
            step.await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut read = 0;
    while !writing.is_finished() || read == 0 {
        let stored = bench.store.load(&bench.here()).await.unwrap();
        read += 1;
        let offset = stored.offset.unwrap().to_string();
        assert_eq!(stored.entries.len(), 3_000);
        assert!(stored.entries.iter().all(|(_, v)| v == offset.as_bytes()));
    }
    writing.await.unwrap();
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn without_memory_a_step_is_refused_as_a_whole() {
    let server = RedisServer::start(&["--maxmemory-policy", "noeviction"]).await;
    let bench = Bench::at(&server.url(), "full");
    bench
        .apply(None, 1, &changes([device(0, "old")], []))
        .await
        .unwrap();
    let before = bench.stored().await;
    let windows: Vec<_> = (0..500).map(|n| window(n, 60_000)).collect();
    let devices: Vec<_> = (0..500).map(|n| device(n, [b'x'; 2_000])).collect();
    let step = changes(devices, windows);
    let (mut refusals, mut room) = (0, 0);
    // So little more each time that in the end the limit is passed by the script.
    let limit = loop {
        let limit = memory(&bench, "used_memory").await + room;
        let text = limit.to_string();
        bench
            .raw::<()>(&["CONFIG", "SET", "maxmemory", &text])
            .await;
        let applied = bench.apply(Some(1), 2, &step).await;
        bench.raw::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
        if applied.is_ok() {
            break limit;
        }
        assert_eq!(trouble(applied), Trouble::Full);
        assert_eq!(bench.stored().await, before, "{room} bytes of room");
        let windows: Vec<String> = bench.raw(&["KEYS", "*:w*"]).await;
        assert!(windows.is_empty(), "{room} bytes of room");
        refusals += 1;
        room += 200_000;
    };
    assert!(refusals > 0, "there was no room at first");
    let peak = memory(&bench, "used_memory_peak").await;
    assert!(peak > limit, "the script passed the limit: {peak} {limit}");
    let stored = bench.stored().await;
    assert_eq!((stored.offset, stored.entries.len()), (Some(2), 500));
    assert!(stored.entries.iter().all(|(_, value)| value.len() == 2_000));
}

/// A field of `INFO memory`, in bytes.
async fn memory(bench: &Bench, field: &str) -> u64 {
    let info: String = bench.raw(&["INFO", "memory"]).await;
    let value = info.split_once(&format!("\n{field}:")).unwrap().1;
    value.split_once('\r').unwrap().0.parse().unwrap()
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_script_that_fails_half_way_leaves_the_state_before() {
    let server = RedisServer::start(&[]).await;
    let admin = Bench::at(&server.url(), "half");
    admin
        .apply(None, 1, &changes([live("d\0a", "old")], []))
        .await
        .unwrap();
    // A user who may write windows but not the state: HSET fails after them.
    let rules = "ACL SETUSER half on >pw ~* +@all -hset";
    let rules: Vec<&str> = rules.split(' ').collect();
    admin.raw::<()>(&rules).await;
    let store = StoreConfig {
        username: "half".into(),
        password: "pw".into(),
        ..config(&server.url())
    };
    let half = Bench {
        store: open(&store),
        topic: admin.topic.clone(),
        url: admin.url.clone(),
    };
    let changes = changes([live("d\0a", "new")], [window("a", 60_000)]);
    let refused = trouble(half.apply(Some(1), 2, &changes).await);
    assert!(
        matches!(refused, Trouble::Denied | Trouble::Refused),
        "{refused:?}"
    );
    assert_eq!(
        admin
            .raw::<i64>(&["EXISTS", &admin.key(&window_key("a"))])
            .await,
        1,
        "it did fail half way"
    );
    let stored = admin.stored().await;
    assert_eq!(stored.offset, Some(1));
    assert_eq!(stored.entries, [("d\0a".to_owned(), b"old".to_vec())]);
    // The same step with the right to it makes it whole.
    admin.apply(Some(1), 2, &changes).await.unwrap();
    assert_eq!(admin.stored().await.entries[0].1, b"new");
    // Offset and values are one write, so that nothing can come between them.
    let calls: String = admin.raw(&["INFO", "commandstats"]).await;
    assert!(calls.contains("cmdstat_hset:calls=2,"), "{calls}");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_server_that_is_stopped_or_gone_is_unavailable_for_as_long() {
    let mut server = RedisServer::start(&[]).await;
    let quick = StoreConfig {
        response_timeout: iot_service::config::HumanDuration::from_millis(200),
        ..config(&server.url())
    };
    let bench = Bench {
        store: open(&quick),
        ..Bench::at(&server.url(), "stopped")
    };
    bench.apply(None, 1, &Changes::default()).await.unwrap();
    server.signal("STOP");
    // It may be taken when the server goes on: the same step again is one.
    assert_eq!(
        trouble(bench.apply(Some(1), 2, &Changes::default()).await),
        Trouble::Timeout
    );
    server.signal("CONT");
    bench.apply(Some(1), 2, &Changes::default()).await.unwrap();
    server.kill();
    for _ in 0..2 {
        let gone = trouble(bench.apply(Some(2), 3, &Changes::default()).await);
        assert_eq!(gone, Trouble::Unreachable);
    }
}

#[test]
fn only_a_policy_that_removes_live_state_is_worth_a_word() {
    for (policy, limit, expected) in [
        ("allkeys-lru", 100, Some("allkeys-lru")),
        ("allkeys-lru", 0, None),
        ("volatile-ttl", 100, None),
        ("noeviction", 100, None),
    ] {
        let info = format!(
            "# Memory\r\nmaxmemory:{limit}\r\nmaxmemory_human:x\r\nmaxmemory_policy:{policy}\r\n"
        );
        assert_eq!(evicts(&info), expected);
    }
}
