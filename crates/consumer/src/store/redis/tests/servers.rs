//! Logins, TLS, and more than one server.

use testkit::port::free_port;
use testkit::stack::variable;
use testkit::wait_for;

use super::*;

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_login_is_used_and_its_absence_said() {
    let server = RedisServer::start(&["--requirepass", "hunter2"]).await;
    let url = format!("redis://:hunter2@127.0.0.1:{}/5", server.port());
    let bench = Bench::at(&url, "login");
    bench
        .apply(None, 1, &changes([live("d\0a", "x")], []))
        .await
        .unwrap();
    let keys: Vec<String> = bench.raw(&["KEYS", "*state"]).await;
    assert_eq!(keys, [bench.key("state")], "in the database of the URL");
    let without = Bench::at(&server.url(), "login");
    assert_eq!(
        trouble(without.apply(None, 1, &Changes::default()).await),
        Trouble::Denied
    );
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn the_documented_rights_of_a_user_are_enough() {
    let docs = include_str!("../../../../../../docs/state.md");
    let mut rules = docs.lines().filter(|line| line.starts_with("ACL SETUSER"));
    let (rule, viewers) = (rules.next(), rules.next());
    let server = RedisServer::start(&[]).await;
    let rule: Vec<&str> = rule.expect("a rule").split(' ').collect();
    assert_eq!(server.cli(&rule).trim(), "OK");
    let viewers: Vec<&str> = viewers.expect("another rule").split(' ').collect();
    assert_eq!(server.cli(&viewers).trim(), "OK");
    let limited = StoreConfig {
        username: "iot".into(),
        password: "PASSWORD".into(),
        key_prefix: "iot".into(),
        ..config(&server.url())
    };
    let bench = Bench {
        store: open(&limited),
        ..Bench::at(&server.url(), "rights")
    };
    bench.store.ping().await.unwrap();
    let changes = changes([live("d\0a", "x")], [window("a", 60_000)]);
    bench.apply(None, 1, &changes).await.unwrap();
    assert_eq!(bench.stored().await.offset, Some(1));
    let keys = [window_key("a")];
    let windows = bench.store.windows(&bench.here(), &keys).await.unwrap();
    assert_eq!(windows.len(), 1);
    let viewer = StoreConfig {
        username: "iot-serve".into(),
        ..limited.clone()
    };
    for user in [&limited, &viewer] {
        let store = open(user);
        store.ping().await.unwrap();
        let Store::Redis(redis) = &store else {
            panic!("{store:?}")
        };
        let copied = redis.read_copy(&bench.here()).await.unwrap();
        assert!(copied.is_some(), "{}", user.username);
        assert_eq!(store.head(&bench.here()).await.unwrap().offset, Some(1));
        assert_eq!(store.load(&bench.here()).await.unwrap().offset, Some(1));
        let windows = store.windows(&bench.here(), &keys).await.unwrap();
        assert_eq!(windows.len(), 1);
    }
    assert_eq!(
        server.cli(&["KEYS", "*copy*"]).trim(),
        "",
        "they are deleted"
    );
    let replaced = Replaced {
        partition: &bench.here(),
        from: 1,
        before: LogId::default(),
        to: 0,
        log: LogId::default(),
    };
    bench.store.set_aside(&replaced).await.unwrap();
    assert_eq!(bench.stored().await.offset, Some(0));
    bench.store.reset(&bench.here(), 5).await.unwrap();
    assert_eq!(bench.stored().await.offset, Some(5));
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn tls_with_a_certificate_authority_of_its_own() {
    let (cert, key) = (variable("KAFKA_CERT_FILE"), variable("KAFKA_KEY_FILE"));
    let port = free_port().to_string();
    let server = RedisServer::start(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &cert,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let trusting = StoreConfig {
        ca_file: cert,
        ..config(&format!("rediss://localhost:{port}"))
    };
    open(&trusting).ping().await.unwrap();
    let strict = config(&format!("rediss://localhost:{port}"));
    open(&strict).ping().await.unwrap_err();
    drop(server);
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_cluster_keeps_a_partition_on_one_node() {
    let nodes = [
        RedisServer::start(&["--cluster-enabled", "yes"]).await,
        RedisServer::start(&["--cluster-enabled", "yes"]).await,
    ];
    // Each has half of the slots, and knows the other.
    for (node, slots) in nodes.iter().zip([["0", "8191"], ["8192", "16383"]]) {
        node.cli(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]);
    }
    nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &nodes[1].port().to_string()]);
    for node in &nodes {
        wait_for("the cluster", async || {
            let info = node.cli(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
        })
        .await;
    }
    let url = format!("redis-cluster://127.0.0.1:{}", nodes[0].port());
    let bench = Bench::at(&url, "cluster");
    for partition in 0..20 {
        let partition = &TopicPartition::new(bench.topic.as_str(), partition);
        let changes = changes([live("d\0a", "x")], [window("a", 60_000)]);
        let step = Step {
            partition,
            from: None,
            to: 7,
            log: LogId::default(),
            changes: &changes,
        };
        bench.store.apply(&step).await.unwrap();
        bench.store.apply(&step).await.unwrap();
        assert_eq!(bench.store.load(partition).await.unwrap().offset, Some(7));
        let keys = ["a", "b"].map(window_key);
        let windows = bench.store.windows(partition, &keys).await.unwrap();
        assert_eq!(windows, [sealed("a", 0).encode()]);
        let replaced = Replaced {
            partition,
            from: 7,
            before: LogId::default(),
            to: 0,
            log: LogId::default(),
        };
        bench.store.set_aside(&replaced).await.unwrap();
        assert_eq!(bench.store.load(partition).await.unwrap().offset, Some(0));
    }
    for node in &nodes {
        assert_ne!(node.cli(&["DBSIZE"]).trim(), "0", "both have partitions");
    }
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn sentinels_name_the_master_before_and_after_a_fail_over() {
    let mut master = RedisServer::start(&[]).await;
    let master_port = master.port().to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &master_port]).await;
    let sentinel = RedisServer::start_sentinel(master.port()).await;
    wait_for("the replica to be known and in step", async || {
        let known = sentinel.cli(&["SENTINEL", "MASTER", "main"]);
        known.contains("num-slaves\n1")
            && master
                .cli(&["INFO", "replication"])
                .contains("state=online")
    })
    .await;
    let url = format!("redis-sentinel://127.0.0.1:{}/main", sentinel.port());
    let bench = Bench::at(&url, "sentinel");
    bench
        .apply(None, 1, &changes([live("d\0a", "x")], []))
        .await
        .unwrap();
    wait_for("the replica to have it", async || {
        replica.cli(&["DBSIZE"]).trim() == "1"
    })
    .await;
    master.kill();
    wait_for("the fail-over", async || {
        let applied = bench
            .apply(Some(1), 2, &changes([live("d\0a", "y")], []))
            .await;
        if let Err(error) = &applied {
            assert!(matches!(error, ApplyError::Unavailable(_)), "{error:?}");
        }
        applied
    })
    .await;
    assert_eq!(bench.stored().await.offset, Some(2));
    assert!(replica.cli(&["ROLE"]).starts_with("master"));
}
