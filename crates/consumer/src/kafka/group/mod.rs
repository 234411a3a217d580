//! The member of the consumer group: one thread that polls, starts and stops the owners of
//! partitions on rebalances, commits stored offsets, and reports. Records do not pass
//! through it: owners have them fetched.

mod right;
mod slots;
mod standing;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use iot_core::partition::TopicPartition;
use iot_kafka::rebootstrap::Rebootstrap;
use iot_service::health::Component;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::consumer_config;
use super::context::{GroupContext, Rebalance};
use super::ends::{Ends, Question};
use super::metrics::{KafkaMetrics, RebalanceKind};
use super::refused::{self, Refused};
use super::statistics::{Membership, Statistics};
use crate::config::KafkaConfig;
pub(crate) use right::WriteRight;
pub(crate) use slots::Inbox;
use slots::Slots;
use standing::{Standing, standing};

/// Longest poll: how late an offset to commit may be noticed.
const IDLE: Duration = Duration::from_millis(100);
/// Longest poll while owners are stopping.
const BUSY: Duration = Duration::from_millis(5);
/// How often offsets are committed to Kafka.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How long owners may take to store their state: well below the time that a group waits for
/// a member in a rebalance.
const RELEASE: Duration = Duration::from_secs(10);
/// An assigned partition that is not read for longer makes the member not ready.
const STUCK: Duration = Duration::from_secs(10);
/// An open transaction that holds records back for longer makes the member degraded.
const HELD: Duration = Duration::from_secs(10);
/// Kafka may refuse commits of a former membership this long after it was lost.
const AFTER_LOSS: Duration = Duration::from_secs(60);
/// The same error is logged this often at most.
const REPEAT_LOG: Duration = Duration::from_secs(30);

/// An offset up to which state is stored, to be committed to Kafka for lag tools.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) partition: TopicPartition,
    pub(crate) offset: i64,
}

/// What is assigned to this member.
#[derive(Debug, Default)]
pub(crate) struct Assigned {
    /// Whether a rebalance has made it a member.
    pub(crate) joined: bool,
    pub(crate) partitions: HashSet<TopicPartition>,
}

/// Starts the owner of a partition as a task.
pub(crate) type StartOwner = Box<dyn Fn(Inbox) -> tokio::task::JoinHandle<()> + Send>;

/// What the thread works with.
pub(crate) struct Member {
    pub(crate) config: KafkaConfig,
    pub(crate) commits: mpsc::Receiver<Commit>,
    pub(crate) start_owner: StartOwner,
    pub(crate) ends: Ends,
    /// Changes before owners start, and before they are stopped.
    pub(crate) assigned: watch::Sender<Assigned>,
    pub(crate) metrics: KafkaMetrics,
    pub(crate) health: Component,
    pub(crate) stop: CancellationToken,
}

/// How a membership ends without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    /// A member with the same `group.instance.id` is in the group: this process, after it had
    /// lost its membership. librdkafka can't go on after it has sent anything for the former one.
    FencedByItself,
}

/// Runs the member until it is stopped.
///
/// # Errors
/// The consumer can't be created, or fails permanently.
pub(crate) fn run(mut member: Member) -> anyhow::Result<()> {
    loop {
        let mut group = join(member)?;
        let end = group.poll_until_stopped();
        member = group.leave();
        if end? == End::Stopped {
            return Ok(());
        }
        tracing::warn!("Kafka refused a commit of the lost membership; joining the group again");
    }
}

fn join(member: Member) -> anyhow::Result<Group> {
    let rebootstrap = Rebootstrap::new(&member.config.brokers)?;
    let context = GroupContext::new(rebootstrap, member.metrics.clone());
    let consumer: BaseConsumer<GroupContext> = consumer_config(&member.config)?
        .create_with_context(context)
        .context("creating the consumer")?;
    let topics: Vec<&str> = member.config.topics.iter().map(String::as_str).collect();
    consumer
        .subscribe(&topics)
        .with_context(|| format!("subscribing to {topics:?} (kafka.topics)"))?;
    Ok(Group {
        consumer,
        member,
        slots: Slots::default(),
        leaving: Vec::new(),
        commits: HashMap::new(),
        committed_at: Instant::now(),
        joined: false,
        lost_at: None,
        membership: Membership::NoBroker,
        lasts: 0,
        logged: None,
    })
}

struct Group {
    consumer: BaseConsumer<GroupContext>,
    member: Member,
    slots: Slots,
    leaving: Vec<Leaving>,
    commits: HashMap<TopicPartition, i64>,
    committed_at: Instant,
    joined: bool,
    lost_at: Option<Instant>,
    /// As of the last report.
    membership: Membership,
    /// Reports in a row that agree on it.
    lasts: u32,
    logged: Option<(String, Instant)>,
}

/// Revoked partitions whose owners are storing their state.
struct Leaving {
    partitions: Vec<TopicPartition>,
    owners: Vec<tokio::task::JoinHandle<()>>,
    since: Instant,
    deadline: Instant,
}

impl Group {
    fn poll_until_stopped(&mut self) -> anyhow::Result<End> {
        while !self.member.stop.is_cancelled() {
            let wait = if self.leaving.is_empty() { IDLE } else { BUSY };
            // Nothing is assigned in librdkafka, so there is no message.
            if let Some(Err(error)) = self.consumer.poll(wait) {
                if self.is_fenced_by_itself() {
                    return Ok(End::FencedByItself);
                }
                self.failed(error)?;
            }
            self.serve();
        }
        Ok(End::Stopped)
    }

    fn is_fenced_by_itself(&self) -> bool {
        let fatal = self.consumer.client().fatal_error();
        let is_fenced = fatal.is_some_and(|(code, _)| code == RDKafkaErrorCode::FencedInstanceId);
        is_fenced && self.lost_at.is_some_and(|at| at.elapsed() < AFTER_LOSS)
    }

    fn serve(&mut self) {
        self.consumer.context().serve(self.consumer.client());
        for rebalance in self.consumer.context().take_rebalances() {
            self.rebalance(rebalance);
        }
        self.note_commits();
        self.release(false);
        self.commit();
        if let Some(statistics) = self.consumer.context().take_statistics() {
            self.report(&statistics);
        }
    }

    fn failed(&mut self, error: KafkaError) -> anyhow::Result<()> {
        // The event of a fatal error lacks its code.
        if let Some((code, _)) = self.consumer.client().fatal_error() {
            let reason = refused::explain(code);
            self.member.health.failed(reason.clone());
            return Err(anyhow!(reason)).context("the membership in the group has ended");
        }
        match error {
            // Readiness reports these, with the reason.
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve,
            ) => {}
            KafkaError::MessageConsumption(code) if Refused::is_answer(code) => {}
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
            tracing::warn!(error, "Kafka reports an error; the consumer continues");
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
                if lost {
                    (self.joined, self.lost_at) = (false, Some(Instant::now()));
                }
                self.revoke(partitions);
            }
        }
        self.member
            .metrics
            .active_partitions
            .set(self.slots.len() as i64);
    }

    /// Starts owners. The rebalance is answered without any partition, because owners have
    /// them fetched and librdkafka must not.
    fn assign(&mut self, partitions: Vec<TopicPartition>) {
        self.member.metrics.rebalanced(RebalanceKind::Assigned);
        tracing::info!(?partitions, "partitions assigned");
        self.joined = true;
        self.member.assigned.send_modify(|assigned| {
            assigned.joined = true;
            assigned.partitions.extend(partitions.iter().cloned());
        });
        self.consumer.context().joined();
        self.answer(true);
        for partition in partitions {
            self.consumer.context().readable(&partition.topic);
            self.slots.add(partition, &self.member.start_owner);
        }
    }

    fn revoke(&mut self, partitions: Vec<TopicPartition>) {
        for TopicPartition { topic, partition } in &partitions {
            self.member.metrics.forget_lag(topic, *partition);
        }
        self.member.assigned.send_modify(|assigned| {
            assigned.partitions.retain(|one| !partitions.contains(one));
        });
        let since = Instant::now();
        let owners = self.stop_owners(&partitions);
        self.leaving.push(Leaving {
            owners,
            partitions,
            since,
            deadline: since + RELEASE,
        });
    }

    fn stop_owners(&mut self, partitions: &[TopicPartition]) -> Vec<tokio::task::JoinHandle<()>> {
        let slots = partitions
            .iter()
            .filter_map(|partition| self.slots.remove(partition));
        slots.map(slots::Slot::stop).collect()
    }

    /// Releases the partitions whose owners have stopped; all of them if `now`.
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
            // The group does not wait for a commit that only lag tools need: the next owners
            // commit what these have stored, and a later commit would undo theirs.
            self.note_commits();
            for partition in &leaving.partitions {
                self.commits.remove(partition);
            }
            self.answer(false);
            let took = leaving.since.elapsed();
            self.member
                .metrics
                .rebalance_took(RebalanceKind::Revoked, took);
        }
    }

    /// Lets a rebalance continue that assigned partitions, or revoked some.
    fn answer(&mut self, assigned: bool) {
        let nothing = TopicPartitionList::new();
        let answered = if assigned {
            self.consumer.incremental_assign(&nothing)
        } else {
            self.consumer.incremental_unassign(&nothing)
        };
        if let Err(error) = answered {
            self.log(format!("answering a rebalance: {error}"));
        }
    }

    fn note_commits(&mut self) {
        while let Ok(Commit { partition, offset }) = self.member.commits.try_recv() {
            self.commits.insert(partition, offset);
        }
    }

    fn commit(&mut self) {
        if self.committed_at.elapsed() >= COMMIT_EVERY {
            self.commit_now();
        }
    }

    fn commit_now(&mut self) {
        self.committed_at = Instant::now();
        let mut list = TopicPartitionList::new();
        for (TopicPartition { topic, partition }, offset) in self.commits.drain() {
            if let Err(error) = list.add_partition_offset(&topic, partition, Offset::Offset(offset))
            {
                tracing::warn!(topic = &*topic, partition, offset, %error, "cannot commit");
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
        self.judge(statistics.membership());
        let metrics = &self.member.metrics;
        let now = jiff::Timestamp::now().as_millisecond();
        let context = self.consumer.context();
        self.member.ends.ask(Question {
            partitions: self.slots.not_flowing(),
            topics: context.refused().topic_names(),
        });
        let known = self.member.ends.known();
        for topic in &known.readable {
            context.readable(topic);
        }
        let lags = self.slots.lags(&known.ends, now);
        let lag = lags.map(|(TopicPartition { topic, partition }, lag)| {
            metrics.lag.set(topic, *partition, lag);
            lag.messages
        });
        let total = lag.sum();
        metrics.lag_total.set(total);
        metrics.queue.set(self.slots.waiting() as i64);
        metrics.paused_partitions.set(self.slots.full() as i64);
        for (TopicPartition { topic, partition }, seconds) in self.slots.open_transactions() {
            let gauge = metrics.open_transaction(topic, &partition.to_string());
            gauge.set(seconds);
        }
        self.slots.check_owners(&self.member.health);
    }

    /// Reports the membership, and what keeps partitions from being read.
    fn judge(&mut self, membership: Membership) {
        self.lasts = if membership == self.membership {
            self.lasts.saturating_add(1)
        } else {
            1
        };
        self.membership = membership;
        let context = self.consumer.context();
        if membership == Membership::Steady {
            let is_new = |assigned: &mut Assigned| !std::mem::replace(&mut assigned.joined, true);
            self.member.assigned.send_if_modified(is_new);
            context.joined();
        }
        let (refused, trouble) = (context.refused(), context.trouble());
        let held_up = self.slots.held_up(HELD);
        // A member that is refused and reads nothing is none.
        let is_member = self.joined && (refused.group().is_none() || self.slots.len() > 0);
        let health = &self.member.health;
        match standing(membership, self.lasts, is_member, &refused, trouble) {
            Standing::Unclear => {}
            Standing::NotReady(reason) => health.not_ready(reason),
            Standing::Member(wrong) => {
                self.consumer.context().forget_trouble();
                let wrong = wrong.or_else(|| refused.topics()).or(held_up);
                match (self.slots.stuck(STUCK), wrong) {
                    (Some(reason), _) => health.not_ready(reason),
                    (None, Some(reason)) => health.degraded(reason),
                    (None, None) => health.ready(),
                }
            }
        }
    }

    /// Stops owners, commits their offsets, and leaves the group.
    fn leave(mut self) -> Member {
        let partitions = self.slots.partitions();
        for TopicPartition { topic, partition } in &partitions {
            self.member.metrics.forget_lag(topic, *partition);
        }
        let owners = self.stop_owners(&partitions);
        self.member.metrics.active_partitions.set(0);
        let deadline = Instant::now() + RELEASE;
        let done = |owner: &tokio::task::JoinHandle<()>| owner.is_finished();
        while !owners.iter().all(done) && Instant::now() < deadline {
            // Polling keeps the membership alive.
            drop(self.consumer.poll(BUSY));
            self.note_commits();
        }
        if !owners.iter().all(done) {
            tracing::warn!("owners did not finish in time");
            owners.iter().for_each(tokio::task::JoinHandle::abort);
        }
        self.note_commits();
        self.commit_now();
        self.release(true);
        for rebalance in self.consumer.context().take_rebalances() {
            self.answer(matches!(rebalance, Rebalance::Assign(_)));
        }
        self.consumer.context().close();
        // Dropping the consumer leaves the group.
        self.member
    }
}
