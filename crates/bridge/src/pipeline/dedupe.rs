//! What the message flow does about duplicates.

use super::Pipeline;
use crate::dedupe::{Event, Kind};
use crate::message::{Message, Target};
use crate::ring::Seq;
use crate::topic_id::TopicId;

impl Pipeline {
    /// The message, unless it is a redelivery of one that this process has received.
    pub(super) fn unless_redelivered(
        &mut self,
        kind: Kind,
        hash: u128,
        message: Message,
    ) -> Option<Message> {
        match kind {
            Kind::New | Kind::MaybeWritten => return Some(message),
            Kind::Redelivery(seq) => self.redelivered(seq, hash, message),
            Kind::Acknowledged => {}
        }
        self.metrics.deduplicated.in_flight.inc();
        None
    }

    /// A redelivery of the message that was in the ring as `seq`: it is
    /// acknowledged once, on this connection.
    fn redelivered(&mut self, seq: Seq, hash: u128, message: Message) {
        let packet_id = message.packet_id;
        let seq = match self.ring.get_mut(seq) {
            Some(earlier) => {
                earlier.connection = message.connection;
                seq
            }
            None => self.acknowledge_only(message),
        };
        self.dedupe.redelivered(packet_id, hash, seq);
    }

    /// Queues the checkpoint that precedes the message received last.
    pub(super) fn queue_checkpoint(&mut self, packet_id: u16) -> anyhow::Result<()> {
        let oldest = self.ring.oldest().map(|oldest| oldest.received_at);
        let received_at = oldest.unwrap_or(self.now.millis);
        let checkpoint = self
            .dedupe
            .checkpoint(packet_id, self.ring.first(), received_at);
        if let Some(checkpoint) = checkpoint {
            let payload = serde_json::to_vec(&checkpoint)?;
            let (topic, key) = (self.checkpoints, self.client_id.clone());
            self.queue(Message::checkpoint(topic, key, payload, self.now.millis));
        }
        Ok(())
    }

    /// Whether an earlier message has the same id in its payload
    /// (`dedupe.field`). Messages that need a lookup are not compared: they may be redeliveries of
    /// the earlier message.
    pub(super) fn has_duplicate_id(&mut self, message: &Message) -> bool {
        let (Some(ids), Target::Topic { topic, .. }) = (&mut self.payload_ids, &message.target)
        else {
            return false;
        };
        let duplicate = !message.needs_lookup
            && ids.is_duplicate(topic.0 as u64, &message.payload, self.now.instant);
        if duplicate {
            self.metrics.deduplicated.message_id.inc();
        }
        duplicate
    }

    /// Puts a duplicate into the ring without writing it. It is acknowledged in order, after the
    /// earlier copy.
    pub(super) fn acknowledge_only(&mut self, mut message: Message) -> Seq {
        message.empty();
        let bytes = message.bytes();
        let seq = self.ring.push(message, bytes);
        self.ring.confirm(seq);
        seq
    }

    /// Lets a topic wait until Kafka's log shows whether an earlier process wrote
    /// the message `seq`.
    pub(super) fn look_up(&mut self, topic: TopicId, seq: Seq) {
        self.dedupe.lookup_needed_by(seq);
        if self.topics.start_lookup(topic) {
            self.dedupe.look_up(self.topics.name(topic).clone());
        }
    }

    /// Whether the lookup for the message `seq` found it in Kafka.
    pub(super) fn was_written(&mut self, seq: Seq) -> bool {
        let Some(message) = self.ring.unconfirmed(seq) else {
            return false;
        };
        if !std::mem::take(&mut message.needs_lookup) {
            return false;
        }
        let id = message.receive_id.as_ref();
        id.is_some_and(|id| self.dedupe.take_written(id))
    }

    pub(super) fn on_dedupe(&mut self, event: Event) {
        match event {
            Event::Restored(restored) => {
                self.dedupe.restored(restored);
                self.health.delivery.ready();
            }
            Event::LogRead { topics, written } => {
                self.dedupe.log_read(written);
                for topic in topics {
                    self.topics.lookup_done(&topic);
                }
            }
        }
    }
}
