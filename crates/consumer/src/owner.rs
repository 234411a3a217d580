//! The owner of one assigned partition: loads its state, lets it be read from
//! where the state ends, and runs its pipeline until the partition goes.

use std::sync::Arc;
use std::time::Duration;

use iot_service::Backoff;
use iot_service::health::Component;
use tokio::sync::{mpsc, oneshot};

use crate::config::{ConsumerConfig, From};
use crate::dead_letter::DeadLetters;
use crate::fold::{DeviceWindows, Fold, FoldRules};
use crate::hub::Hub;
use crate::kafka;
use crate::kafka::context::Partition;
use crate::kafka::group::{Command, Inbox};
use crate::metrics::Metrics;
use crate::model::DeviceKey;
use crate::pipeline::{Pipeline, Stale};
use crate::store::{Keeper, Missing, Step, Stored, Unloaded, Unstored};

/// How long Kafka may take to say what a log holds.
const WATERMARKS: Duration = Duration::from_secs(5);
/// How long the last step may take once the partition has to go; less than the
/// group's thread waits for it.
const FINISH: Duration = Duration::from_secs(8);
/// Questions that wait for an owner.
const QUESTIONS: usize = 64;

/// What all owners use.
pub(crate) struct Shared {
    pub(crate) config: ConsumerConfig,
    pub(crate) store: Arc<Keeper>,
    pub(crate) hub: Hub,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) health: Component,
}

/// Asks an owner for the windows of a device.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) key: DeviceKey,
    pub(crate) answer: oneshot::Sender<Option<OwnedWindows>>,
}

/// The windows of a device, and the partition whose state they are.
#[derive(Debug)]
pub(crate) struct OwnedWindows {
    pub(crate) partition: Partition,
    pub(crate) windows: DeviceWindows,
}

/// Why work ended.
enum End {
    Stopped,
    Reload,
}

/// Why there is no state to work on.
enum NoState {
    Stopped,
    /// Reported, and only a restart helps.
    Failed,
}

/// Where to begin.
#[derive(Debug, PartialEq, Eq)]
enum Begin {
    /// Here; so many records before are gone without having been read.
    At { offset: i64, lost: i64 },
    /// The stored offset is beyond the log: it is not the log it was.
    BeyondEnd,
}

fn begin(stored: Option<i64>, (low, high): (i64, i64), from: From) -> Begin {
    match (stored, from) {
        (None, From::Earliest) => Begin::At {
            offset: low,
            lost: 0,
        },
        (None, From::Latest) => Begin::At {
            offset: high,
            lost: 0,
        },
        (Some(offset), _) if offset > high => Begin::BeyondEnd,
        (Some(offset), _) if offset < low => Begin::At {
            offset: low,
            lost: low - offset,
        },
        (Some(offset), _) => Begin::At { offset, lost: 0 },
    }
}

/// Owns a partition until it is told to stop.
pub(crate) async fn run(shared: Arc<Shared>, inbox: Inbox) {
    let mut owner = Owner {
        shared,
        inbox,
        generation: 0,
        applied: None,
    };
    while let Ok(mut pipeline) = owner.load().await {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let hub = &owner.shared.hub;
        let held = hub.held(&owner.inbox.partition, questions.clone());
        hub.owned(&owner.inbox.partition, pipeline.fold().all(), questions)
            .await;
        owner.start(&pipeline).await;
        let end = owner.work(&mut pipeline, asked).await;
        owner.applied = pipeline.applied();
        drop(held);
        match end {
            End::Stopped => return,
            End::Reload => owner.hold().await,
        }
    }
    // Nothing can be read, and nobody else is to take the partition: it stays
    // paused until it is taken away.
    owner.inbox.stop.cancelled().await;
}

struct Owner {
    shared: Arc<Shared>,
    inbox: Inbox,
    /// Counts how often the state was loaded: batches fetched before are dropped.
    generation: u64,
    /// Up to where this owner has stored, or found stored.
    applied: Option<i64>,
}

impl Owner {
    /// Offset and state, both as of one step of the store.
    async fn load(&self) -> Result<Pipeline, NoState> {
        let (topic, partition) = (&self.inbox.partition.0, self.inbox.partition.1);
        let watermarks = self.watermarks().await?;
        let stored = self.stored(watermarks).await?;
        let rules = FoldRules::new(&self.shared.config);
        let fold = Fold::restore(rules, topic, partition, &stored.entries)
            .map_err(|error| self.unusable(&error.to_string()))?;
        let offset = match begin(stored.offset, watermarks, self.shared.config.kafka.from) {
            Begin::At { offset, lost: 0 } => offset,
            Begin::At { offset, lost } => {
                self.shared.metrics.lost_records.inc_by(lost.unsigned_abs());
                tracing::error!(
                    topic,
                    partition,
                    stored = stored.offset,
                    begin = offset,
                    lost,
                    "records were deleted before they were read; going on at the log's begin"
                );
                offset
            }
            Begin::BeyondEnd => return Err(self.beyond_end(stored.offset, watermarks.1)),
        };
        tracing::info!(
            topic,
            partition,
            offset,
            values = stored.entries.len(),
            "state loaded"
        );
        Ok(Pipeline::new(
            self.shared.clone(),
            self.inbox.partition.clone(),
            fold,
            stored.offset,
            offset,
            self.inbox.position.clone(),
            self.inbox.stop.clone(),
        ))
    }

    /// What the store holds. Of a partition it knows nothing of it keeps the
    /// offset to begin at from now on: else `latest` would begin at the end once
    /// more after a rebalance, and skip what came in between.
    async fn stored(&self, watermarks: (i64, i64)) -> Result<Stored, NoState> {
        let (topic, partition) = (self.inbox.partition.0.as_str(), self.inbox.partition.1);
        let stored = self.read().await?;
        if stored.offset.is_some() {
            return Ok(stored);
        }
        let mut from = self.shared.config.kafka.from;
        if let Some(before) = self.known_before().await? {
            if self.shared.config.store.missing == Missing::Refuse {
                return Err(self.missing(before));
            }
            from = From::Earliest;
            self.shared.metrics.store_rebuilds.inc();
            tracing::error!(
                topic,
                partition,
                before,
                begin = watermarks.0,
                "the state is gone from the store; building it again from the earliest record \
                 that is still kept"
            );
        }
        let Begin::At { offset, .. } = begin(None, watermarks, from) else {
            return Ok(stored);
        };
        let step = Step {
            partition: (topic, partition),
            from: None,
            to: offset,
            changes: &[],
        };
        match self.shared.store.apply(&step, &self.inbox.stop).await {
            Ok(()) => {}
            Err(Unstored::Conflict(conflict)) => {
                tracing::info!(topic, partition, %conflict, "somebody else has begun this partition");
            }
            Err(Unstored::Stopped) => return Err(NoState::Stopped),
        }
        self.read().await
    }

    async fn read(&self) -> Result<Stored, NoState> {
        let (topic, partition) = (self.inbox.partition.0.as_str(), self.inbox.partition.1);
        let load = self.shared.store.load((topic, partition), &self.inbox.stop);
        load.await.map_err(|unloaded| match unloaded {
            Unloaded::Unusable(reason) => self.unusable(&reason),
            Unloaded::Stopped => NoState::Stopped,
        })
    }

    /// Up to where the partition was applied before its state went missing; `None`
    /// if it never was. Kafka keeps what was committed for lag tools, so that a
    /// store that was emptied while no consumer ran is not taken for a new one.
    async fn known_before(&self) -> Result<Option<i64>, NoState> {
        if !self.shared.store.is_durable() {
            return Ok(None);
        }
        if self.applied.is_some() {
            return Ok(self.applied);
        }
        self.ask_kafka("what the group has committed", || {
            let (config, partition) = (
                self.shared.config.kafka.clone(),
                self.inbox.partition.clone(),
            );
            move || kafka::committed(&config, &partition, WATERMARKS)
        })
        .await
    }

    /// What the log holds.
    async fn watermarks(&self) -> Result<(i64, i64), NoState> {
        self.ask_kafka("what the log holds", || {
            let (topic, partition) = self.inbox.partition.clone();
            let letters = self.shared.dead_letters.clone();
            move || Ok(letters.watermarks(&topic, partition, WATERMARKS)?)
        })
        .await
    }

    /// Asks in another thread until Kafka answers.
    async fn ask_kafka<T, F>(&self, what: &str, question: impl Fn() -> F) -> Result<T, NoState>
    where
        T: Send + 'static,
        F: FnOnce() -> anyhow::Result<T> + Send + 'static,
    {
        let (topic, partition) = (&self.inbox.partition.0, self.inbox.partition.1);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let answer = tokio::select! {
                () = self.inbox.stop.cancelled() => return Err(NoState::Stopped),
                answer = tokio::task::spawn_blocking(question()) => answer,
            };
            match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    tracing::warn!(topic, partition, %error, what, "Kafka does not say");
                }
                Err(error) => {
                    tracing::warn!(topic, partition, %error, what, "asking Kafka failed");
                }
            }
            tokio::select! {
                () = self.inbox.stop.cancelled() => return Err(NoState::Stopped),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    fn missing(&self, before: i64) -> NoState {
        let (topic, partition) = &self.inbox.partition;
        self.shared.health.failed(format!(
            "the state of {topic}, partition {partition} is gone from the store, though it was \
             applied up to offset {before}: restore it, or set store.missing: rebuild to read \
             the topic again from the earliest record that is still kept"
        ));
        NoState::Failed
    }

    fn unusable(&self, reason: &str) -> NoState {
        let (topic, partition) = &self.inbox.partition;
        self.shared.health.failed(format!(
            "the stored state of {topic}, partition {partition} can't be read ({reason}): \
             run the version that wrote it, or an empty store to read the topic again"
        ));
        NoState::Failed
    }

    fn beyond_end(&self, stored: Option<i64>, end: i64) -> NoState {
        let (topic, partition) = &self.inbox.partition;
        let stored = stored.unwrap_or_default();
        self.shared.health.failed(format!(
            "the store has applied {topic}, partition {partition} up to offset {stored}, but the \
             log ends at {end}: the topic was created anew or is another cluster's. Give this \
             cluster its own store, or clear the state of that topic"
        ));
        NoState::Failed
    }

    /// Lets the partition be read. Without the group's thread the token stops
    /// this owner soon.
    async fn start(&self, pipeline: &Pipeline) {
        let start = Command::Start {
            partition: self.inbox.partition.clone(),
            generation: self.generation,
            offset: pipeline.next(),
        };
        let _ = self.shared.commands.send(start).await;
    }

    /// Stops reading, to load again.
    async fn hold(&mut self) {
        self.generation += 1;
        let hold = Command::Hold {
            partition: self.inbox.partition.clone(),
            generation: self.generation,
        };
        let _ = self.shared.commands.send(hold).await;
    }

    async fn work(&mut self, pipeline: &mut Pipeline, mut asked: mpsc::Receiver<Question>) -> End {
        loop {
            let done = tokio::select! {
                biased;
                () = self.inbox.stop.cancelled() => {
                    self.finish(pipeline).await;
                    return End::Stopped;
                }
                () = self.inbox.reload.notified() => return End::Reload,
                Some(question) = asked.recv() => {
                    // The one who asked may be gone.
                    let windows = pipeline.fold().windows(&question.key);
                    let partition = self.inbox.partition.clone();
                    let _ = question.answer.send(
                        windows.map(|windows| OwnedWindows { partition, windows }),
                    );
                    Ok(())
                }
                () = tokio::time::sleep_until(pipeline.apply_at) => pipeline.apply().await,
                batch = self.inbox.batches.recv() => match batch {
                    Some(batch) if batch.generation == self.generation => {
                        pipeline.process(&batch).await
                    }
                    Some(_) => Ok(()),
                    None => return End::Stopped,
                },
            };
            match done {
                Ok(()) => {}
                Err(stale @ Stale::Stopped) => {
                    self.report(&stale);
                    return End::Stopped;
                }
                Err(stale) => {
                    self.report(&stale);
                    return End::Reload;
                }
            }
        }
    }

    /// Stores what is not stored yet. What waits in the channel is left to the
    /// next owner, and so is what can't be stored in time.
    async fn finish(&self, pipeline: &mut Pipeline) {
        match tokio::time::timeout(FINISH, pipeline.apply()).await {
            Ok(Ok(())) => {}
            Ok(Err(stale)) => self.report(&stale),
            Err(_) => {
                let (topic, partition) = &self.inbox.partition;
                tracing::warn!(topic, partition, "the last state was not stored in time");
            }
        }
    }

    fn report(&self, stale: &Stale) {
        let (topic, partition) = &self.inbox.partition;
        match stale {
            Stale::Conflict(conflict) => {
                tracing::error!(topic, partition, %conflict, "state not stored; loading it again");
            }
            Stale::Letter => {
                tracing::error!(
                    topic,
                    partition,
                    "a dead letter was not written; loading again"
                );
            }
            Stale::Stopped => {
                tracing::warn!(
                    topic,
                    partition,
                    "the store is not available: the last state is left to the next owner, who \
                     reads those records again"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use iot_service::health::Health;
    use prometheus::Registry;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{FutureProducer, FutureRecord};
    use tokio::sync::Notify;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::record::Batch;
    use crate::record::tests::message;

    const TOPIC: &str = "device-data";

    struct Bench {
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        batches: mpsc::Sender<Batch>,
        position: Arc<AtomicI64>,
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
        let store = Keeper::open(&config.store, metrics.clone(), store).unwrap();
        let store = Arc::new(store);
        let shared = Arc::new(Shared {
            store,
            hub: Hub::start(&config, metrics.clone(), stop.clone()).0,
            dead_letters: DeadLetters::new(
                &config.kafka,
                &config.dead_letter,
                metrics.clone(),
                letters,
            )
            .unwrap(),
            metrics,
            commands: sender,
            health: health.component("state"),
            config,
        });
        let (batches, receiver) = mpsc::channel(4);
        let (position, reload) = (Arc::new(AtomicI64::new(-1)), Arc::new(Notify::new()));
        let inbox = Inbox {
            partition: (TOPIC.to_owned(), 0),
            batches: receiver,
            stop: stop.clone(),
            reload: reload.clone(),
            position: position.clone(),
        };
        let owner = tokio::spawn(run(shared.clone(), inbox));
        Bench {
            shared,
            commands,
            batches,
            position,
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
        assert_eq!(bench.position.load(Ordering::Relaxed), 6);
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
        while bench.position.load(Ordering::Relaxed) < 2 {
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
        let at = |offset, lost| Begin::At { offset, lost };
        for (stored, from, expected) in [
            (None, From::Earliest, at(100, 0)),
            (None, From::Latest, at(200, 0)),
            (Some(150), From::Latest, at(150, 0)),
            (Some(100), From::Earliest, at(100, 0)),
            (Some(200), From::Earliest, at(200, 0)),
            (Some(70), From::Latest, at(100, 30)),
            (Some(201), From::Earliest, Begin::BeyondEnd),
        ] {
            assert_eq!(begin(stored, log, from), expected, "{stored:?} {from:?}");
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
}
