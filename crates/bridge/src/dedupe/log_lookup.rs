//! Looks up in Kafka's log which redeliveries an earlier process has written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use iot_core::headers::MQTT_DELIVERY;
use iot_kafka::headers;
use rdkafka::message::BorrowedMessage;
use tokio::sync::mpsc;

use super::log_reader::READ_DEADLINE;
use super::receive_id::ReceiveId;
use super::{Event, log_reader};
use crate::config::KafkaConfig;
use crate::ring::Seq;

/// How much older a record's timestamp may be than the message's arrival: with
/// `LogAppendTime` it is the time of the Kafka broker's clock.
const CLOCK_SKEW_MS: i64 = 2_000;

/// Hashes of messages by epoch and receive number.
pub(crate) type Written = HashMap<(u64, u64), u128>;

/// The lookups of one session. One runs at a time, on a thread of its own, for
/// all topics that were requested before it.
pub(super) struct LogLookup {
    kafka: KafkaConfig,
    dead_letters: Arc<str>,
    /// No record of an unacknowledged message is older; milliseconds since the
    /// Unix epoch.
    since: i64,
    /// The last message in the ring that needed a lookup.
    newest: Option<Seq>,
    written: Written,
    requested: HashSet<Arc<str>>,
    dead_letters_requested: bool,
    running: bool,
    events: mpsc::UnboundedSender<Event>,
}

impl LogLookup {
    pub(super) fn new(
        kafka: KafkaConfig,
        dead_letters: Arc<str>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            kafka,
            dead_letters,
            since: 0,
            newest: None,
            written: Written::new(),
            requested: HashSet::new(),
            dead_letters_requested: false,
            running: false,
            events,
        }
    }

    /// Lookups read from this time on, in milliseconds since the Unix epoch.
    pub(super) fn set_since(&mut self, since: i64) {
        self.since = since;
    }

    /// The message `seq` in the ring needs a lookup.
    pub(super) fn needed_by(&mut self, seq: Seq) {
        self.newest = Some(seq);
    }

    /// The oldest time that a record of an unacknowledged message can have.
    /// `first` is the first message in the ring and arrived at `received_at`;
    /// messages up to the last one that needed a lookup may have been received first by an
    /// earlier process.
    pub(super) fn oldest_at(&self, first: Seq, received_at: i64) -> i64 {
        match self.newest {
            Some(newest) if first <= newest => received_at.min(self.since),
            _ => received_at,
        }
    }

    /// Requests a lookup in a topic; [`Event::LogRead`] has the result.
    pub(super) fn request(&mut self, topic: Arc<str>, epoch: u64) {
        self.requested.insert(topic);
        self.start(epoch);
    }

    /// Takes the result of a lookup and starts the next one.
    pub(super) fn finished(&mut self, written: Written, epoch: Option<u64>) {
        self.running = false;
        self.written.extend(written);
        if let Some(epoch) = epoch {
            self.start(epoch);
        }
    }

    /// Whether Kafka has the message. True only once for each.
    pub(super) fn take_written(&mut self, id: &ReceiveId) -> bool {
        self.written.remove(&(id.epoch, id.number)) == Some(id.hash)
    }

    /// Frees the results unless a lookup is requested or running. Call it when no message in the
    /// ring, and none that may still arrive, needs a result.
    pub(super) fn clear(&mut self) {
        if !self.running && self.requested.is_empty() {
            self.written = Written::new();
        }
    }

    fn start(&mut self, epoch: u64) {
        if self.running || self.requested.is_empty() {
            return;
        }
        self.running = true;
        let mut topics = std::mem::take(&mut self.requested);
        if !self.dead_letters_requested {
            // Any message may have become a dead letter.
            self.dead_letters_requested = true;
            topics.insert(self.dead_letters.clone());
        }
        let (kafka, events, since) = (self.kafka.clone(), self.events.clone(), self.since);
        tokio::task::spawn_blocking(move || {
            let written = read_written(&kafka, &topics, epoch, since);
            // Fails if the session has ended.
            let _ = events.send(Event::LogRead { topics, written });
        });
    }
}

/// The messages of `epoch` whose records are in `topics` since a time, in
/// milliseconds since the Unix epoch. Those of a topic that can't be read are missing.
fn read_written(
    config: &KafkaConfig,
    topics: &HashSet<Arc<str>>,
    epoch: u64,
    since: i64,
) -> Written {
    let mut written = Written::new();
    let consumer = match log_reader::consumer(config) {
        Ok(consumer) => consumer,
        Err(error) => {
            warn_unread("all", &error);
            return written;
        }
    };
    // Topics that fail share this time; one that can be read takes none of it.
    let mut patience = READ_DEADLINE;
    for topic in topics {
        let start = Instant::now();
        let (deadline, since) = (start + patience, Some(since - CLOCK_SKEW_MS));
        let read = log_reader::read_topic(&consumer, topic, since, deadline, |record| {
            let id = receive_id(record);
            if let Some(id) = id.filter(|id| id.epoch == epoch) {
                written.insert((id.epoch, id.number), id.hash);
            }
        });
        if let Err(error) = read {
            patience = patience.saturating_sub(start.elapsed());
            warn_unread(topic, &error);
        }
    }
    written
}

fn warn_unread(topic: &str, error: &anyhow::Error) {
    tracing::warn!(
        topic,
        error = format!("{error:#}"),
        "cannot read what was written before the restart; redeliveries may be duplicates"
    );
}

fn receive_id(record: &BorrowedMessage<'_>) -> Option<ReceiveId> {
    ReceiveId::from_bytes(headers::first(record, MQTT_DELIVERY)?)
}
