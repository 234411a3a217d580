//! The member of the consumer group: one thread that polls, hands batches to
//! the owners of partitions, and does to the consumer what they ask for. It
//! never waits for an owner: a partition whose owner is behind is paused.

mod slots;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use iot_service::health::Component;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::consumer_config;
use super::context::{GroupContext, Partition, Rebalance};
use super::ends::Ends;
use super::statistics::{Membership, Statistics};
use crate::config::KafkaConfig;
use crate::metrics::{Metrics, Queue, RebalanceKind};
pub(crate) use slots::{BATCH, Inbox};
use slots::{Slot, Slots};

/// Longest wait for messages: how late a command may be seen.
const IDLE: Duration = Duration::from_millis(100);
/// The wait while an owner is starting, behind, or leaving.
const BUSY: Duration = Duration::from_millis(5);
/// With so many records on their way to owners no more are taken for a moment: unlike
/// a pause, that throws nothing away of what is fetched ahead.
const ENOUGH: usize = 20_000;
/// The longest such moment. After it owners that don't move are paused one by one.
const MOMENT: Duration = Duration::from_millis(50);
/// Messages taken before commands and rebalances are looked at.
const BURST: usize = 2_000;
/// How often offsets are committed to Kafka.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How long owners may take to put their state away. Well below the default
/// time that a group waits for a member in a rebalance (5 minutes).
const RELEASE: Duration = Duration::from_secs(10);
/// An assigned partition that is not read by then is worth a word.
const STUCK: Duration = Duration::from_secs(10);
/// The same error is logged this often at most.
const REPEAT_LOG: Duration = Duration::from_secs(30);

/// What owners ask of the consumer.
#[derive(Debug)]
pub(crate) enum Command {
    /// State is loaded: fetch from `offset`.
    Start {
        partition: Partition,
        generation: u64,
        offset: i64,
    },
    /// State is about to be loaded again: fetch nothing, and give later batches
    /// the number `generation`.
    Hold {
        partition: Partition,
        generation: u64,
    },
    /// State up to `offset` is stored: tell Kafka, for lag tools.
    Commit { partition: Partition, offset: i64 },
}

/// Starts the owner of a partition as a task.
pub(crate) type StartOwner = Box<dyn Fn(Inbox) -> tokio::task::JoinHandle<()> + Send>;

/// What the thread needs.
pub(crate) struct Member {
    pub(crate) config: KafkaConfig,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) start_owner: StartOwner,
    pub(crate) ends: Ends,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Component,
    pub(crate) stop: CancellationToken,
}

/// Is a member until asked to stop.
///
/// # Errors
/// The consumer can't be created, or ends for good.
pub(crate) fn run(member: Member) -> anyhow::Result<()> {
    let context = GroupContext::new(member.metrics.clone());
    let consumer: BaseConsumer<GroupContext> = consumer_config(&member.config)?
        .create_with_context(context)
        .context("creating the consumer")?;
    let topics: Vec<&str> = member.config.topics.iter().map(String::as_str).collect();
    consumer
        .subscribe(&topics)
        .with_context(|| format!("subscribing to {topics:?} (kafka.topics)"))?;
    let mut group = Group {
        consumer,
        member,
        slots: Slots::default(),
        starting: Vec::new(),
        leaving: Vec::new(),
        commits: HashMap::new(),
        committed_at: Instant::now(),
        joined: false,
        unreachable: 0,
        logged: None,
    };
    let result = group.poll_until_stopped();
    group.leave();
    result
}

struct Group {
    consumer: BaseConsumer<GroupContext>,
    member: Member,
    slots: Slots,
    /// Starts that could not be carried out yet.
    starting: Vec<Start>,
    leaving: Vec<Leaving>,
    commits: HashMap<Partition, i64>,
    committed_at: Instant,
    joined: bool,
    /// Reports in a row without a connected broker.
    unreachable: u32,
    logged: Option<(String, Instant)>,
}

/// Partitions whose owners put their state away before they are given back.
struct Leaving {
    partitions: Vec<Partition>,
    /// Those among them that are fetched.
    fetched: Vec<Partition>,
    owners: Vec<tokio::task::JoinHandle<()>>,
    since: Instant,
    deadline: Instant,
}

/// A partition to be fetched from an offset on.
struct Start {
    partition: Partition,
    generation: u64,
    offset: i64,
    /// Why it failed the last time.
    error: Option<KafkaError>,
}

impl Group {
    fn poll_until_stopped(&mut self) -> anyhow::Result<()> {
        while !self.member.stop.is_cancelled() {
            self.take_messages()?;
            self.serve();
        }
        Ok(())
    }

    /// Everything besides messages.
    fn serve(&mut self) {
        for rebalance in self.consumer.context().take_rebalances() {
            self.rebalance(rebalance);
        }
        self.obey();
        self.deliver();
        self.release(false);
        self.commit();
        if let Some(statistics) = self.consumer.context().take_statistics() {
            self.report(&statistics);
        }
    }

    /// Gives owners a moment when they all together are behind. Those that are paused
    /// may be for long: the others don't wait for them.
    fn wait_for_owners(&mut self) {
        let begun = Instant::now();
        while self.slots.moving() >= ENOUGH && begun.elapsed() < MOMENT {
            std::thread::sleep(Duration::from_millis(1));
            self.deliver();
        }
    }

    fn take_messages(&mut self) -> anyhow::Result<()> {
        self.wait_for_owners();
        let busy = !self.starting.is_empty() || !self.leaving.is_empty() || self.slots.any_paused();
        let mut wait = if busy { BUSY } else { IDLE };
        let mut failed = None;
        for _ in 0..BURST {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => accept(&mut self.slots, &message),
                Some(Err(error)) => {
                    failed = Some(error);
                    break;
                }
            }
            wait = Duration::ZERO;
        }
        failed.map_or(Ok(()), |error| self.failed(error))
    }

    fn failed(&mut self, error: KafkaError) -> anyhow::Result<()> {
        match error {
            KafkaError::MessageConsumptionFatal(_) => {
                self.member.health.failed(error.to_string());
                return Err(error).context("the consumer can't go on");
            }
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
                // It isn't said which partition, so each looks at its own log.
                tracing::error!("an offset to be read is no longer in the log");
                self.slots.reload_all();
            }
            // Readiness says so, with the reason.
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve,
            ) => {}
            error => self.log(error.to_string()),
        }
        Ok(())
    }

    fn log(&mut self, error: String) {
        let is_new = self
            .logged
            .as_ref()
            .is_none_or(|(last, at)| *last != error || at.elapsed() >= REPEAT_LOG);
        if is_new {
            tracing::warn!(error, "Kafka reports an error; the consumer goes on");
            self.logged = Some((error, Instant::now()));
        }
    }

    fn rebalance(&mut self, rebalance: Rebalance) {
        match rebalance {
            Rebalance::Assign(partitions) => self.assign(partitions),
            Rebalance::Revoke { partitions, lost } => {
                let kind = if lost {
                    RebalanceKind::Lost
                } else {
                    RebalanceKind::Revoked
                };
                self.member.metrics.rebalanced(kind);
                tracing::info!(?partitions, lost, "partitions revoked");
                self.joined &= !lost;
                self.revoke(partitions);
            }
        }
        self.member
            .metrics
            .active_partitions
            .set(self.slots.len() as i64);
    }

    /// Takes partitions on. The rebalance is answered with no partition at all:
    /// each is fetched once its owner says where to begin. Any place named
    /// before, such as the end, would have to be asked of Kafka, and the answer
    /// may come after the owner's word and override it.
    fn assign(&mut self, partitions: Vec<Partition>) {
        self.member.metrics.rebalanced(RebalanceKind::Assigned);
        tracing::info!(?partitions, "partitions assigned");
        self.joined = true;
        let nothing = TopicPartitionList::new();
        if let Err(error) = self.consumer.incremental_assign(&nothing) {
            self.log(format!("taking on partitions: {error}"));
        }
        for partition in partitions {
            self.slots.add(partition, &self.member.start_owner);
        }
    }

    fn revoke(&mut self, partitions: Vec<Partition>) {
        let (mut fetched, mut owners) = (Vec::new(), Vec::new());
        for partition in &partitions {
            self.member.metrics.forget_lag(&partition.0, partition.1);
            let Some(slot) = self.slots.remove(partition) else {
                continue;
            };
            if slot.is_fetched() {
                fetched.push(partition.clone());
            }
            owners.push(slot.stop());
        }
        let since = Instant::now();
        self.leaving.push(Leaving {
            partitions,
            fetched,
            owners,
            since,
            deadline: since + RELEASE,
        });
    }

    /// Gives back the partitions whose owners are done; all of them, done or
    /// not, if `now`.
    fn release(&mut self, now: bool) {
        for leaving in std::mem::take(&mut self.leaving) {
            let done = leaving
                .owners
                .iter()
                .all(tokio::task::JoinHandle::is_finished);
            if !done && !now && Instant::now() < leaving.deadline {
                self.leaving.push(leaving);
                continue;
            }
            if !done {
                tracing::warn!(partitions = ?leaving.partitions, "owners did not finish in time");
                leaving
                    .owners
                    .iter()
                    .for_each(tokio::task::JoinHandle::abort);
            }
            // What owners said last comes before the partitions go.
            self.obey();
            self.commit_now();
            self.give_back(&leaving.fetched);
            let took = leaving.since.elapsed();
            self.member
                .metrics
                .rebalance_took(RebalanceKind::Revoked, took);
        }
    }

    /// Answers a rebalance that takes partitions away, which it needs even if
    /// none of them was fetched.
    fn give_back(&mut self, fetched: &[Partition]) {
        if let Err(error) = self.consumer.incremental_unassign(&list(fetched)) {
            self.log(format!("giving partitions back: {error}"));
            let nothing = TopicPartitionList::new();
            if let Err(error) = self.consumer.incremental_unassign(&nothing) {
                self.log(format!("answering a rebalance: {error}"));
            }
        }
    }

    fn obey(&mut self) {
        for start in std::mem::take(&mut self.starting) {
            self.start(start);
        }
        while let Ok(command) = self.member.commands.try_recv() {
            match command {
                Command::Start {
                    partition,
                    generation,
                    offset,
                } => self.start(Start {
                    partition,
                    generation,
                    offset,
                    error: None,
                }),
                Command::Hold {
                    partition,
                    generation,
                } => {
                    if let Some(slot) = self.slots.get(&partition.0, partition.1) {
                        slot.hold(generation);
                        if slot.is_fetched() {
                            self.pause(&partition);
                        }
                    }
                }
                Command::Commit { partition, offset } => {
                    self.commits.insert(partition, offset);
                }
            }
        }
    }

    fn start(&mut self, mut start: Start) {
        let Some(slot) = self.slots.get(&start.partition.0, start.partition.1) else {
            return;
        };
        if slot.generation() != start.generation {
            return;
        }
        // Taking one out for a moment would pass as the answer to the rebalance
        // that waits for owners.
        if slot.is_fetched() && !self.leaving.is_empty() {
            self.starting.push(start);
            return;
        }
        let waited = slot.waited();
        match fetch(&self.consumer, slot, &start) {
            Ok(()) => {
                let metrics = &self.member.metrics;
                metrics.rebalance_took(RebalanceKind::Assigned, waited);
            }
            Err(error) => {
                tracing::debug!(partition = ?start.partition, %error, "can't be read yet");
                start.error = Some(error);
                self.starting.push(start);
            }
        }
    }

    fn pause(&mut self, partition: &Partition) {
        if let Err(error) = self.consumer.pause(&list(std::slice::from_ref(partition))) {
            self.log(format!("pausing {partition:?}: {error}"));
        }
    }

    fn resume(&mut self, partition: &Partition) {
        if let Err(error) = self.consumer.resume(&list(std::slice::from_ref(partition))) {
            self.log(format!("resuming {partition:?}: {error}"));
        }
    }

    fn deliver(&mut self) {
        let changes = self.slots.deliver();
        for partition in &changes.pause {
            self.pause(partition);
        }
        for partition in &changes.resume {
            self.resume(partition);
        }
        self.member
            .metrics
            .paused_partitions
            .set(self.slots.paused() as i64);
    }

    fn commit(&mut self) {
        if self.committed_at.elapsed() >= COMMIT_EVERY {
            self.commit_now();
        }
    }

    fn commit_now(&mut self) {
        self.committed_at = Instant::now();
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in self.commits.drain() {
            if let Err(error) = list.add_partition_offset(&topic, partition, Offset::Offset(offset))
            {
                tracing::warn!(topic, partition, offset, %error, "can't commit");
            }
        }
        if list.count() == 0 {
            return;
        }
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            self.member.metrics.commit_errors.inc();
            tracing::debug!(%error, "committing offsets for lag tools failed");
        }
    }

    fn report(&mut self, statistics: &Statistics) {
        let membership = statistics.membership();
        let unreachable = membership == Membership::NoBroker;
        self.unreachable = if unreachable { self.unreachable + 1 } else { 0 };
        let health = &self.member.health;
        match membership {
            // A connection that is just being replaced is no news.
            Membership::NoBroker if self.unreachable < 2 => {}
            Membership::NoBroker => {
                let trouble = self.consumer.context().trouble();
                let trouble = trouble.unwrap_or_else(|| "still connecting".into());
                health.not_ready(format!("brokers not reachable: {trouble}"));
            }
            // A rebalance does not interrupt what stays with this member.
            _ if self.joined => self.reached(),
            Membership::NoTopic => {
                health.not_ready("none of the topics of kafka.topics exists yet");
            }
            Membership::Joining(state) => health.not_ready(format!("joining the group: {state}")),
            Membership::Steady => self.reached(),
        }
        let metrics = &self.member.metrics;
        let now = jiff::Timestamp::now().as_millisecond();
        let ends = &self.member.ends;
        ends.ask(self.slots.not_fetched());
        let ends = ends.known();
        let lags = self.slots.lags(statistics, &ends, now);
        let lag = lags.map(|(topic, partition, lag)| {
            metrics.lag(topic, partition, lag);
            lag.messages
        });
        let total = lag.sum();
        self.member.metrics.lag_total.set(total);
        self.member
            .metrics
            .depth(Queue::Partitions, self.slots.waiting());
        self.slots.check_owners(health);
    }

    fn reached(&self) {
        self.consumer.context().forget_trouble();
        match self.slots.stuck(STUCK) {
            None => self.member.health.ready(),
            Some((topic, partition)) => {
                let is_it = |start: &&Start| start.partition == (topic.to_owned(), partition);
                let start = self.starting.iter().find(is_it);
                let reason = start.and_then(|start| start.error.as_ref()).map_or_else(
                    || "its state or the ends of its log are not known yet".to_owned(),
                    ToString::to_string,
                );
                self.member.health.not_ready(format!(
                    "{topic}, partition {partition} is not read: {reason}"
                ));
            }
        }
    }

    /// Lets owners put their state away, tells Kafka, and leaves the group.
    fn leave(mut self) {
        let partitions = self.slots.partitions();
        let (mut fetched, mut owners) = (Vec::new(), Vec::new());
        for partition in partitions {
            let Some(slot) = self.slots.remove(&partition) else {
                continue;
            };
            if slot.is_fetched() {
                fetched.push(partition);
            }
            owners.push(slot.stop());
        }
        if let Err(error) = self.consumer.pause(&list(&fetched)) {
            tracing::debug!(%error, "pausing before leaving failed");
        }
        let deadline = Instant::now() + RELEASE;
        let done = |owner: &tokio::task::JoinHandle<()>| owner.is_finished();
        while !owners.iter().all(done) && Instant::now() < deadline {
            // Polling keeps the membership alive; what is fetched is not for us.
            drop(self.consumer.poll(BUSY));
            self.obey();
        }
        if !owners.iter().all(done) {
            tracing::warn!("owners did not finish in time");
            owners.iter().for_each(tokio::task::JoinHandle::abort);
        }
        self.obey();
        self.commit_now();
        self.release(true);
        for rebalance in self.consumer.context().take_rebalances() {
            self.acknowledge(&rebalance);
        }
        self.consumer.context().close();
        // Dropping the consumer leaves the group.
    }

    /// Lets a rebalance pass that nobody is there for any more. What is still
    /// fetched goes when the consumer closes.
    fn acknowledge(&self, rebalance: &Rebalance) {
        let nothing = TopicPartitionList::new();
        let done = match rebalance {
            Rebalance::Assign(_) => self.consumer.incremental_assign(&nothing),
            Rebalance::Revoke { .. } => self.consumer.incremental_unassign(&nothing),
        };
        if let Err(error) = done {
            tracing::debug!(%error, "a rebalance while leaving failed");
        }
    }
}

/// Fetches a partition from an offset on. One that is fetched already is taken
/// out and in again, which drops what was fetched before, and works in whatever
/// state an error has left it.
fn fetch(
    consumer: &BaseConsumer<GroupContext>,
    slot: &mut Slot,
    start: &Start,
) -> Result<(), KafkaError> {
    let (topic, partition) = &start.partition;
    let mut at = TopicPartitionList::new();
    at.add_partition_offset(topic, *partition, Offset::Offset(start.offset))?;
    if slot.is_fetched() {
        consumer.incremental_unassign(&list(std::slice::from_ref(&start.partition)))?;
        slot.set_fetched(false);
    }
    consumer.incremental_assign(&at)?;
    slot.set_fetched(true);
    // A pause outlives the assignment.
    consumer.resume(&at)?;
    slot.read();
    Ok(())
}

/// Puts a message into the batch for its owner; one that nobody waits for is
/// fetched again from the offset its owner names.
fn accept(slots: &mut Slots, message: &BorrowedMessage<'_>) {
    use rdkafka::Message as _;
    if let Some(slot) = slots.get(message.topic(), message.partition()) {
        slot.accept(message);
    }
}

fn list(partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    list
}
