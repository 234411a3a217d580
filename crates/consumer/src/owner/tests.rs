//! An owner with a mock cluster, and a store in memory.

use iot_service::config::Live;
use iot_service::health::Health;
use prometheus::Registry;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::kafka::progress::Progress;

const TOPIC: &str = "device-data";

struct Bench {
    shared: Arc<Shared>,
    commits: mpsc::Receiver<Commit>,
}

/// An owner that runs.
struct Running {
    progress: Arc<Progress>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// Ten more records, a second apart.
async fn fill(cluster: &MockCluster<'_, impl rdkafka::ClientContext>, from: i64) {
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
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let mut config = ConsumerConfig::default();
    config.kafka.brokers = vec![cluster.bootstrap_servers()];
    config.kafka.from = from;
    // An empty fetch sleeps all of this in the mock cluster.
    let properties = &mut config.kafka.properties;
    properties.insert("fetch.wait.max.ms".into(), "10".into());
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
    let settings = kafka::fetch::settings(&config.kafka, budget.clone()).unwrap();
    let shared = Arc::new(Shared {
        webhook,
        store,
        hub: Hub::start(Live::fixed(config.clone()), metrics.clone(), stop).0,
        outputs: Outputs::new(
            &config.outputs,
            dead_letters.producer(),
            metrics.outputs.clone(),
            health.component("outputs"),
        ),
        dead_letters,
        lookups: Lookups::new(&config.kafka).unwrap(),
        record_times: RecordTimes::start(config.kafka.clone(), health.component("record_times")),
        fetcher: Fetcher::start(settings),
        budget,
        metrics,
        commits: sender,
        health: health.component("state"),
        config,
    });
    Bench { shared, commits }
}

impl Bench {
    /// Starts an owner, and waits until it knows where to begin.
    async fn start(&self) -> Running {
        let (progress, stop) = (Arc::new(Progress::default()), CancellationToken::new());
        let inbox = Inbox {
            partition: TopicPartition::new(TOPIC, 0),
            stop: stop.clone(),
            progress: progress.clone(),
            assigned_at: std::time::Instant::now(),
        };
        let task = tokio::spawn(run(self.shared.clone(), inbox));
        let running = Running {
            progress,
            stop,
            task,
        };
        running.reaches(0).await;
        running
    }

    /// The offset that is committed next.
    async fn committed(&mut self) -> i64 {
        let next = tokio::time::timeout(Duration::from_secs(60), self.commits.recv());
        next.await.expect("a commit").expect("an owner").offset
    }

    async fn stored(&self) -> Option<i64> {
        let stop = CancellationToken::new();
        let stored = self
            .shared
            .store
            .load(&TopicPartition::new(TOPIC, 0), &stop)
            .await;
        stored.unwrap().offset
    }
}

impl Running {
    async fn reaches(&self, offset: i64) {
        while self.progress.position() < Some(offset) {
            tokio::task::yield_now().await;
        }
    }

    async fn end(self) {
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
        changes: &Changes::default(),
    };
    let stored = bench.shared.store.apply(&step, &owner.stop).await;
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
    let log = Watermarks {
        low: 100,
        high: 200,
    };
    assert_eq!(first(log, From::Earliest), 100);
    assert_eq!(first(log, From::Latest), 200);
    let at = |offset, lost| Begin::At { offset, lost };
    for (stored, expected) in [
        (150, at(150, 0)),
        (100, at(100, 0)),
        (200, at(200, 0)),
        (70, at(100, 30)),
        (201, Begin::BeyondEnd),
    ] {
        assert_eq!(begin(stored, log), expected, "{stored}");
    }
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
