//! Copies of state, and what tells followers that theirs is out of date.

use jiff::Timestamp;

use super::*;

impl Bench {
    /// Keys of copies.
    async fn copies(&self) -> usize {
        let keys: Vec<String> = self.raw(&["KEYS", &self.key("copy*")]).await;
        keys.len()
    }

    async fn field_of_state(&self, name: &str) -> Option<String> {
        self.raw(&["HGET", &self.key("state"), name]).await
    }
}

/// A writer that does not stop, so that no attempt to read finds the offset standing still.
fn write_without_pause(bench: &Arc<Bench>, devices: usize) -> tokio::task::JoinHandle<()> {
    let writer = bench.clone();
    tokio::spawn(async move {
        for offset in 0_i64.. {
            let values = (0..devices).map(|n| device(n, (offset + 1).to_string()));
            let changes = changes(values.collect::<Vec<_>>(), []);
            let step = writer.apply(Some(offset), offset + 1, &changes);
            step.await.unwrap();
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_partition_that_is_written_to_all_the_time_is_read_from_a_copy() {
    let bench = Arc::new(Bench::new("copy"));
    let first = (0..3_000).map(|n| device(n, "0")).collect::<Vec<_>>();
    bench.apply(None, 0, &changes(first, [])).await.unwrap();
    let writing = write_without_pause(&bench, 3_000);
    for _ in 0..20 {
        let stored = bench.store.load(&bench.here()).await.unwrap();
        let offset = stored.offset.unwrap().to_string();
        assert_eq!(stored.entries.len(), 3_000);
        assert!(stored.entries.iter().all(|(_, v)| v == offset.as_bytes()));
    }
    assert!(!writing.is_finished(), "the writer failed");
    writing.abort();
    assert_eq!(bench.copies().await, 0, "copies are deleted");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_copy_whose_reader_is_gone_expires() {
    let bench = Bench::new("left");
    let first = changes([live("d\0a", "x")], []);
    bench.apply(None, 1, &first).await.unwrap();
    let copy = bench.key("copy\0left");
    let made: i64 = bench
        .raw(&[
            "EVAL",
            include_str!("../copy.lua"),
            "2",
            &bench.key("state"),
            &copy,
            "60000",
        ])
        .await;
    assert_eq!(made, 1);
    let left: i64 = bench.raw(&["PTTL", &copy]).await;
    assert!((1..=60_000).contains(&left), "{left} ms");
    let value: String = bench.raw(&["HGET", &copy, "d\0a"]).await;
    assert_eq!(value, "x");
    let none: i64 = bench
        .raw(&[
            "EVAL",
            include_str!("../copy.lua"),
            "2",
            &bench.key("none"),
            &copy,
            "60000",
        ])
        .await;
    assert_eq!(none, 0, "there is no state");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn without_the_right_to_copy_state_is_read_as_before() {
    let server = RedisServer::start(&[]).await;
    let admin = Bench::at(&server.url(), "nocopy");
    let rules = "ACL SETUSER limited on >pw ~* +@all -copy";
    let rules: Vec<&str> = rules.split(' ').collect();
    admin.raw::<()>(&rules).await;
    let store = StoreConfig {
        username: "limited".into(),
        password: "pw".into(),
        ..config(&server.url())
    };
    let bench = Arc::new(Bench {
        store: open(&store),
        topic: admin.topic.clone(),
        url: admin.url.clone(),
    });
    let first = (0..3_000).map(|n| device(n, "0")).collect::<Vec<_>>();
    bench.apply(None, 0, &changes(first, [])).await.unwrap();
    let writing = write_without_pause(&bench, 3_000);
    let mut gave_up = false;
    for _ in 0..20 {
        match bench.store.load(&bench.here()).await {
            Ok(stored) => assert_eq!(stored.entries.len(), 3_000),
            Err(LoadError::Unavailable(error)) => {
                assert_eq!(error.trouble, Trouble::Busy, "{error}");
                gave_up = true;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(gave_up, "nothing was written meanwhile");
    writing.abort();
    let _ = writing.await;
    assert_eq!(bench.stored().await.entries.len(), 3_000);
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn the_head_has_what_belongs_to_the_offset_without_values() {
    let bench = Bench::new("head");
    assert_eq!(bench.store.head(&bench.here()).await, Ok(Stored::default()));
    let first = changes([live("d\0a", "x")], []);
    bench.apply(None, 10, &first).await.unwrap();
    let (head, stored) = (
        bench.store.head(&bench.here()).await.unwrap(),
        bench.stored().await,
    );
    assert_eq!((head.offset, head.entries.len()), (Some(10), 0));
    let expected = Stored {
        entries: Vec::new(),
        ..stored
    };
    assert_eq!(head, expected);
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn rules_are_stored_with_each_step_and_say_nothing_after_one_of_the_version_before() {
    let mut bench = Bench::new("rules");
    bench.apply(None, 10, &Changes::default()).await.unwrap();
    assert_eq!(bench.stored().await.rules, None, "a tool that has none");
    bench.store = bench.store.with_rules("abc".into());
    bench
        .apply(Some(10), 20, &Changes::default())
        .await
        .unwrap();
    assert_eq!(
        bench.field_of_state("rules").await.as_deref(),
        Some("abc@20")
    );
    assert_eq!(bench.stored().await.rules.as_deref(), Some("abc"));
    // The version before moves the offset and leaves the field alone.
    bench
        .raw::<()>(&["HSET", &bench.key("state"), "offset", "30"])
        .await;
    let stored = bench.stored().await;
    assert_eq!((stored.offset, stored.rules), (Some(30), None));
    bench
        .apply(Some(30), 40, &Changes::default())
        .await
        .unwrap();
    assert_eq!(bench.stored().await.rules.as_deref(), Some("abc"));
}

/// Waits until the clock has another time for what begins next.
async fn next_millisecond() {
    let before = Timestamp::now().as_millisecond();
    while Timestamp::now().as_millisecond() == before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn each_beginning_of_the_state_has_a_time_of_its_own_and_steps_keep_it() {
    let bench = Bench::new("begun");
    // State of the version before has none, and gets none from a step.
    let old = ["HSET", &bench.key("state"), "schema", "3", "offset", "5"];
    bench.raw::<()>(&old).await;
    bench.apply(Some(5), 6, &Changes::default()).await.unwrap();
    assert_eq!(bench.stored().await.begun, None);
    bench.raw::<()>(&["DEL", &bench.key("state")]).await;
    bench.apply(None, 6, &Changes::default()).await.unwrap();
    let first = bench.stored().await.begun;
    assert!(first.is_some());
    bench.apply(Some(6), 7, &Changes::default()).await.unwrap();
    assert_eq!(bench.stored().await.begun, first);
    next_millisecond().await;
    bench.store.reset(&bench.here(), 9).await.unwrap();
    let reset = bench.stored().await;
    assert_eq!(reset.offset, Some(9));
    assert_ne!(reset.begun, first);
    next_millisecond().await;
    let replaced = Replaced {
        partition: &bench.here(),
        from: 9,
        before: LogId::default(),
        to: 0,
        log: LogId::default(),
    };
    bench.store.set_aside(&replaced).await.unwrap();
    let again = bench.stored().await.begun;
    assert!(again.is_some() && again != reset.begun);
}
