//! An owner with a mock cluster, and a store in memory.

use iot_service::config::Live;
use iot_service::health::Health;
use prometheus::Registry;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::kafka::progress::Progress;
use crate::record::Batch;
use crate::record::tests::message;

const TOPIC: &str = "device-data";

struct Bench {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    batches: mpsc::Sender<Batch>,
    progress: Arc<Progress>,
    reload: Arc<Notify>,
    stop: CancellationToken,
    owner: tokio::task::JoinHandle<()>,
}

/// Ten more records.
async fn fill(cluster: &MockCluster<'_, impl rdkafka::ClientContext>) {
    let mut client = rdkafka::ClientConfig::new();
    client.set("bootstrap.servers", cluster.bootstrap_servers());
    let producer: FutureProducer = client.create().unwrap();
    for _ in 0..10 {
        let record = FutureRecord::<(), str>::to(TOPIC).payload("x");
        let sent = producer.send(record, Duration::from_secs(30)).await;
        sent.map_err(|(error, _)| error).unwrap();
    }
}

/// An owner of a partition that has offsets 0 to 9.
async fn bench(cluster: &MockCluster<'_, impl rdkafka::ClientContext>, from: From) -> Bench {
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    fill(cluster).await;
    let mut config = ConsumerConfig::default();
    config.kafka.brokers = vec![cluster.bootstrap_servers()];
    config.kafka.from = from;
    let metrics = Arc::new(Metrics::new(&Registry::new()).unwrap());
    let (health, stop) = (Health::default(), CancellationToken::new());
    let letters = health.component("dead_letter");
    let (sender, commands) = mpsc::channel(16);
    let store = health.component("store");
    let store = Keeper::open(&config, metrics.clone(), store).unwrap();
    let store = Arc::new(store);
    let dead_letters =
        DeadLetters::new(&config.kafka, &config.dead_letter, metrics.clone(), letters).unwrap();
    let (webhook, _) = Webhook::start(
        Live::fixed(config.clone()),
        metrics.clone(),
        health.component("webhook"),
        stop.clone(),
    )
    .unwrap();
    let shared = Arc::new(Shared {
        webhook,
        store,
        hub: Hub::start(Live::fixed(config.clone()), metrics.clone(), stop.clone()).0,
        outputs: Outputs::new(
            &config.outputs,
            dead_letters.producer(),
            metrics.clone(),
            health.component("outputs"),
        ),
        dead_letters,
        metrics,
        commands: sender,
        health: health.component("state"),
        config,
    });
    let (batches, receiver) = mpsc::channel(4);
    let (progress, reload) = (Arc::new(Progress::default()), Arc::new(Notify::new()));
    let inbox = Inbox {
        spares: mpsc::channel(1).0,
        partition: (TOPIC.to_owned(), 0),
        batches: receiver,
        stop: stop.clone(),
        reload: reload.clone(),
        progress: progress.clone(),
    };
    let owner = tokio::spawn(run(shared.clone(), inbox));
    Bench {
        shared,
        commands,
        batches,
        progress,
        reload,
        stop,
        owner,
    }
}

impl Bench {
    /// What the owner asks next, in short.
    async fn asked(&mut self) -> String {
        let next = tokio::time::timeout(Duration::from_secs(60), self.commands.recv());
        match next.await.expect("a command").expect("an owner") {
            Command::Start {
                generation, offset, ..
            } => format!("start {generation} at {offset}"),
            Command::Hold { generation, .. } => format!("hold {generation}"),
            Command::Commit { offset, .. } => format!("commit {offset}"),
        }
    }

    async fn send(&self, generation: u64, offset: i64) {
        let json = r#"{"deviceId":"d","timestamp":1767225600,"temperature":20}"#;
        let mut batch = Batch::new(generation);
        batch.push(&message(offset, Some(json.as_bytes())));
        self.batches.send(batch).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_conflict_the_state_is_loaded_again() {
    let cluster = MockCluster::new(1).unwrap();
    let mut bench = bench(&cluster, From::Earliest).await;
    assert_eq!(bench.asked().await, "start 0 at 0");
    // Somebody else applies to the partition.
    let step = Step {
        partition: (TOPIC, 0),
        from: Some(0),
        to: 5,
        changes: &[],
    };
    let stored = bench.shared.store.apply(&step, &bench.stop).await;
    stored.unwrap();
    bench.send(0, 0).await;
    assert_eq!(bench.asked().await, "hold 1");
    assert_eq!(bench.asked().await, "start 1 at 5");
    bench.send(0, 1).await;
    bench.send(1, 5).await;
    assert_eq!(bench.asked().await, "commit 6");
    assert_eq!(bench.progress.position(), Some(6));
    assert_eq!(bench.shared.metrics.store_conflicts.get(), 1);
    assert_eq!(
        bench.shared.metrics.consumed.get(),
        2,
        "the old batch was dropped"
    );
    bench.stop.cancel();
    bench.owner.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_goes_back_to_what_is_stored_and_a_stop_stores() {
    let cluster = MockCluster::new(1).unwrap();
    let mut bench = bench(&cluster, From::Earliest).await;
    assert_eq!(bench.asked().await, "start 0 at 0");
    bench.send(0, 0).await;
    assert_eq!(bench.asked().await, "commit 1");
    bench.reload.notify_one();
    assert_eq!(bench.asked().await, "hold 1");
    assert_eq!(bench.asked().await, "start 1 at 1");
    bench.send(1, 1).await;
    while bench.progress.position() < Some(2) {
        tokio::task::yield_now().await;
    }
    bench.stop.cancel();
    assert_eq!(bench.asked().await, "commit 2");
    bench.owner.await.unwrap();
    let stored = bench.shared.store.load((TOPIC, 0), &bench.stop).await;
    assert_eq!(stored.unwrap().offset, Some(2));
}

#[test]
fn begins_where_the_store_ends() {
    let log = (100, 200);
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
    let mut bench = bench(&cluster, From::Latest).await;
    assert_eq!(bench.asked().await, "start 0 at 10");
    fill(&cluster).await;
    bench.reload.notify_one();
    assert_eq!(bench.asked().await, "hold 1");
    assert_eq!(
        bench.asked().await,
        "start 1 at 10",
        "what came since is not skipped"
    );
    bench.stop.cancel();
    bench.owner.await.unwrap();
}
