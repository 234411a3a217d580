//! What librdkafka calls back: rebalances, statistics, errors. Callbacks run
//! inside `poll` and only take notes; the group's thread acts on them after.

use iot_core::partition::TopicPartition;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iot_service::rebootstrap::Rebootstrap;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::statistics::Statistics;
use crate::metrics::Metrics;

/// A change of the assignment that waits to be acted on. librdkafka goes on
/// with the rebalance when it is told to (un)assign, not when the callback
/// returns, so owners can finish while polling goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rebalance {
    /// These are added.
    Assign(Vec<TopicPartition>),
    /// These are taken away; `lost` if the group has given this member up.
    Revoke {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
}

/// Notes of what was called back.
#[derive(Debug, Default)]
struct Notes {
    rebalances: Vec<Rebalance>,
    statistics: Option<Statistics>,
    /// First error of a connection since the last time a broker was there.
    trouble: Option<String>,
}

/// Context of the group member.
#[derive(Debug)]
pub(crate) struct GroupContext {
    notes: Mutex<Notes>,
    closing: AtomicBool,
    rebootstrap: Rebootstrap,
    metrics: Arc<Metrics>,
}

impl GroupContext {
    pub(crate) fn new(rebootstrap: Rebootstrap, metrics: Arc<Metrics>) -> Self {
        Self {
            rebootstrap,
            notes: Mutex::default(),
            closing: AtomicBool::new(false),
            metrics,
        }
    }

    /// From now on rebalances are acted on at once: nothing is owned any more.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(crate) fn take_rebalances(&self) -> Vec<Rebalance> {
        std::mem::take(&mut self.notes().rebalances)
    }

    pub(crate) fn take_statistics(&self) -> Option<Statistics> {
        self.notes().statistics.take()
    }

    /// Gets the client back if it has lost all brokers.
    pub(crate) fn serve(&self, client: &Client<Self>) {
        self.rebootstrap.serve(client);
    }

    /// What keeps brokers from being reached, as librdkafka put it first.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.notes().trouble.clone()
    }

    pub(crate) fn forget_trouble(&self) {
        self.notes().trouble = None;
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Context of a producer that is there as long as the service.
#[derive(Debug, Clone)]
pub(crate) struct Lasting(pub(crate) Arc<Rebootstrap>);

impl ClientContext for Lasting {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(&error);
        Quiet.error(error, reason);
    }
}

/// Context of the other clients. librdkafka repeats the same errors at every
/// attempt; health and metrics say once what follows from them.
#[derive(Debug, Clone)]
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka reports an error");
    }
}

impl ConsumerContext for Quiet {}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Quiet.log(level, facility, message);
    }

    fn stats_raw(&self, json: &[u8]) {
        match Statistics::parse(json) {
            Ok(statistics) => self.notes().statistics = Some(statistics),
            Err(error) => tracing::warn!(%error, "statistics of librdkafka can't be read"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka reports an error");
        self.rebootstrap.note(&error);
        // Only counts what other errors say with their reason.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        // What follows differs with every try and says nothing more.
        let reason = reason.split(" (after").next().unwrap_or(reason);
        self.notes()
            .trouble
            .get_or_insert_with(|| reason.to_owned());
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let assigns = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            let nothing = TopicPartitionList::new();
            let done = if assigns {
                consumer.incremental_assign(&nothing)
            } else {
                consumer.incremental_unassign(&nothing)
            };
            if let Err(error) = done {
                tracing::warn!(%error, "giving partitions back failed");
            }
            return;
        }
        let partitions = partitions
            .elements()
            .iter()
            .map(|element| TopicPartition::new(element.topic(), element.partition()))
            .collect();
        self.notes().rebalances.push(if assigns {
            Rebalance::Assign(partitions)
        } else {
            Rebalance::Revoke {
                partitions,
                lost: consumer.assignment_lost(),
            }
        });
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            self.metrics.commit_errors.inc();
            tracing::debug!(%error, "committing offsets for lag tools failed");
        }
    }
}
