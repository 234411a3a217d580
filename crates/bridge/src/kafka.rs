//! The Kafka producer: hands records to librdkafka, and its delivery reports back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use iot_kafka::context::{log, without_times};
use iot_kafka::errors::{Named, code};
use iot_kafka::rebootstrap::Rebootstrap;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::{mpsc, watch};

use crate::config::KafkaConfig;
use crate::message::Message;
use crate::pace::Alarm;
use crate::refusal::Refusal;
use crate::ring::Seq;

/// The delivery report of a record.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Generation of the producer that had the record.
    pub(crate) generation: u32,
    pub(crate) seq: Seq,
    pub(crate) result: Result<(), Failure>,
}

/// What to do about a record that is not in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Send it again.
    #[error("{}", Named(*.0))]
    Retry(RDKafkaErrorCode),
    /// The topic was deleted: create it, then send the record again.
    #[error("there is no such topic")]
    TopicGone,
    /// The record, or another in the same batch, was rejected: send it alone.
    #[error("a batch was rejected: {}", .0.as_str())]
    Suspect(Refusal),
    /// The record is rejected permanently.
    #[error("rejected: {}", .0.as_str())]
    Refused(Refusal),
    /// The producer has failed; a new one is needed.
    #[error("the producer failed")]
    Fatal,
}

impl Failure {
    /// `alone`: the record had a batch of its own.
    fn of(code: RDKafkaErrorCode, alone: bool) -> Self {
        use RDKafkaErrorCode as Code;
        let suspect = |refusal| {
            if alone {
                Self::Refused(refusal)
            } else {
                Self::Suspect(refusal)
            }
        };
        match code {
            Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => suspect(Refusal::TooLarge),
            Code::InvalidRecord | Code::InvalidMessage => suspect(Refusal::InvalidRecord),
            Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => {
                Self::TopicGone
            }
            Code::InvalidTopic => Self::Refused(Refusal::TopicRefused),
            Code::TopicAuthorizationFailed => Self::Refused(Refusal::NotAuthorized),
            Code::Fatal => Self::Fatal,
            code => Self::Retry(code),
        }
    }
}

/// Where delivery reports go.
#[derive(Clone)]
pub(crate) struct Reports {
    // Never longer than the ring: each of its records is there once.
    pub(crate) deliveries: mpsc::UnboundedSender<Delivery>,
    /// Rings when a producer has no record left.
    pub(crate) settled: Arc<Alarm>,
    /// Notified when no broker can be reached.
    pub(crate) trouble: watch::Sender<Option<String>>,
}

/// Receives librdkafka's callbacks, on its thread.
pub(crate) struct Verdicts {
    generation: u32,
    alone: bool,
    /// Records that the producer has.
    outstanding: AtomicUsize,
    reports: Reports,
    rebootstrap: Rebootstrap,
}

impl Verdicts {
    /// The producer has one record less.
    fn settled(&self) {
        if self.outstanding.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.reports.settled.ring();
        }
    }
}

impl ClientContext for Verdicts {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.rebootstrap.note(&error);
        report(&self.reports.trouble, &error, reason);
    }
}

impl ProducerContext for Verdicts {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, seq: usize) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(Failure::of(code(error), self.alone)),
        };
        // The receiver is dropped only after the ring.
        let _ = self.reports.deliveries.send(Delivery {
            generation: self.generation,
            seq: seq as Seq,
            result,
        });
        self.settled();
    }
}

/// Keeps why a broker can't be used, and notifies the receivers when none is left.
fn report(trouble: &watch::Sender<Option<String>>, error: &KafkaError, reason: &str) {
    let none_left = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
    trouble.send_if_modified(|trouble| {
        // That none is left says less than the reason of one of them.
        if !none_left || trouble.is_none() {
            *trouble = Some(without_times(reason).to_owned());
        }
        none_left
    });
}

/// Produces records, with a new producer after a fatal error.
pub(crate) struct Kafka {
    config: KafkaConfig,
    generation: u32,
    reports: Reports,
    batched: ThreadedProducer<Verdicts>,
    /// Gives every record a batch of its own; created when first needed.
    alone: Option<ThreadedProducer<Verdicts>>,
}

impl Kafka {
    pub(crate) fn new(config: &KafkaConfig, reports: Reports) -> anyhow::Result<Self> {
        Ok(Self {
            batched: producer(config, &reports, 0, false)?,
            alone: None,
            config: config.clone(),
            generation: 0,
            reports,
        })
    }

    /// Counts producers: reports of an older one are stale.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Hands a record over; its report comes later, unless it fails at once.
    pub(crate) fn send(&self, topic: &str, seq: Seq, message: &Message) -> Result<(), Failure> {
        self.send_with(&self.batched, topic, seq, message)
    }

    /// The same in a batch of its own, so that the report is about this record alone.
    pub(crate) fn send_alone(
        &mut self,
        topic: &str,
        seq: Seq,
        message: &Message,
    ) -> anyhow::Result<Result<(), Failure>> {
        let alone = match self.alone.take() {
            Some(producer) => producer,
            None => {
                let mut config = self.config.clone();
                config
                    .properties
                    .insert("batch.num.messages".into(), "1".into());
                producer(&config, &self.reports, self.generation, true)?
            }
        };
        let sent = self.send_with(&alone, topic, seq, message);
        self.alone = Some(alone);
        Ok(sent)
    }

    fn send_with(
        &self,
        producer: &ThreadedProducer<Verdicts>,
        topic: &str,
        seq: Seq,
        message: &Message,
    ) -> Result<(), Failure> {
        let mut record = BaseRecord::with_opaque_to(topic, seq as usize)
            .payload(&*message.payload)
            .headers(message.headers(self.config.headers));
        if let Some(key) = message.key() {
            record = record.key(key);
        }
        let verdicts = producer.context();
        // Before it is sent: the report may arrive first.
        verdicts.outstanding.fetch_add(1, Ordering::Relaxed);
        producer.send(record).map_err(|(error, _)| {
            verdicts.settled();
            Failure::of(code(&error), verdicts.alone)
        })
    }

    /// Replaces the producer. Every unconfirmed record has to be sent again; reports of the
    /// old producer are stale.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        if let Some((code, reason)) = self.batched.client().fatal_error() {
            tracing::error!(%code, reason, "the Kafka producer failed; starting a new one");
        }
        self.generation += 1;
        self.alone = None;
        self.batched = producer(&self.config, &self.reports, self.generation, false)?;
        Ok(())
    }

    /// Reconnects producers that have lost every broker; called about once a second.
    pub(crate) fn serve(&self) {
        for producer in std::iter::once(&self.batched).chain(&self.alone) {
            producer.context().rebootstrap.serve(producer.client());
        }
    }
}

fn producer(
    config: &KafkaConfig,
    reports: &Reports,
    generation: u32,
    alone: bool,
) -> anyhow::Result<ThreadedProducer<Verdicts>> {
    let verdicts = Verdicts {
        generation,
        alone,
        outstanding: AtomicUsize::new(0),
        reports: reports.clone(),
        rebootstrap: Rebootstrap::new(&config.brokers)?,
    };
    config
        .producer()?
        .create_with_context(verdicts)
        .context("creating the Kafka producer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_batch_makes_its_records_suspect_until_sent_alone() {
        let code = RDKafkaErrorCode::MessageSizeTooLarge;
        assert_eq!(
            Failure::of(code, false),
            Failure::Suspect(Refusal::TooLarge)
        );
        assert_eq!(Failure::of(code, true), Failure::Refused(Refusal::TooLarge));
    }

    #[test]
    fn transient_errors_are_retried() {
        for code in [
            RDKafkaErrorCode::NotEnoughReplicas,
            RDKafkaErrorCode::RequestTimedOut,
            RDKafkaErrorCode::QueueFull,
        ] {
            assert_eq!(Failure::of(code, false), Failure::Retry(code));
        }
        assert_eq!(
            Failure::of(RDKafkaErrorCode::UnknownTopic, false),
            Failure::TopicGone
        );
    }

    #[test]
    fn the_reason_is_kept_and_receivers_are_notified_when_no_broker_is_left() {
        let (sender, mut receiver) = watch::channel(None);
        let refused = KafkaError::Global(RDKafkaErrorCode::Authentication);
        let reason = "b:1: SASL authentication error (after 3ms in state AUTH_REQ)";
        report(&sender, &refused, reason);
        assert!(!receiver.has_changed().unwrap(), "others may be up");
        let all_down = KafkaError::Global(RDKafkaErrorCode::AllBrokersDown);
        report(&sender, &all_down, "1/1 brokers are down");
        assert!(receiver.has_changed().unwrap());
        let now = receiver.borrow_and_update().clone();
        assert_eq!(now.as_deref(), Some("b:1: SASL authentication error"));
    }
}
