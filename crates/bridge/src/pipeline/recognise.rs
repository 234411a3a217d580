//! What MQTT delivers again, and what Kafka has of it.

use super::Pipeline;
use crate::deliveries::{self, Checkpoint, Known};
use crate::message::{Message, Target};
use crate::redelivery::Answer;
use crate::ring::Seq;

impl Pipeline {
    /// Delivers what is new, and acknowledges what is not.
    pub(super) fn recognise(
        &mut self,
        mut message: Message,
        size: u64,
        dup: bool,
    ) -> anyhow::Result<()> {
        let hash = match &message.cut {
            Some(cut) => deliveries::hash(&message.topic, &cut.sha256),
            None => deliveries::hash(&message.topic, &message.payload),
        };
        let packet_id = message.packet_id;
        let mut checkpoint = None;
        if let Some(deliveries) = self.redelivery.deliveries() {
            let receipt = deliveries.receive(packet_id, dup, hash, self.ring.first());
            if let Known::Pushed(seq) = receipt.known {
                self.metrics.deduplicated.in_flight.inc();
                self.adopt(seq, message);
                return Ok(());
            }
            if receipt.checkpoint {
                checkpoint = Some(deliveries.checkpoint(packet_id));
            }
            message.fingerprint = receipt.fingerprint;
            message.asks_log = receipt.known == Known::AskLog;
        }
        if let Some(checkpoint) = checkpoint {
            self.note(checkpoint)?;
        }
        let numbered = message.fingerprint.is_some();
        self.route(&mut message, size);
        let known = !message.asks_log && self.is_named_like_an_earlier_one(&message);
        let seq = if known {
            self.metrics.deduplicated.message_id.inc();
            self.acknowledge_only(message)
        } else {
            self.queue(message)
        };
        if numbered && let Some(deliveries) = self.redelivery.deliveries() {
            deliveries.pushed(hash, seq);
        }
        Ok(())
    }

    /// Writes a checkpoint, before the message that is about to be pushed.
    fn note(&mut self, mut checkpoint: Checkpoint) -> anyhow::Result<()> {
        let oldest = self.ring.oldest().map(|oldest| oldest.received_at);
        let here = oldest.unwrap_or(self.now.millis);
        checkpoint.oldest_at = self.redelivery.oldest_at(self.ring.first(), here);
        let payload = serde_json::to_vec(&checkpoint)?;
        let (topic, key) = (self.checkpoints, self.client_id.clone());
        self.queue(Message::checkpoint(topic, key, payload, self.now.millis));
        Ok(())
    }

    fn is_named_like_an_earlier_one(&mut self, message: &Message) -> bool {
        match (&mut self.message_ids, &message.target) {
            (Some(ids), Target::Topic { topic, .. }) => {
                ids.is_known(*topic, &message.payload, self.now.instant)
            }
            _ => false,
        }
    }

    /// Takes a message that Kafka has already: it is acknowledged in its turn.
    fn acknowledge_only(&mut self, mut message: Message) -> Seq {
        message.empty();
        let bytes = message.bytes();
        let seq = self.ring.push(message, bytes);
        self.ring.confirm(seq);
        seq
    }

    /// A message came again: its acknowledgement goes to this connection.
    fn adopt(&mut self, seq: Seq, message: Message) {
        match self.ring.get_mut(seq) {
            Some(earlier) => earlier.connection = message.connection,
            None => drop(self.acknowledge_only(message)),
        }
    }

    pub(super) fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Checkpoint(restored) => {
                self.redelivery.restored(restored);
                self.health.delivery.ready();
            }
            Answer::Tail { topics, found } => {
                self.redelivery.read(found);
                for topic in topics {
                    self.topics.log_read(&topic);
                }
            }
        }
    }
}
