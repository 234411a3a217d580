//! Sends the replayed records and waits for their confirmation.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context;
use iot_core::dead_letter;
use iot_core::route::EmptyPayload;
use iot_kafka::context::log;
use iot_kafka::errors::code;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use tokio::runtime::Runtime;

use super::headers;
use super::report::{Failed, Place, place};
use super::targets::{Target, Targets};
use crate::config::BridgeConfig;
use crate::tools::letters::Letter;

/// Records in flight at most.
const MAX_MESSAGES: usize = 500;
/// Their payloads, bytes.
const MAX_BYTES: usize = 16 << 20;
/// How long Kafka may take to confirm one record.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(60);

/// Sends records in order and collects their delivery reports.
pub(super) struct Sender<'a> {
    pub(super) targets: Targets<'a>,
    empty: EmptyPayload,
    producer: ThreadedProducer<DeliveryReports>,
    deliveries: mpsc::Receiver<(Place, Result<(), RDKafkaErrorCode>)>,
    /// Payload size in bytes and target topic of each record in flight.
    in_flight: HashMap<Place, (usize, String)>,
    bytes: usize,
    pub(super) confirmed: u64,
    pub(super) failed: Vec<Failed>,
    /// Kafka is unreachable or the producer has failed: every further record would fail as well.
    pub(super) gave_up: bool,
}

struct DeliveryReports(mpsc::Sender<(Place, Result<(), RDKafkaErrorCode>)>);

impl ClientContext for DeliveryReports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }
}

impl ProducerContext for DeliveryReports {
    type DeliveryOpaque = Box<Place>;

    fn delivery(&self, result: &DeliveryResult<'_>, place: Box<Place>) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(code(error)),
        };
        // The receiver is dropped only after the last report.
        let _ = self.0.send((*place, result));
    }
}

impl<'a> Sender<'a> {
    pub(super) fn new(config: &'a BridgeConfig, runtime: &'a Runtime) -> anyhow::Result<Self> {
        let (sender, deliveries) = mpsc::channel();
        Ok(Self {
            targets: Targets::new(config, runtime)?,
            empty: config.route.empty,
            producer: producer(config, DeliveryReports(sender))?,
            deliveries,
            in_flight: HashMap::new(),
            bytes: 0,
            confirmed: 0,
            failed: Vec::new(),
            gave_up: false,
        })
    }

    pub(super) fn send(&mut self, letter: Letter, target: Target) {
        let place = place(&letter);
        let mut record =
            BaseRecord::with_opaque_to(&target.topic, Box::new(place)).headers(headers(&letter));
        let payload = letter.payload.as_ref().filter(|payload| {
            let value = self.empty.value(payload, target.key.is_some());
            value.is_some()
        });
        if let Some(payload) = payload {
            record = record.payload(payload);
        }
        if let Some(key) = &target.key {
            record = record.key(key);
        }
        if let Some(partition) = target.partition {
            record = record.partition(partition);
        }
        match self.producer.send::<Vec<u8>, Vec<u8>>(record) {
            Ok(()) => {
                let bytes = letter.payload.as_ref().map_or(0, Vec::len);
                self.bytes += bytes;
                self.in_flight.insert(place, (bytes, target.topic));
            }
            Err((error, _)) => self.fail(place, target.topic, code(&error)),
        }
    }

    /// Waits until there is room for another record.
    pub(super) fn room(&mut self) {
        while self.in_flight.len() >= MAX_MESSAGES || self.bytes >= MAX_BYTES {
            self.next_delivery();
        }
        while let Ok((place, result)) = self.deliveries.try_recv() {
            self.take(place, result);
        }
    }

    /// Waits until no record is in flight.
    pub(super) fn settle(&mut self) {
        while !self.in_flight.is_empty() {
            self.next_delivery();
        }
    }

    fn next_delivery(&mut self) {
        // Every record gets a report: librdkafka keeps the deadline.
        if let Ok((place, result)) = self.deliveries.recv() {
            self.take(place, result);
        }
    }

    fn take(&mut self, place: Place, result: Result<(), RDKafkaErrorCode>) {
        let Some((bytes, topic)) = self.in_flight.remove(&place) else {
            return;
        };
        self.bytes -= bytes;
        match result {
            Ok(()) => self.confirmed += 1,
            Err(code) => self.fail(place, topic, code),
        }
    }

    pub(super) fn fail(&mut self, place: Place, topic: String, why: RDKafkaErrorCode) {
        self.gave_up |= matches!(
            why,
            RDKafkaErrorCode::MessageTimedOut
                | RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::AllBrokersDown
        );
        self.failed.push(Failed { place, topic, why });
    }
}

fn producer(
    config: &BridgeConfig,
    deliveries: DeliveryReports,
) -> anyhow::Result<ThreadedProducer<DeliveryReports>> {
    let mut client = config.kafka.client()?;
    client
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // Kafka rejects whole batches.
        .set("batch.num.messages", "1")
        .set("linger.ms", "0")
        .set(
            "message.timeout.ms",
            CONFIRM_DEADLINE.as_millis().to_string(),
        )
        .set(
            "message.max.bytes",
            dead_letter::TOPIC_MAX_MESSAGE_BYTES.to_string(),
        )
        .set("compression.type", config.kafka.compression.name());
    client
        .create_with_context(deliveries)
        .context("creating the Kafka producer")
}
