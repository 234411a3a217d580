//! Callbacks of librdkafka: rebalances, statistics, errors. They run inside `poll` and only
//! take notes, on which the group's thread acts afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use iot_core::partition::TopicPartition;
use iot_kafka::context::{log, without_times};
use iot_kafka::rebootstrap::Rebootstrap;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::metrics::KafkaMetrics;
use super::refused::Refused;
use super::statistics::Statistics;

/// A change of the assignment that the thread has not acted on. librdkafka continues the
/// rebalance at the call of (un)assign, not when the callback returns, so that owners can
/// finish while polling continues.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rebalance {
    /// Partitions that are added.
    Assign(Vec<TopicPartition>),
    /// Partitions that are revoked; `lost` if the group has removed this member.
    Revoke {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
}

/// What the callbacks reported.
#[derive(Debug, Default)]
struct Notes {
    rebalances: Vec<Rebalance>,
    statistics: Option<Statistics>,
    /// First connection error since a broker was last reachable.
    trouble: Option<String>,
    refused: Refused,
}

/// Context of the group member.
#[derive(Debug)]
pub(crate) struct GroupContext {
    notes: Mutex<Notes>,
    closing: AtomicBool,
    rebootstrap: Rebootstrap,
    metrics: KafkaMetrics,
}

impl GroupContext {
    pub(crate) fn new(rebootstrap: Rebootstrap, metrics: KafkaMetrics) -> Self {
        Self {
            rebootstrap,
            notes: Mutex::default(),
            closing: AtomicBool::new(false),
            metrics,
        }
    }

    /// Answers rebalances at once from now on: no partition is owned any more.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(crate) fn take_rebalances(&self) -> Vec<Rebalance> {
        std::mem::take(&mut self.notes().rebalances)
    }

    pub(crate) fn take_statistics(&self) -> Option<Statistics> {
        self.notes().statistics.take()
    }

    /// Reconnects the client if it has lost every broker.
    pub(crate) fn serve(&self, client: &Client<Self>) {
        self.rebootstrap.serve(client);
    }

    /// Why no broker can be reached, from librdkafka's first error.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.notes().trouble.clone()
    }

    pub(crate) fn forget_trouble(&self) {
        self.notes().trouble = None;
    }

    /// What Kafka refuses to this member.
    pub(crate) fn refused(&self) -> Refused {
        self.notes().refused.clone()
    }

    /// This is a member of the group.
    pub(crate) fn joined(&self) {
        self.notes().refused.joined();
    }

    /// A topic can be read that may have been refused before.
    pub(crate) fn readable(&self, topic: &str) {
        self.notes().refused.readable(topic);
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats_raw(&self, json: &[u8]) {
        match Statistics::parse(json) {
            Ok(statistics) => self.notes().statistics = Some(statistics),
            Err(error) => tracing::warn!(%error, "cannot parse the statistics of librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka reports an error");
        self.rebootstrap.note(&error);
        let mut notes = self.notes();
        match error.rdkafka_error_code() {
            // Only summarises errors that have a reason.
            Some(RDKafkaErrorCode::AllBrokersDown) | None => {}
            Some(code) if Refused::is_answer(code) => notes.refused.note(code, reason),
            Some(_) => {
                notes
                    .trouble
                    .get_or_insert_with(|| without_times(reason).to_owned());
            }
        }
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
                tracing::warn!(%error, "answering a rebalance failed");
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
