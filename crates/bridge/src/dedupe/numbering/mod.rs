//! Receive numbers: which message of a session a PUBLISH is.
//!
//! MQTT identifies a message only by its packet identifier, and the broker
//! reuses that after at most 65,535 messages. The bridge therefore numbers the
//! messages that it receives in a session. From a broker that assigns packet
//! identifiers sequentially, an identifier stands for exactly one number within
//! any 65,535 consecutive messages, so a redelivery gets the number that the
//! message had before.
//!
//! Other brokers reuse an identifier as soon as it is acknowledged: those that
//! take the lowest free one, or the index of a slot in their send window. At
//! these an acknowledged message and a new one look the same. A broker counts as
//! sequential only after its identifiers have gone further than its send window
//! (see [`Numbering::new`]).
//!
//! In doubt a message is new: a duplicate can be recognised later, a message
//! that was acknowledged and not written is lost.

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
/// checkpoint: nothing after the checkpoint that follows was acknowledged.
const MAX_AHEAD: u64 = CHECKPOINT_EVERY;
/// How far it can be behind: the ring holds no more.
const MAX_BEHIND: u64 = MAX_IN_FLIGHT as u64;
// Otherwise an identifier could stand for two numbers.
const _: () = assert!(MAX_AHEAD + MAX_BEHIND < PACKET_IDS - 1);
/// A broker whose identifiers are out of sequence more often than this is not
/// sequential.
const MAX_RESTARTS: u32 = 3;
/// A numbering of this length clears the count of restarts.
const RESTARTS_FORGIVEN_AFTER: u64 = 1_000;

/// What the numbering says about a PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) kind: Kind,
    /// `None` if the message can't be told apart from others.
    pub(crate) id: Option<ReceiveId>,
    /// A checkpoint must be written before the message.
    pub(crate) checkpoint_due: bool,
}

/// Whether the message of a PUBLISH was received before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not as far as is known.
    New,
    /// It is a redelivery. This process put the message into the ring under this
    /// number; it may have left the ring since.
    Redelivery(Seq),
    /// An earlier process may have written it: Kafka's log has to be read.
    MaybeWritten,
}

/// Numbers the messages of one MQTT session that have a packet identifier.
#[derive(Debug)]
pub(crate) struct Numbering {
    broker: String,
    /// Random for each numbering; 0 if the broker is not sequential.
    id: u64,
    next: Next,
    /// Hash and place in the ring of the last messages, oldest first. The last
    /// one is the message before `next`.
    recent: VecDeque<(u128, Seq)>,
    /// The broker assigns identifiers sequentially, as far as is known.
    sequential: bool,
    /// The receive number that proves `sequential`.
    proof_at: u64,
    /// Every PUBLISH of this connection so far was marked DUP.
    redelivering: bool,
    /// Number of the last redelivery: they arrive in their original order.
    last_redelivery: u64,
    /// The numbering comes from a checkpoint, and no new message has arrived
    /// since the restart.
    restored: bool,
    /// Receive number that the next checkpoint precedes.
    next_checkpoint: u64,
    /// How often identifiers were out of sequence.
    restarts: u32,
}

/// What is known of the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It is number 1, whatever its identifier.
    First,
    /// Its number is near this one: the numbering comes from a checkpoint.
    Near { number: u64, packet_id: u16 },
    /// It is this number, and its identifier must be this one.
    Exactly { number: u64, packet_id: u16 },
}

impl Numbering {
    /// Continues at `checkpoint`, provided that the broker still has that
    /// session. `receive_maximum` is the broker's send window: identifiers that
    /// have gone further are not slots in it.
    pub(crate) fn new(checkpoint: Option<Checkpoint>, receive_maximum: u16) -> Self {
        let mut numbering = Self {
            broker: String::new(),
            id: 0,
            next: Next::First,
            recent: VecDeque::new(),
            sequential: false,
            proof_at: u64::from(receive_maximum) + 1,
            redelivering: false,
            last_redelivery: 0,
            restored: false,
            next_checkpoint: 0,
            restarts: 0,
        };
        // Other checkpoints can't identify a redelivery.
        let usable = |checkpoint: &Checkpoint| checkpoint.numbering != 0 && checkpoint.sequential;
        if let Some(checkpoint) = checkpoint.filter(usable) {
            numbering.broker = checkpoint.broker;
            numbering.id = checkpoint.numbering;
            numbering.sequential = true;
            numbering.next = Next::Near {
                number: checkpoint.next_number,
                packet_id: checkpoint.next_packet_id,
            };
            numbering.restored = true;
        }
        numbering
    }

    /// The current numbering; 0 if there is none.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// A connection is up; `resumed`: the broker kept the session.
    pub(crate) fn connected(&mut self, broker: &str, resumed: bool) {
        let same_broker = self.broker == broker;
        self.last_redelivery = 0;
        self.redelivering = resumed && same_broker;
        if !self.redelivering {
            self.restarts = 0;
            self.sequential &= same_broker;
            self.start();
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
            if matches!(self.next, Next::Near { .. }) {
                // There were no redeliveries: the earlier numbering is not needed.
                self.start();
            }
            self.redelivering = false;
            self.restored = false;
        }
        if self.redelivering
            && let Some((number, seq)) = self.find_recent(packet_id, hash)
        {
            if seq >= unacknowledged || self.sequential {
                self.last_redelivery = number;
                return Received {
                    kind: Kind::Redelivery(seq),
                    id: Some(self.receive_id(number, packet_id, hash)),
                    checkpoint_due: false,
                };
            }
            // The broker may have reused the identifier for another message.
            return Received {
                kind: Kind::New,
                id: None,
                checkpoint_due: false,
            };
        }
        let number = self.number_of(packet_id);
        self.last_redelivery = number;
        if number >= self.proof_at && !self.sequential {
            self.sequential = true;
            // A restart needs to know it.
            self.next_checkpoint = 0;
        }
        let checkpoint_due = number >= self.next_checkpoint;
        if checkpoint_due {
            self.next_checkpoint = number + CHECKPOINT_EVERY;
        }
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
            id: (self.id != 0).then(|| self.receive_id(number, packet_id, hash)),
            checkpoint_due,
        }
    }

    /// The message received last is in the ring as `seq`. To be called after
    /// every [`Self::receive`] that returned an id and no redelivery.
    pub(crate) fn pushed(&mut self, hash: u128, seq: Seq) {
        if self.recent.len() == MAX_IN_FLIGHT {
            self.recent.pop_front();
        }
        self.recent.push_back((hash, seq));
    }

    /// Makes a checkpoint due before the next message.
    pub(crate) fn request_checkpoint(&mut self) {
        if self.id != 0 {
            self.next_checkpoint = 0;
        }
    }

    /// The checkpoint that precedes the message received last. `oldest_at`: see
    /// [`Checkpoint::oldest_at`].
    pub(crate) fn checkpoint(&self, packet_id: u16, oldest_at: i64) -> Checkpoint {
        let next_number = match self.next {
            Next::Exactly { number, .. } => number - 1,
            Next::Near { .. } | Next::First => 0,
        };
        Checkpoint {
            broker: self.broker.clone(),
            numbering: self.id,
            next_number,
            next_packet_id: packet_id,
            sequential: self.sequential,
            oldest_at,
        }
    }

    /// Number and place in the ring of a recent message, if a redelivery has
    /// these.
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
        (*recent_hash == hash && number > self.last_redelivery).then_some((number, *seq))
    }

    /// The number of a message that this process has not received before.
    fn number_of(&mut self, packet_id: u16) -> u64 {
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
        self.restart();
        1
    }

    /// The identifier was out of sequence: earlier numbers are meaningless.
    fn restart(&mut self) {
        self.sequential = false;
        if let Next::Exactly { number, .. } = self.next {
            // It looked sequential up to here, so only more proves that it is.
            self.proof_at = self.proof_at.max(number).min(PACKET_IDS);
            if number > RESTARTS_FORGIVEN_AFTER {
                self.restarts = 0;
            }
        }
        self.restarts += 1;
        if self.id == 0 {
            return;
        }
        self.start();
        if self.restarts > MAX_RESTARTS {
            tracing::warn!(
                broker = self.broker,
                "the broker's packet identifiers are not sequential; its redeliveries after a crash will be duplicates"
            );
            self.id = 0;
        }
    }

    /// Starts a new numbering.
    fn start(&mut self) {
        // Zero stands for none.
        self.id = rand::random::<u64>().max(1);
        self.next = Next::First;
        self.recent.clear();
        self.redelivering = false;
        self.restored = false;
        self.next_checkpoint = 0;
    }

    fn receive_id(&self, number: u64, packet_id: u16, hash: u128) -> ReceiveId {
        ReceiveId {
            numbering: self.id,
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
