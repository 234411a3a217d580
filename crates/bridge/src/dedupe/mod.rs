//! Deduplication: what the MQTT broker redelivers, after a reconnect or after a
//! restart of the bridge, is not written to Kafka twice.
//!
//! | step | where |
//! |---|---|
//! | What an identifier stands for until it is acknowledged | `packet_ids` |
//! | Each message with a packet identifier gets a receive number | `numbering` |
//! | Its record carries the number, in the header `mqtt-delivery` | `receive_id` |
//! | Every few thousand messages the state of the numbering goes to `iot.bridge-sessions` | `checkpoint` |
//! | A restart continues at the last checkpoint | `restore` |
//! | Kafka is searched for what an earlier process wrote since that checkpoint | `log_lookup` |
//! | Publishers' duplicates, by an id in the payload | `payload_ids` |
//!
//! Checkpoints take a slot in the ring like messages. So nothing that follows a
//! checkpoint is acknowledged before the checkpoint is confirmed, and after a
//! crash the last confirmed one is close to the first redelivery.
//!
//! [`Dedupe::classify`] is the only place that decides whether a PUBLISH is new: first by the
//! packet identifiers in use, which is certain, then by the numbering.
//!
//! docs/decisions/0005-redelivery.md has the reasons and the limits.

mod checkpoint;
mod log_lookup;
mod log_reader;
mod numbering;
mod packet_ids;
mod payload_ids;
mod receive_id;
mod restore;

use std::collections::HashSet;
use std::sync::Arc;

use iot_core::headers::BRIDGE_SESSIONS_TOPIC;
use iot_mqtt::QoS;
use tokio::sync::mpsc;

use crate::config::BridgeConfig;
use crate::refusal::Refusal;
use crate::ring::Seq;
use checkpoint::Checkpoint;
use log_lookup::{LogLookup, Written};
use numbering::Numbering;
pub(crate) use numbering::{Kind, Received};
use packet_ids::PacketIds;
pub(crate) use payload_ids::PayloadIds;
pub(crate) use receive_id::{ReceiveId, content_hash};
pub(crate) use restore::Restored;

/// A checkpoint becomes due after so many seconds, if messages arrive.
const CHECKPOINT_TICKS: u64 = 5;

/// A result of reading Kafka in the background.
#[derive(Debug)]
pub(crate) enum Event {
    /// The last checkpoint was read, or Kafka denies access to it: messages may be received
    /// from now on.
    Restored(Restored),
    /// A lookup in these topics has ended.
    LogRead {
        topics: HashSet<Arc<str>>,
        written: Written,
    },
}

/// What to do about a checkpoint that Kafka refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusedCheckpoint {
    /// Nothing: a restart finds no checkpoint. The next one is tried again.
    Skip,
    /// Write it again: a restart would continue at an outdated one.
    Retry,
}

/// The deduplication state of one MQTT session.
pub(crate) struct Dedupe {
    /// `mqtt.receive_maximum`: how many unacknowledged messages the broker sends.
    receive_maximum: u16,
    packet_ids: PacketIds,
    /// `None` if messages are not numbered, or not yet.
    numbering: Option<Numbering>,
    restoring: bool,
    /// Kafka has a checkpoint of this session, from this process or an earlier one.
    has_checkpoint: bool,
    /// Kafka refused one, and this was logged.
    checkpoints_refused: bool,
    ticks: u64,
    /// The connection that came up while restoring: broker, and whether the
    /// session was resumed.
    pending_connection: Option<(Arc<str>, bool)>,
    lookup: LogLookup,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Dedupe {
    /// Whether messages are numbered, which recognises redeliveries of acknowledged messages and
    /// those after a restart. Needs headers, which carry the numbers.
    pub(crate) fn is_enabled(config: &BridgeConfig) -> bool {
        config.dedupe.redeliveries && config.kafka.headers
    }

    /// Starts to read the last checkpoint of `client_id`, if enabled.
    pub(crate) fn new(config: &BridgeConfig, client_id: &str, dead_letters: Arc<str>) -> Self {
        let enabled = Self::is_enabled(config);
        // Bounded: one event for each read, and few reads.
        let (sender, events) = mpsc::unbounded_channel();
        if enabled {
            let (kafka, sender) = (config.kafka.clone(), sender.clone());
            tokio::spawn(restore::restore(kafka, client_id.into(), sender));
        }
        Self {
            receive_maximum: config.mqtt.receive_maximum,
            packet_ids: PacketIds::default(),
            numbering: None,
            restoring: enabled,
            has_checkpoint: false,
            checkpoints_refused: false,
            ticks: 0,
            pending_connection: None,
            lookup: LogLookup::new(config.kafka.clone(), dead_letters, sender),
            events,
        }
    }

    /// Whether the last checkpoint is being read: nothing may be received yet.
    pub(crate) fn is_restoring(&self) -> bool {
        self.restoring
    }

    /// Waits for the next event. Cancel safe.
    pub(crate) async fn next_event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // Never: `lookup` holds a sender.
            None => std::future::pending().await,
        }
    }

    /// Takes [`Event::Restored`].
    pub(crate) fn restored(&mut self, restored: Restored) {
        let is_late = !std::mem::take(&mut self.restoring);
        let checkpoint = match restored {
            Restored::Checkpoint(checkpoint) => checkpoint,
            Restored::Denied => {
                tracing::warn!(
                    topic = BRIDGE_SESSIONS_TOPIC,
                    "Kafka does not authorise the bridge to read its checkpoints; until it does, redeliveries of acknowledged messages, and those after a restart, will be duplicates"
                );
                return;
            }
        };
        self.has_checkpoint = checkpoint.is_some();
        if is_late {
            tracing::info!(
                topic = BRIDGE_SESSIONS_TOPIC,
                "Kafka authorises the bridge to read its checkpoints now; recognising redeliveries"
            );
        }
        // Messages arrived meanwhile that the checkpoint does not include.
        let checkpoint = checkpoint.filter(|_| !is_late);
        let since = checkpoint.as_ref().map_or(0, |last| last.oldest_at);
        self.lookup.set_since(since);
        let mut numbering = Numbering::new(checkpoint, self.receive_maximum);
        if let Some((broker, resumed)) = self.pending_connection.take() {
            numbering.connected(&broker, resumed);
        }
        self.numbering = Some(numbering);
    }

    /// A connection is up; `resumed`: the broker kept the session.
    pub(crate) fn connected(&mut self, broker: &Arc<str>, resumed: bool) {
        self.packet_ids.connected(broker, resumed);
        match &mut self.numbering {
            Some(numbering) => numbering.connected(broker, resumed),
            None => self.pending_connection = Some((broker.clone(), resumed)),
        }
    }

    /// The connection is lost, after it has written `written` bytes.
    pub(crate) fn disconnected(&mut self, written: u64) {
        self.packet_ids.disconnected(written);
    }

    /// Decides what a PUBLISH with a packet identifier is. `hash` is its
    /// [`content_hash`]; everything before `unacknowledged` has left the ring.
    pub(crate) fn classify(
        &mut self,
        (packet_id, dup, qos): (u16, bool, QoS),
        hash: u128,
        unacknowledged: Seq,
    ) -> Received {
        if let Some(kind) = self.packet_ids.find(packet_id, dup, qos, hash) {
            if let Some(numbering) = &mut self.numbering {
                numbering.repeated(packet_id, hash);
            }
            return Received {
                kind,
                id: None,
                checkpoint_due: false,
            };
        }
        match &mut self.numbering {
            Some(numbering) => numbering.receive(packet_id, dup, hash, unacknowledged),
            None => Received {
                kind: Kind::New,
                id: None,
                checkpoint_due: false,
            },
        }
    }

    /// The message classified last, which is no redelivery, is in the ring as `seq`; `numbered`:
    /// it has an id.
    pub(crate) fn pushed(&mut self, packet_id: u16, hash: u128, seq: Seq, numbered: bool) {
        self.packet_ids.used(packet_id, hash, seq);
        if numbered && let Some(numbering) = &mut self.numbering {
            numbering.pushed(hash, seq);
        }
    }

    /// The message classified last is a redelivery, and is in the ring as `seq`.
    pub(crate) fn redelivered(&mut self, packet_id: u16, hash: u128, seq: Seq) {
        self.packet_ids.used(packet_id, hash, seq);
    }

    /// Whether the message `seq` of the ring may be acknowledged: the broker has not given its
    /// identifier to another message.
    pub(crate) fn may_acknowledge(&self, packet_id: u16, seq: Seq) -> bool {
        self.packet_ids.is_current(packet_id, seq)
    }

    /// The acknowledgement of a message is queued; it ends at this byte of the connection.
    pub(crate) fn acknowledged(&mut self, packet_id: u16, qos: QoS, end: u64) {
        self.packet_ids.acknowledged(packet_id, qos, end);
    }

    /// The connection has written its first `written` bytes.
    pub(crate) fn written(&mut self, written: u64) {
        self.packet_ids.written(written);
    }

    /// The broker has released the identifier of a message of QoS 2.
    pub(crate) fn released(&mut self, packet_id: u16) {
        self.packet_ids.released(packet_id);
    }

    /// The checkpoint that precedes the message classified last. `first` is the
    /// first message in the ring, which arrived at `received_at` (milliseconds
    /// since the Unix epoch).
    pub(crate) fn checkpoint(
        &self,
        packet_id: u16,
        first: Seq,
        received_at: i64,
    ) -> Option<Checkpoint> {
        let oldest_at = self.lookup.oldest_at(first, received_at);
        let numbering = self.numbering.as_ref()?;
        Some(numbering.checkpoint(packet_id, oldest_at))
    }

    /// Kafka confirmed a checkpoint.
    pub(crate) fn checkpoint_confirmed(&mut self) {
        self.has_checkpoint = true;
        if std::mem::take(&mut self.checkpoints_refused) {
            tracing::info!(
                topic = BRIDGE_SESSIONS_TOPIC,
                "checkpoints are written again"
            );
        }
    }

    /// Kafka refuses a checkpoint.
    pub(crate) fn checkpoint_refused(&mut self, refusal: Refusal) -> RefusedCheckpoint {
        if self.has_checkpoint {
            return RefusedCheckpoint::Retry;
        }
        if !std::mem::replace(&mut self.checkpoints_refused, true) {
            tracing::warn!(
                topic = BRIDGE_SESSIONS_TOPIC,
                reason = refusal.as_str(),
                "cannot write checkpoints yet; until one is written, redeliveries after a crash will be duplicates"
            );
        }
        RefusedCheckpoint::Skip
    }

    /// Once a second: makes a checkpoint due from time to time, so that a
    /// restart has little to read.
    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(CHECKPOINT_TICKS)
            && let Some(numbering) = &mut self.numbering
        {
            numbering.request_checkpoint();
        }
    }

    /// The message `seq` in the ring is [`Kind::MaybeWritten`].
    pub(crate) fn lookup_needed_by(&mut self, seq: Seq) {
        self.lookup.needed_by(seq);
    }

    /// Looks up what an earlier process wrote to a topic; [`Event::LogRead`] has
    /// the result.
    pub(crate) fn look_up(&mut self, topic: Arc<str>) {
        if let Some(numbering) = &self.numbering {
            self.lookup.request(topic, numbering.epoch());
        }
    }

    /// Takes [`Event::LogRead`].
    pub(crate) fn log_read(&mut self, written: Written) {
        let epoch = self.numbering.as_ref().map(Numbering::epoch);
        self.lookup.finished(written, epoch);
    }

    /// Whether an earlier process wrote the message, as far as lookups found
    /// out. True only once for each message.
    pub(crate) fn take_written(&mut self, id: &ReceiveId) -> bool {
        self.lookup.take_written(id)
    }

    /// Frees the results of lookups, unless a redelivery that needs one may still arrive. Call it
    /// with an empty ring.
    pub(crate) fn clear_lookups(&mut self) {
        if !self.numbering.as_ref().is_some_and(Numbering::is_restored) {
            self.lookup.clear();
        }
    }
}
