//! Receive numbers: which message of a session a PUBLISH is.
//!
//! MQTT identifies a message only by its packet identifier, and the broker
//! reuses that after at most 65,535 messages. The bridge therefore numbers the
//! messages that it receives in a session. From a broker that assigns packet
//! identifiers sequentially, an identifier stands for exactly one number within
//! any 65,535 consecutive messages, so a redelivery gets the number that the
//! message had before. One run of numbers is an *epoch*. A new session, another
//! broker or an identifier out of sequence starts a new epoch.
//!
//! Other brokers reuse an identifier as soon as it is acknowledged: they take the
//! lowest free one, or the index of a slot in their send window. With these, an
//! acknowledged message and a new one look the same. A broker counts as
//! sequential only after it has counted past its send window (slot indexes never
//! exceed it).
//!
//! If in doubt, the message counts as new: consumers can drop a duplicate, but a
//! message acknowledged without being written is lost.

use std::collections::VecDeque;

use super::checkpoint::Checkpoint;
use super::receive_id::ReceiveId;
use crate::config::MAX_IN_FLIGHT;
use crate::ring::Seq;

/// Packet identifiers are 1 to 65,535 (MQTT 5, section 2.2.1).
const PACKET_IDS: u64 = 65_535;
/// How many messages lie between two checkpoints.
const CHECKPOINT_EVERY: u64 = 8_192;
/// How far the first redelivery after a crash can be ahead of the last confirmed
/// checkpoint. Messages past the next checkpoint are not acknowledged until it is
/// confirmed.
const MAX_AHEAD: u64 = CHECKPOINT_EVERY;
/// How far it can be behind. At most the ring's capacity is unacknowledged.
const MAX_BEHIND: u64 = MAX_IN_FLIGHT as u64;
// Both ranges must fit into one cycle of identifiers, or an identifier would
// match two numbers.
const _: () = assert!(MAX_AHEAD + MAX_BEHIND < PACKET_IDS - 1);
/// Numbering is off after more breaks of the sequence than this.
const MAX_BREAKS: u32 = 3;
/// An epoch with more messages than this clears the count of breaks.
const BREAKS_FORGIVEN_AFTER: u64 = 1_000;

/// What the numbering says about a PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) kind: Kind,
    /// `None` if numbering is off, or if the identifier may have been reused.
    pub(crate) id: Option<ReceiveId>,
    /// A checkpoint must be written before the message.
    pub(crate) checkpoint_due: bool,
}

/// Whether the message of a PUBLISH was received before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not received before, as far as is known.
    New,
    /// It is a redelivery. This process put the message into the ring under this
    /// sequence number; it may have left the ring since.
    Redelivery(Seq),
    /// It is a redelivery of a message whose acknowledgement is about to be written.
    Acknowledged,
    /// An earlier process may have written it: Kafka's log has to be read.
    MaybeWritten,
}

/// Numbers the messages of one MQTT session that have a packet identifier.
#[derive(Debug)]
pub(crate) struct Numbering {
    broker: String,
    /// Random for each epoch. 0 before the first connection, and after too many
    /// out-of-sequence identifiers (numbering is off).
    epoch: u64,
    next: Next,
    /// Hash and ring sequence number of the last messages, oldest first. The last
    /// one is the message before `next`.
    recent: VecDeque<(u128, Seq)>,
    /// The broker has shown that it assigns identifiers sequentially.
    sequential: bool,
    /// The receive number that proves `sequential`.
    proof_at: u64,
    /// The session was resumed and only redeliveries have arrived so far.
    redelivering: bool,
    /// Number of the last message on this connection; redeliveries must have
    /// higher ones.
    last_number: u64,
    /// The epoch comes from a checkpoint, and only redeliveries have arrived since
    /// this process started.
    restored: bool,
    /// Receive number of the message that the next checkpoint precedes.
    next_checkpoint: u64,
    /// How often identifiers were out of sequence; a long epoch clears it.
    breaks: u32,
}

/// What is known of the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It is number 1, whatever its identifier.
    First,
    /// Its number is near this one: the epoch comes from a checkpoint.
    Near { number: u64, packet_id: u16 },
    /// It is this number, and its identifier must be this one.
    Exactly { number: u64, packet_id: u16 },
}

impl Numbering {
    /// Continues at `checkpoint`, provided that the broker still has that
    /// session. `receive_maximum` is the broker's send window.
    pub(crate) fn new(checkpoint: Option<Checkpoint>, receive_maximum: u16) -> Self {
        let mut numbering = Self {
            broker: String::new(),
            epoch: 0,
            next: Next::First,
            recent: VecDeque::new(),
            sequential: false,
            proof_at: u64::from(receive_maximum) + 1,
            redelivering: false,
            last_number: 0,
            restored: false,
            next_checkpoint: 0,
            breaks: 0,
        };
        // Other checkpoints can't identify a redelivery.
        let usable = |checkpoint: &Checkpoint| checkpoint.epoch != 0 && checkpoint.sequential;
        if let Some(checkpoint) = checkpoint.filter(usable) {
            numbering.broker = checkpoint.broker;
            numbering.epoch = checkpoint.epoch;
            numbering.sequential = true;
            numbering.next = Next::Near {
                number: checkpoint.next_number,
                packet_id: checkpoint.next_packet_id,
            };
            numbering.restored = true;
        }
        numbering
    }

    /// The id of the current epoch. 0 before the first connection, and after too
    /// many out-of-sequence identifiers (numbering is off).
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether only redeliveries have arrived since this process started: the next message may be
    /// one that an earlier process wrote.
    pub(crate) fn is_restored(&self) -> bool {
        self.restored
    }

    /// Call when a connection is up; `resumed` means that the broker kept the
    /// session.
    pub(crate) fn connected(&mut self, broker: &str, resumed: bool) {
        let same_broker = self.broker == broker;
        self.last_number = 0;
        self.redelivering = resumed && same_broker;
        if !self.redelivering {
            self.breaks = 0;
            self.sequential &= same_broker;
            self.start_epoch();
            broker.clone_into(&mut self.broker);
        }
    }

    /// Numbers a PUBLISH with a packet identifier. Everything before
    /// `unacknowledged` has left the ring.
    pub(crate) fn receive(
        &mut self,
        packet_id: u16,
        dup: bool,
        hash: u128,
        unacknowledged: Seq,
    ) -> Received {
        if !dup {
            self.note_first_new();
        }
        if let Some(received) = self.recognise_redelivery(packet_id, hash, unacknowledged) {
            return received;
        }
        let number = self.assign_number(packet_id);
        self.last_number = number;
        self.note_proof(number);
        let checkpoint_due = self.schedule_checkpoint(number);
        self.next = Next::Exactly {
            number: number + 1,
            packet_id: following(packet_id),
        };
        let maybe_written = dup && self.redelivering && self.restored && self.sequential;
        Received {
            kind: if maybe_written {
                Kind::MaybeWritten
            } else {
                Kind::New
            },
            id: (self.epoch != 0).then(|| self.receive_id(number, packet_id, hash)),
            checkpoint_due,
        }
    }

    /// The first new message after a connection ends its redeliveries; further
    /// ones change nothing.
    fn note_first_new(&mut self) {
        if matches!(self.next, Next::Near { .. }) {
            // There were no redeliveries: the earlier epoch is not needed.
            self.start_epoch();
        }
        self.redelivering = false;
        self.restored = false;
    }

    /// A PUBLISH repeats an unacknowledged message: redeliveries after it have higher numbers.
    pub(crate) fn repeated(&mut self, packet_id: u16, hash: u128) {
        if self.redelivering
            && let Some((number, _)) = self.find_recent(packet_id, hash)
        {
            self.last_number = number;
        }
    }

    /// What a PUBLISH is that repeats a message which this process has received;
    /// `None` if it repeats none.
    fn recognise_redelivery(
        &mut self,
        packet_id: u16,
        hash: u128,
        unacknowledged: Seq,
    ) -> Option<Received> {
        if !self.redelivering {
            return None;
        }
        let (number, seq) = self.find_recent(packet_id, hash)?;
        if seq < unacknowledged && !self.sequential {
            // The broker may have reused the identifier for another message.
            return Some(Received {
                kind: Kind::New,
                id: None,
                checkpoint_due: false,
            });
        }
        self.last_number = number;
        Some(Received {
            kind: Kind::Redelivery(seq),
            id: Some(self.receive_id(number, packet_id, hash)),
            checkpoint_due: false,
        })
    }

    /// Recognises a sequential broker by the number that it has reached.
    fn note_proof(&mut self, number: u64) {
        if number >= self.proof_at && !self.sequential {
            self.sequential = true;
            // After a restart only a checkpoint can say so.
            self.next_checkpoint = 0;
        }
    }

    /// Whether a checkpoint must precede message `number`. If so, the next one is
    /// due [`CHECKPOINT_EVERY`] messages later.
    fn schedule_checkpoint(&mut self, number: u64) -> bool {
        let due = number >= self.next_checkpoint;
        if due {
            self.next_checkpoint = number + CHECKPOINT_EVERY;
        }
        due
    }

    /// The message received last is in the ring as `seq`. Call after each
    /// [`Self::receive`] that returned an id and not [`Kind::Redelivery`].
    pub(crate) fn pushed(&mut self, hash: u128, seq: Seq) {
        if self.recent.len() == MAX_IN_FLIGHT {
            self.recent.pop_front();
        }
        self.recent.push_back((hash, seq));
    }

    /// Makes a checkpoint due before the next message.
    pub(crate) fn request_checkpoint(&mut self) {
        if self.epoch != 0 {
            self.next_checkpoint = 0;
        }
    }

    /// The checkpoint that precedes the message received last. `oldest_at`: see
    /// [`Checkpoint::oldest_at`].
    pub(crate) fn checkpoint(&self, packet_id: u16, oldest_at: i64) -> Checkpoint {
        let next_number = match self.next {
            // `receive` has already advanced `next`.
            Next::Exactly { number, .. } => number - 1,
            Next::Near { .. } | Next::First => 0,
        };
        Checkpoint {
            broker: self.broker.clone(),
            epoch: self.epoch,
            next_number,
            next_packet_id: packet_id,
            sequential: self.sequential,
            oldest_at,
        }
    }

    /// The recent message that this redelivery repeats, if any: its receive number
    /// and its ring sequence number.
    fn find_recent(&self, packet_id: u16, hash: u128) -> Option<(u64, Seq)> {
        let Next::Exactly {
            number: next_number,
            packet_id: next_id,
        } = self.next
        else {
            return None;
        };
        let behind = distance(packet_id, next_id);
        let index = self.recent.len().checked_sub(behind as usize)?;
        let (recent_hash, seq) = self.recent.get(index)?;
        let number = next_number - behind;
        (*recent_hash == hash && number > self.last_number).then_some((number, *seq))
    }

    /// The number of a message that this process has not received before; starts
    /// again at 1 if the identifier is out of sequence.
    fn assign_number(&mut self, packet_id: u16) -> u64 {
        match self.next {
            Next::First => return 1,
            Next::Exactly {
                number,
                packet_id: expected,
            } if expected == packet_id => return number,
            Next::Near {
                number,
                packet_id: near,
            } => {
                let (ahead, behind) = (distance(near, packet_id), distance(packet_id, near));
                if ahead <= MAX_AHEAD {
                    return number + ahead;
                }
                if behind <= MAX_BEHIND && behind < number {
                    return number - behind;
                }
            }
            Next::Exactly { .. } => {}
        }
        self.sequence_broken();
        1
    }

    /// The identifier was out of sequence: earlier numbers are meaningless.
    fn sequence_broken(&mut self) {
        self.sequential = false;
        if let Next::Exactly { number, .. } = self.next {
            // It broke the sequence here, so proof now needs a longer run.
            self.proof_at = self.proof_at.max(number).min(PACKET_IDS);
            if number > BREAKS_FORGIVEN_AFTER {
                self.breaks = 0;
            }
        }
        self.breaks += 1;
        if self.epoch == 0 {
            // Numbering is already off.
            return;
        }
        self.start_epoch();
        if self.breaks > MAX_BREAKS {
            tracing::warn!(
                broker = self.broker,
                "the broker's packet identifiers are not sequential; its redeliveries after a crash will be duplicates"
            );
            self.epoch = 0;
        }
    }

    fn start_epoch(&mut self) {
        // 0 means that numbering is off.
        self.epoch = rand::random::<u64>().max(1);
        self.next = Next::First;
        self.recent.clear();
        self.redelivering = false;
        self.restored = false;
        self.next_checkpoint = 0;
    }

    fn receive_id(&self, number: u64, packet_id: u16, hash: u128) -> ReceiveId {
        ReceiveId {
            epoch: self.epoch,
            number,
            packet_id,
            hash,
        }
    }
}

/// How many steps of a sequential broker it is from one identifier to another.
fn distance(from: u16, to: u16) -> u64 {
    (u64::from(to) + PACKET_IDS - u64::from(from)) % PACKET_IDS
}

/// The identifier that a sequential broker assigns next.
fn following(packet_id: u16) -> u16 {
    packet_id.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests;
