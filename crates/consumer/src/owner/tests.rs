//! An owner with a mock cluster, and a store in memory.

use iot_core::partition::TopicPartition;
use iot_fold::Changes;
use iot_live::Hub;
use iot_service::config::Live;
use iot_service::health::Health;
use kafka_fetch::{Fetcher, LogState, TopicId};
use prometheus::Registry;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::load::{Begin, begin, first};
use super::*;
use crate::config::{ConsumerConfig, From, Missing};
use crate::dead_letter::DeadLetters;
use crate::kafka;
use crate::kafka::group::WriteRight;
use crate::kafka::progress::Progress;
use crate::kafka::record_times::RecordTimes;
use crate::live;
use crate::metrics::Metrics;
use crate::outputs::Outputs;
use crate::readiness::SharedReadiness;
use crate::store::{Keeper, LogId, Step, Stored};
use crate::webhook::Webhook;

const TOPIC: &str = "device-data";

pub(crate) struct Bench {
    pub(crate) shared: Arc<Shared>,
    pub(crate) followers: Followers,
    outlets: Arc<Outlets>,
    commits: mpsc::Receiver<Commit>,
    health: Health,
}

/// An owner that runs.
pub(crate) struct Running {
    pub(crate) progress: Arc<Progress>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// Ten more records, a second apart.
pub(crate) async fn fill(cluster: &MockCluster<'_, impl rdkafka::ClientContext>, from: i64) {
    let mut client = rdkafka::ClientConfig::new();
    client.set("bootstrap.servers", cluster.bootstrap_servers());
    let producer: FutureProducer = client.create().unwrap();
    for at in from..from + 10 {
        let time = 1_767_225_600 + at;
        let json = format!(r#"{{"deviceId":"d","timestamp":{time},"temperature":20}}"#);
        let record = FutureRecord::<(), str>::to(TOPIC).payload(&json);
        let record = record.timestamp(time * 1_000);
        let sent = producer.send(record, Duration::from_secs(30)).await;
        sent.map_err(|(error, _)| error).unwrap();
    }
}

/// What owners of a partition need.
fn bench(cluster: &MockCluster<'_, impl rdkafka::ClientContext>, from: From) -> Bench {
    bench_with(cluster, from, |_| ())
}

/// The same with other settings.
fn bench_with(
    cluster: &MockCluster<'_, impl rdkafka::ClientContext>,
    from: From,
    change: impl FnOnce(&mut ConsumerConfig),
) -> Bench {
    bench_of(cluster, from, change, |_| Followers::none())
}

/// The same with followers.
pub(crate) fn bench_of(
    cluster: &MockCluster<'_, impl rdkafka::ClientContext>,
    from: From,
    change: impl FnOnce(&mut ConsumerConfig),
    followers: impl FnOnce(&ConsumerConfig) -> Followers,
) -> Bench {
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let mut config = ConsumerConfig::default();
    config.kafka.brokers = vec![cluster.bootstrap_servers()];
    config.kafka.from = from;
    // An empty fetch sleeps all of this in the mock cluster.
    let properties = &mut config.kafka.properties;
    properties.insert("fetch.wait.max.ms".into(), "10".into());
    change(&mut config);
    let followers = followers(&config);
    let metrics = Arc::new(Metrics::new(&Registry::new()).unwrap());
    let (health, stop) = (Health::default(), CancellationToken::new());
    let letters = health.component("dead_letter");
    let (sender, commits) = mpsc::channel(16);
    let store = health.component("store");
    let store = Keeper::open(&config, metrics.store.clone(), store).unwrap();
    let store = Arc::new(store);
    let counted = metrics.dead_letter.clone();
    let dead_letters =
        DeadLetters::new(&config.kafka, &config.dead_letter, counted, letters).unwrap();
    let (webhook, _) = Webhook::start(
        Live::fixed(config.clone()),
        metrics.webhook.clone(),
        health.component("webhook"),
        stop.clone(),
    )
    .unwrap();
    let budget = kafka::fetch::budget(&config.limits, metrics.kafka.buffered_bytes.clone());
    let settings =
        kafka::fetch::settings(&config.kafka, *config.push.gather, budget.clone()).unwrap();
    let outputs = Outputs::new(
        &config.outputs,
        dead_letters.producer(),
        metrics.outputs.clone(),
        health.component("outputs"),
    );
    let outlets = Arc::new(Outlets {
        webhook,
        outputs,
        dead_letters,
        record_times: RecordTimes::start(config.kafka.clone(), health.component("record_times")),
        commits: sender,
    });
    let shared = Arc::new(Shared {
        store,
        hub: {
            let settings = live::settings(&config, "tests".into());
            let counts = live::counts(&metrics);
            Hub::start(settings, counts, metrics.hub.clone(), stop).0
        },
        fetcher: Fetcher::start(settings),
        budget,
        metrics,
        state: SharedReadiness::new(health.component("state")),
        config,
    });
    Bench {
        followers,
        shared,
        outlets,
        commits,
        health,
    }
}

impl Bench {
    /// Starts an owner, and waits until it knows where to begin.
    async fn start(&self) -> Running {
        let running = self.spawn();
        running.reaches(0).await;
        running
    }

    fn inbox(&self) -> Inbox {
        let stop = CancellationToken::new();
        Inbox {
            partition: TopicPartition::new(TOPIC, 0),
            right: Arc::new(WriteRight::of_test(stop.clone())),
            stop,
            progress: Arc::default(),
            assigned_at: std::time::Instant::now(),
        }
    }

    /// Starts an owner.
    pub(crate) fn spawn(&self) -> Running {
        let inbox = self.inbox();
        let (progress, stop) = (inbox.progress.clone(), inbox.stop.clone());
        let task = tokio::spawn(run(
            self.shared.clone(),
            self.outlets.clone(),
            self.followers.clone(),
            inbox,
        ));
        Running {
            progress,
            stop,
            task,
        }
    }

    /// The offset that is committed next.
    async fn committed(&mut self) -> i64 {
        let next = tokio::time::timeout(Duration::from_secs(60), self.commits.recv());
        next.await.expect("a commit").expect("an owner").offset
    }

    pub(crate) async fn stored(&self) -> Option<i64> {
        self.state().await.offset
    }

    async fn state(&self) -> Stored {
        let stop = CancellationToken::new();
        let partition = TopicPartition::new(TOPIC, 0);
        self.shared.store.load(&partition, &stop).await.unwrap()
    }

    /// Stores an offset of a log, as if an owner had read up to there.
    async fn store(&self, offset: i64, log: LogId) {
        let step = Step {
            partition: &TopicPartition::new(TOPIC, 0),
            from: None,
            to: offset,
            log,
            changes: &Changes {
                live: vec![("d\0t\0p\0old".into(), old_device())],
                ..Changes::default()
            },
        };
        let right = WriteRight::of_test(CancellationToken::new());
        self.shared.store.apply(&step, &right).await.unwrap();
    }

    /// Whether that is reported, and `/livez` does not fail.
    fn says(&self, reason: &str) -> bool {
        let health = format!("{:?}", self.health);
        assert!(!health.contains("Failed"), "{health}");
        health.contains(reason)
    }
}

impl Running {
    pub(crate) async fn reaches(&self, offset: i64) {
        while self.progress.position() < Some(offset) {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_conflict_the_state_is_loaded_again() {
    let cluster = MockCluster::new(1).unwrap();
    let mut bench = bench(&cluster, From::Earliest);
    let owner = bench.start().await;
    // Somebody else applies to the partition.
    let step = Step {
        partition: &TopicPartition::new(TOPIC, 0),
        from: Some(0),
        to: 5,
        log: LogId::default(),
        changes: &Changes::default(),
    };
    let right = WriteRight::of_test(owner.stop.clone());
    let stored = bench.shared.store.apply(&step, &right).await;
    stored.unwrap();
    fill(&cluster, 0).await;
    while bench.committed().await < 10 {}
    assert_eq!(owner.progress.position(), Some(10));
    let metrics = &bench.shared.metrics;
    assert_eq!(metrics.store.conflicts.get(), 1);
    let partition = TopicPartition::new(TOPIC, 0);
    let values = bench.shared.store.load(&partition, &owner.stop).await;
    let count = values.unwrap().entries.len();
    assert!(count > 0, "the five that nobody else has applied");
    assert!(
        (11..=15).contains(&metrics.owner.consumed.get()),
        "five were read twice"
    );
    owner.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_stores_what_was_read() {
    let cluster = MockCluster::new(1).unwrap();
    let mut bench = bench(&cluster, From::Earliest);
    let owner = bench.start().await;
    fill(&cluster, 0).await;
    owner.reaches(10).await;
    owner.end().await;
    while bench.committed().await < 10 {}
    assert_eq!(bench.stored().await, Some(10));
}

#[test]
fn begins_where_the_store_ends() {
    let log = log_state(7);
    assert_eq!(first(&log, From::Earliest), 100);
    assert_eq!(first(&log, From::Latest), 200);
    let at = |offset, lost| Begin::At { offset, lost };
    for (stored, expected) in [
        (150, at(150, 0)),
        (100, at(100, 0)),
        (200, at(200, 0)),
        (70, at(100, 30)),
        (201, Begin::BeyondEnd),
    ] {
        assert_eq!(begin(stored, id(7), &log), expected, "{stored}");
    }
}

fn id(number: u8) -> LogId {
    LogId {
        topic_id: TopicId::from_bytes([number; 16]),
        leader_epoch: None,
    }
}

/// A log of offsets 100 to 199.
fn log_state(id: u8) -> LogState {
    LogState {
        topic_id: TopicId::from_bytes([id; 16]),
        leader_epoch: Some(3),
        start: 100,
        end: 200,
    }
}

#[test]
fn another_id_is_another_log_and_an_unknown_one_is_not() {
    let log = log_state(7);
    for stored in [50, 150, 250] {
        assert_eq!(begin(stored, id(8), &log), Begin::AnotherLog, "{stored}");
    }
    let (unknown, known) = (LogId::default(), id(8));
    let at = Begin::At {
        offset: 150,
        lost: 0,
    };
    assert_eq!(begin(150, unknown, &log), at);
    // 0 is not an id: the protocol has it for unknown.
    assert_eq!(begin(150, known, &log_state(0)), at);
}

/// The value of a device, from the fold itself.
fn old_device() -> Vec<u8> {
    let rules = ConsumerConfig::default().fold_rules();
    let mut fold = iot_fold::Fold::new(rules, TOPIC, 0);
    let json = br#"{"deviceId":"old","timestamp":1767225600,"temperature":20}"#;
    let message = iot_core::message::parse(json).unwrap();
    let event = iot_fold::Event {
        offset: 0,
        recorded: Some(1_767_225_600_000),
        tenant: "t",
        project: "p",
        message: &message,
        is_undated: false,
        unmatched: &[],
    };
    let mut folded = iot_fold::Folded::default();
    fold.apply(&event, &mut folded).unwrap();
    fold.take_changes().live.remove(0).1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_created_again_is_read_from_its_start() {
    // The new log is longer, as long, and shorter than the old one.
    for stored in [5, 10, 50] {
        let cluster = MockCluster::new(1).unwrap();
        let mut bench = bench(&cluster, From::Latest);
        fill(&cluster, 0).await;
        bench.store(stored, id(8)).await;
        let owner = bench.start().await;
        while bench.committed().await < 10 {}
        owner.end().await;
        let metrics = &bench.shared.metrics.owner;
        assert_eq!(metrics.consumed.get(), 10, "stored {stored}");
        let counted = [
            &metrics.replaced_logs,
            &metrics.rebuilds,
            &metrics.lost_records,
        ];
        assert_eq!(counted.map(prometheus::IntCounter::get), [1, 0, 0]);
        let state = bench.state().await;
        assert_eq!(state.offset, Some(10));
        let mut names = state.entries.iter().map(|(name, _)| &name[..]);
        assert!(names.any(|name| name == "d\0default\0default\0d"));
        assert_eq!(state.devices(), 1);
        let log = state.log;
        assert!(log.topic_id.is_some() && log.topic_id != id(8).topic_id);
        assert_eq!(log.leader_epoch, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_log_becomes_known_when_it_is_loaded() {
    let cluster = MockCluster::new(1).unwrap();
    let bench = bench(&cluster, From::Earliest);
    fill(&cluster, 0).await;
    bench.store(10, LogId::default()).await;
    let owner = bench.start().await;
    owner.end().await;
    let state = bench.state().await;
    assert_eq!((state.offset, state.devices()), (Some(10), 1));
    assert!(state.log.topic_id.is_some());
    assert_eq!(bench.shared.metrics.owner.replaced_logs.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_log_follows_the_setting_for_missing_state() {
    let cluster = MockCluster::new(1).unwrap();
    let mut rebuilding = bench(&cluster, From::Latest);
    fill(&cluster, 0).await;
    rebuilding.store(50, LogId::default()).await;
    let owner = rebuilding.start().await;
    while rebuilding.committed().await < 10 {}
    owner.end().await;
    let metrics = &rebuilding.shared.metrics.owner;
    let counted = [&metrics.consumed, &metrics.rebuilds, &metrics.replaced_logs];
    assert_eq!(counted.map(prometheus::IntCounter::get), [10, 1, 0]);

    let cluster = MockCluster::new(1).unwrap();
    let refusing = bench_with(&cluster, From::Latest, |config| {
        config.store.missing = Missing::Refuse;
    });
    fill(&cluster, 0).await;
    refusing.store(50, LogId::default()).await;
    let owner = refusing.spawn();
    while !refusing.says("the log, which ends at 10, no longer has those records") {
        tokio::task::yield_now().await;
    }
    assert_eq!(refusing.stored().await, Some(50), "nothing is changed");
    owner.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_of_records_that_the_log_no_longer_has_is_rebuilt() {
    // The fetcher has found that the log diverges before that offset.
    for (truncated_at, expected) in [(10, [0, 1]), (9, [10, 0])] {
        let cluster = MockCluster::new(1).unwrap();
        let bench = bench(&cluster, From::Latest);
        fill(&cluster, 0).await;
        let log = LogId {
            topic_id: None,
            leader_epoch: Some(0),
        };
        bench.store(10, log).await;
        let inbox = bench.inbox();
        let mut owner = Owner {
            partial: Partial::new(&bench.shared.hub, &inbox.partition),
            shared: bench.shared.clone(),
            outlets: bench.outlets.clone(),
            inbox,
            applied: None,
            truncated_at: Some(truncated_at),
            is_reset: false,
        };
        let Ok((_, start)) = owner.load().await else {
            panic!("not loaded")
        };
        let rebuilds = bench.shared.metrics.owner.rebuilds.get();
        assert_eq!([start.offset, rebuilds as i64], expected);
        assert_eq!(owner.is_reset, rebuilds > 0, "clients have to know");
        // What is sent with the first fetch.
        let epoch = (rebuilds == 0).then_some(0);
        assert_eq!((start.last_epoch, start.leader_epoch), (epoch, Some(0)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_older_than_the_stored_one_is_not_believed() {
    let cluster = MockCluster::new(1).unwrap();
    let bench = bench(&cluster, From::Earliest);
    fill(&cluster, 0).await;
    let newer = LogId {
        topic_id: None,
        leader_epoch: Some(9),
    };
    bench.store(50, newer).await;
    let owner = bench.spawn();
    let errors = &bench.shared.metrics.kafka.fetch_errors;
    while errors.get() < 3 {
        tokio::task::yield_now().await;
    }
    let (_, reason) = owner.progress.not_read().unwrap();
    let reason = reason.unwrap();
    assert!(reason.contains("that broker is behind"), "{reason}");
    assert_eq!(owner.progress.position(), None);
    assert_eq!(bench.stored().await, Some(50), "nothing is changed");
    owner.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_is_decided_once() {
    let cluster = MockCluster::new(1).unwrap();
    let mut bench = bench(&cluster, From::Latest);
    fill(&cluster, 0).await;
    let owner = bench.start().await;
    owner.reaches(10).await;
    owner.end().await;
    fill(&cluster, 10).await;
    let owner = bench.start().await;
    while bench.committed().await < 20 {}
    owner.end().await;
    let consumed = bench.shared.metrics.owner.consumed.get();
    assert_eq!(
        consumed, 10,
        "what came since is not skipped, nor what was before read"
    );
}
