//! The Kafka producer: hands records to librdkafka, and its delivery reports back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use iot_core::route::EmptyPayload;
use iot_kafka::context::{log, without_times};
use iot_kafka::errors::{Named, code};
use iot_kafka::rebootstrap::Rebootstrap;
use iot_service::Backoff;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::config::KafkaConfig;
use crate::message::Message;
use crate::pace::Alarm;
use crate::refusal::Refusal;
use crate::ring::Seq;

/// How long a producer has to work before the failure of the next one counts as the first.
const STEADY: Duration = Duration::from_secs(60);

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
        // The end of a producer is reported where it is replaced.
        let level = match facility {
            "FATAL" => RDKafkaLogLevel::Debug,
            _ => level,
        };
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
    empty: EmptyPayload,
    generation: u32,
    reports: Reports,
    /// `None` from a fatal error to the next record.
    batched: Option<ThreadedProducer<Verdicts>>,
    /// Gives every record a batch of its own; created when first needed.
    alone: Option<ThreadedProducer<Verdicts>>,
    failures: Failures,
}

/// What follows the failure of a producer.
#[derive(Debug)]
pub(crate) struct Restart {
    /// No record may be sent before.
    pub(crate) delay: Duration,
    /// Kafka's reason.
    pub(crate) reason: String,
}

impl Kafka {
    /// Records of messages without a payload are as `empty` says.
    ///
    /// # Errors
    /// The settings can't be used, or the password file can't be read.
    pub(crate) fn new(
        config: &KafkaConfig,
        empty: EmptyPayload,
        reports: Reports,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            batched: Some(producer(config, &reports, 0, false)?),
            alone: None,
            config: config.clone(),
            empty,
            generation: 0,
            reports,
            failures: Failures::new(),
        })
    }

    /// Counts producers: reports of an older one are stale.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Hands a record over; its report comes later, unless it fails at once.
    ///
    /// # Errors
    /// There is no producer, and none can be created.
    pub(crate) fn send(
        &mut self,
        topic: &str,
        seq: Seq,
        message: &Message,
    ) -> anyhow::Result<Result<(), Failure>> {
        let batched = match &mut self.batched {
            Some(batched) => batched,
            none => none.insert(producer(
                &self.config,
                &self.reports,
                self.generation,
                false,
            )?),
        };
        let form = (self.config.headers, self.empty);
        Ok(send_with(batched, topic, seq, message, form))
    }

    /// The same in a batch of its own, so that the report is about this record alone.
    pub(crate) fn send_alone(
        &mut self,
        topic: &str,
        seq: Seq,
        message: &Message,
    ) -> anyhow::Result<Result<(), Failure>> {
        let alone = match &mut self.alone {
            Some(alone) => alone,
            none => {
                let mut config = self.config.clone();
                config
                    .properties
                    .insert("batch.num.messages".into(), "1".into());
                none.insert(producer(&config, &self.reports, self.generation, true)?)
            }
        };
        let form = (self.config.headers, self.empty);
        Ok(send_with(alone, topic, seq, message, form))
    }

    /// Ends the producer, which has failed. The next record gets a new one. Every unconfirmed
    /// record has to be sent again; reports of the old producer are stale.
    pub(crate) fn restart(&mut self, now: Instant) -> Restart {
        let mut producers = self.batched.iter().chain(&self.alone);
        let fatal = producers.find_map(|producer| producer.client().fatal_error());
        let reason = fatal.map_or_else(
            || "no reason".to_owned(),
            |(code, reason)| format!("{}: {reason}", Named(code)),
        );
        self.generation += 1;
        (self.batched, self.alone) = (None, None);
        Restart {
            delay: self.failures.failed(now, &reason),
            reason,
        }
    }

    /// Kafka has confirmed a record of the current producer.
    pub(crate) fn confirmed(&mut self) {
        self.failures.worked();
    }

    /// Reconnects producers that have lost every broker; called about once a second.
    pub(crate) fn serve(&self) {
        for producer in self.batched.iter().chain(&self.alone) {
            producer.context().rebootstrap.serve(producer.client());
        }
    }
}

/// The failures of producers, each of which ends one.
#[derive(Debug)]
struct Failures {
    backoff: Backoff,
    last: Option<Instant>,
    /// No record was confirmed since the last failure.
    failing: bool,
}

impl Failures {
    fn new() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
            last: None,
            failing: false,
        }
    }

    /// Returns the time before the next producer. Logs the first of several failures.
    fn failed(&mut self, now: Instant, reason: &str) -> Duration {
        if self.last.is_none_or(|last| now - last > STEADY) {
            self.backoff.reset();
        }
        self.last = Some(now);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(reason, "the Kafka producer failed; starting another one");
        }
        self.backoff.next_delay()
    }

    fn worked(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!("the Kafka producer works again");
        }
    }
}

fn send_with(
    producer: &ThreadedProducer<Verdicts>,
    topic: &str,
    seq: Seq,
    message: &Message,
    (headers, empty): (bool, EmptyPayload),
) -> Result<(), Failure> {
    let headers = message.headers(headers);
    let mut record =
        BaseRecord::<str, [u8], _>::with_opaque_to(topic, seq as usize).headers(headers);
    if let Some(value) = empty.value(&message.payload, message.key().is_some()) {
        record = record.payload(value);
    }
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
    fn producers_that_fail_are_replaced_ever_more_slowly() {
        let (mut failures, mut now) = (Failures::new(), Instant::now());
        let mut fail = |failures: &mut Failures, after: Duration| {
            now += after;
            failures.failed(now, "CLUSTER_AUTHORIZATION_FAILED")
        };
        let second = Duration::from_secs(1);
        let delays: Vec<_> = (0..12).map(|_| fail(&mut failures, second)).collect();
        assert!(delays[0] <= Duration::from_millis(200), "{delays:?}");
        assert!(delays[11] >= 15 * second, "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= 30 * second));
        assert!(failures.failing);
        failures.worked();
        assert!(!failures.failing);
        // A record in between does not make it fast again.
        assert!(fail(&mut failures, second) >= 15 * second);
        assert!(fail(&mut failures, 2 * STEADY) < second);
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
