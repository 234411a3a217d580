//! The Kafka producer: hands records to librdkafka, and its verdicts back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use iot_service::rebootstrap::Rebootstrap;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::{mpsc, watch};

use crate::client;
use crate::config::KafkaConfig;
use crate::message::Message;
use crate::pace::Alarm;
use crate::refusal::Refusal;
use crate::ring::Seq;

/// The largest record that a dead letter may be.
pub(crate) const DEAD_LETTER_MAX: usize = 8 << 20;

/// Kafka's verdict on a record.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The generation of the producer that had it.
    pub(crate) generation: u32,
    pub(crate) seq: Seq,
    pub(crate) result: Result<(), Failure>,
}

/// What to do about a record that Kafka did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Send it again.
    #[error("{0}")]
    Retry(RDKafkaErrorCode),
    /// Its topic is gone: create it, then send again.
    #[error("there is no such topic")]
    TopicGone,
    /// It, or another record in the same batch, was refused: send it alone.
    #[error("a batch was refused: {}", .0.as_str())]
    Suspect(Refusal),
    /// It will never be taken.
    #[error("refused: {}", .0.as_str())]
    Refused(Refusal),
    /// The producer can't go on.
    #[error("the producer ended")]
    Fatal,
}

impl Failure {
    /// `alone`: the record was in a batch of its own.
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

/// Where producers report to.
#[derive(Clone)]
pub(crate) struct Reports {
    // Never longer than the ring is: every record in it is there once.
    pub(crate) deliveries: mpsc::UnboundedSender<Delivery>,
    /// Rings when a producer has nothing that is not settled.
    pub(crate) settled: Arc<Alarm>,
    /// Told when no broker can be reached.
    pub(crate) trouble: watch::Sender<Option<String>>,
}

/// Receives what librdkafka has to say, on its own thread.
pub(crate) struct Verdicts {
    generation: u32,
    alone: bool,
    /// Records that the producer has.
    outstanding: AtomicUsize,
    reports: Reports,
    rebootstrap: Rebootstrap,
}

impl Verdicts {
    /// The producer has one less.
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
        client::report(&self.reports.trouble, &error, reason);
    }
}

impl ProducerContext for Verdicts {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, seq: usize) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(failure(error, self.alone)),
        };
        // The receiver is gone only after the ring is.
        let _ = self.reports.deliveries.send(Delivery {
            generation: self.generation,
            seq: seq as Seq,
            result,
        });
        self.settled();
    }
}

fn failure(error: &KafkaError, alone: bool) -> Failure {
    Failure::of(
        error
            .rdkafka_error_code()
            .unwrap_or(RDKafkaErrorCode::Unknown),
        alone,
    )
}

/// librdkafka's own lines: it repeats connection errors at every attempt, and
/// health reports those, so only what is worse than an error is shown.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "librdkafka");
        }
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}

/// Produces records, and starts over with a new producer after a fatal error.
pub(crate) struct Kafka {
    config: KafkaConfig,
    generation: u32,
    reports: Reports,
    batched: ThreadedProducer<Verdicts>,
    /// Puts every record into a batch of its own; made when first needed.
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

    /// Counts producers: verdicts of an older one are out of date.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Hands a record over; its verdict comes later, unless it is known now.
    pub(crate) fn send(&self, topic: &str, seq: Seq, message: &Message) -> Result<(), Failure> {
        self.send_with(&self.batched, topic, seq, message)
    }

    /// The same in a batch of its own, so that the verdict is on it alone.
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
        // Before it is sent: the verdict may be here first.
        verdicts.outstanding.fetch_add(1, Ordering::Relaxed);
        producer.send(record).map_err(|(error, _)| {
            verdicts.settled();
            failure(&error, verdicts.alone)
        })
    }

    /// Replaces the producer. Everything that is not confirmed has to be sent
    /// again; verdicts of the old one are stale.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        if let Some((code, reason)) = self.batched.client().fatal_error() {
            tracing::error!(%code, reason, "the Kafka producer ended: starting a new one");
        }
        self.generation += 1;
        self.alone = None;
        self.batched = producer(&self.config, &self.reports, self.generation, false)?;
        Ok(())
    }

    /// Every second or so: gets producers back that have lost all brokers.
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
    client::producer(config)?
        .create_with_context(verdicts)
        .context("creating the Kafka producer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_batch_makes_its_records_suspect_and_one_alone_guilty() {
        let code = RDKafkaErrorCode::MessageSizeTooLarge;
        assert_eq!(
            Failure::of(code, false),
            Failure::Suspect(Refusal::TooLarge)
        );
        assert_eq!(Failure::of(code, true), Failure::Refused(Refusal::TooLarge));
    }

    #[test]
    fn what_may_pass_is_tried_again() {
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
}
