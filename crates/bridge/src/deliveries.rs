//! Which publishes of the MQTT broker are known already: what it delivers
//! again, after a reconnect or after a crash of the bridge, is not written to
//! Kafka twice.
//!
//! MQTT gives a delivery no name, only a packet identifier, which comes round
//! after 65,535 messages. So the bridge numbers what it receives in a session,
//! and places a delivery that comes again by counting identifiers: within less
//! than one round an identifier and a number mean the same. Each record carries
//! number, identifier and hash as its [`Fingerprint`]; every few thousand
//! messages a [`Checkpoint`] of the numbering goes to Kafka, in the ring like a
//! message, so that nothing after it is acknowledged before it is confirmed.
//! After a crash the last checkpoint is therefore less than a round away.
//!
//! All that rests on a broker that counts its identifiers up. One that takes the
//! lowest free one, or as many as it may have on their way, uses an identifier
//! again as soon as it is acknowledged. So what was acknowledged is recognised
//! only at a broker that has counted further than its window: see
//! [`Deliveries::new`].
//!
//! In doubt a message counts as new: it may come twice, and is never lost.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::ring::Seq;

/// Packet identifiers are 1 to 65,535 (MQTT 5, section 2.2.1).
const ROUND: u64 = 65_535;
/// The most that a ring may hold: so far behind a confirmed checkpoint the
/// first delivery after a crash can be.
pub(crate) const MAX_IN_FLIGHT: usize = 32_768;
/// After how many messages the next checkpoint follows.
const CHECKPOINT_EVERY: u64 = 8_192;
/// How far ahead of a checkpoint the first delivery after a crash can be:
/// nothing behind the next checkpoint was acknowledged.
const MAX_AHEAD: u64 = CHECKPOINT_EVERY;
const _: () = assert!(MAX_AHEAD + (MAX_IN_FLIGHT as u64) < ROUND - 1);
/// A broker whose identifiers break off so often does not count them up.
const MAX_BREAKS: u32 = 3;
/// A numbering that held for so long forgives earlier breaks.
const FORGIVE_AFTER: u64 = 1_000;

/// Names one delivery: the header `mqtt-delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Numbering that the number belongs to.
    pub(crate) session: u64,
    /// Counts the messages with an identifier in the session, from 1.
    pub(crate) number: u64,
    pub(crate) packet_id: u16,
    pub(crate) hash: u128,
}

impl Fingerprint {
    /// Session, number, packet identifier and hash, big endian.
    pub(crate) fn to_bytes(self) -> [u8; 34] {
        let mut bytes = [0; 34];
        bytes[..8].copy_from_slice(&self.session.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_be_bytes());
        bytes[16..18].copy_from_slice(&self.packet_id.to_be_bytes());
        bytes[18..].copy_from_slice(&self.hash.to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 34] = bytes.try_into().ok()?;
        Some(Self {
            session: u64::from_be_bytes(bytes[..8].try_into().ok()?),
            number: u64::from_be_bytes(bytes[8..16].try_into().ok()?),
            packet_id: u16::from_be_bytes(bytes[16..18].try_into().ok()?),
            hash: u128::from_be_bytes(bytes[18..].try_into().ok()?),
        })
    }
}

/// What two deliveries of the same message have in common.
pub(crate) fn hash(topic: &[u8], payload: &[u8]) -> u128 {
    // Not one after the other: the border between them would be lost.
    let seed = XxHash3_128::oneshot(topic) as u64;
    XxHash3_128::oneshot_with_seed(seed, payload)
}

/// Where the numbering stood: the value of a record of the checkpoint topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The broker that has the session.
    pub(crate) broker: String,
    /// Numbering; 0 when identifiers tell nothing.
    pub(crate) session: u64,
    /// The next message ..
    pub(crate) number: u64,
    /// .. and its identifier.
    pub(crate) packet_id: u16,
    /// Whether the broker is known to count identifiers up.
    #[serde(default)]
    pub(crate) counts_up: bool,
    /// When the oldest message that was not acknowledged came, milliseconds
    /// since the epoch: records of unacknowledged messages are not older.
    pub(crate) oldest_at: i64,
}

/// What a delivery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// None when it can't be told from other deliveries.
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) known: Known,
    /// A checkpoint has to go before it.
    pub(crate) checkpoint: bool,
}

/// What is known of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing: it is new.
    No,
    /// It was pushed to the ring as this.
    Pushed(Seq),
    /// An earlier process may have written it: the log tells.
    AskLog,
}

/// The deliveries of one session, in their order.
#[derive(Debug)]
pub(crate) struct Deliveries {
    broker: String,
    /// 0 when the broker's identifiers tell nothing.
    session: u64,
    position: Position,
    /// The last ones, newest last: up to the one before `position`.
    recent: VecDeque<(u128, Seq)>,
    /// The broker counts identifiers up, as far as can be seen ..
    counts_up: bool,
    /// .. which a numbering of this length shows.
    proof: u64,
    /// Everything on this connection so far was marked as delivered again.
    redelivering: bool,
    /// The number of the last one that was: they come in their order.
    last_again: u64,
    /// Nothing new has come since an earlier process ended.
    inherited: bool,
    next_checkpoint: u64,
    breaks: u32,
}

/// What is known of the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// The next one is number 1, whatever its identifier.
    Start,
    /// It is near this number and identifier.
    Near { number: u64, packet_id: u16 },
    /// It is this number, and must have this identifier.
    At { number: u64, packet_id: u16 },
}

impl Deliveries {
    /// Continues where `checkpoint` says that an earlier process was, if the
    /// broker turns out to have kept that session. `window`: how many messages
    /// the broker may have on their way; identifiers that have counted further
    /// are no places in it.
    pub(crate) fn new(checkpoint: Option<Checkpoint>, window: u16) -> Self {
        let mut deliveries = Self {
            broker: String::new(),
            session: 0,
            position: Position::Start,
            recent: VecDeque::new(),
            counts_up: false,
            proof: u64::from(window) + 1,
            redelivering: false,
            last_again: 0,
            inherited: false,
            next_checkpoint: 0,
            breaks: 0,
        };
        // Nothing can be recognised by a numbering that shows nothing.
        let usable = |checkpoint: &Checkpoint| checkpoint.session != 0 && checkpoint.counts_up;
        if let Some(checkpoint) = checkpoint.filter(usable) {
            let Checkpoint {
                number, packet_id, ..
            } = checkpoint;
            deliveries.broker = checkpoint.broker;
            deliveries.session = checkpoint.session;
            deliveries.counts_up = true;
            deliveries.position = Position::Near { number, packet_id };
            deliveries.inherited = true;
        }
        deliveries
    }

    /// The numbering, if there is one.
    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// A connection begins; `resumed`: the broker kept the session.
    pub(crate) fn connected(&mut self, broker: &str, resumed: bool) {
        let same = self.broker == broker;
        self.last_again = 0;
        self.redelivering = resumed && same;
        if !self.redelivering {
            self.breaks = 0;
            self.counts_up &= same;
            self.begin();
            broker.clone_into(&mut self.broker);
        }
    }

    /// A message with an identifier arrives. What was pushed before
    /// `unacknowledged` has been acknowledged.
    pub(crate) fn receive(
        &mut self,
        packet_id: u16,
        dup: bool,
        hash: u128,
        unacknowledged: Seq,
    ) -> Receipt {
        if !dup {
            if matches!(self.position, Position::Near { .. }) {
                // Nothing was left unacknowledged: no need for the old numbering.
                self.begin();
            }
            self.redelivering = false;
            self.inherited = false;
        }
        if self.redelivering
            && let Some((number, seq)) = self.find(packet_id, hash)
        {
            if seq >= unacknowledged || self.counts_up {
                self.last_again = number;
                return Receipt {
                    fingerprint: Some(self.fingerprint(number, packet_id, hash)),
                    known: Known::Pushed(seq),
                    checkpoint: false,
                };
            }
            // The identifier was free: perhaps it is another message.
            return Receipt {
                fingerprint: None,
                known: Known::No,
                checkpoint: false,
            };
        }
        let number = self.place(packet_id);
        self.last_again = number;
        if number >= self.proof && !self.counts_up {
            self.counts_up = true;
            // So that a start knows it too.
            self.next_checkpoint = 0;
        }
        let checkpoint = number >= self.next_checkpoint;
        if checkpoint {
            self.next_checkpoint = number + CHECKPOINT_EVERY;
        }
        self.position = Position::At {
            number: number + 1,
            packet_id: following(packet_id),
        };
        let numbered = self.session != 0;
        Receipt {
            fingerprint: numbered.then(|| self.fingerprint(number, packet_id, hash)),
            known: match dup && self.redelivering && self.inherited && self.counts_up {
                true => Known::AskLog,
                false => Known::No,
            },
            checkpoint,
        }
    }

    /// The message of the last receipt, which has a fingerprint and was not
    /// known, is in the ring.
    pub(crate) fn pushed(&mut self, hash: u128, seq: Seq) {
        if self.recent.len() == MAX_IN_FLIGHT {
            self.recent.pop_front();
        }
        self.recent.push_back((hash, seq));
    }

    /// The next message is to be preceded by a checkpoint.
    pub(crate) fn want_checkpoint(&mut self) {
        if self.session != 0 {
            self.next_checkpoint = 0;
        }
    }

    /// What the checkpoint before the message just received says.
    pub(crate) fn checkpoint(&self, packet_id: u16) -> Checkpoint {
        let number = match self.position {
            Position::At { number, .. } => number - 1,
            Position::Near { .. } | Position::Start => 0,
        };
        Checkpoint {
            broker: self.broker.clone(),
            session: self.session,
            number,
            packet_id,
            counts_up: self.counts_up,
            oldest_at: 0,
        }
    }

    /// A message that came before, with its number.
    fn find(&self, packet_id: u16, hash: u128) -> Option<(u64, Seq)> {
        let Position::At {
            number,
            packet_id: next,
        } = self.position
        else {
            return None;
        };
        let behind = forward(packet_id, next);
        let index = self.recent.len().checked_sub(behind as usize)?;
        let (known, seq) = self.recent.get(index)?;
        let number = number - behind;
        (*known == hash && number > self.last_again).then_some((number, *seq))
    }

    /// The number of a message that did not come before.
    fn place(&mut self, packet_id: u16) -> u64 {
        match self.position {
            Position::Start => return 1,
            Position::At {
                number,
                packet_id: expected,
            } if expected == packet_id => return number,
            Position::Near {
                number,
                packet_id: near,
            } => {
                let (ahead, behind) = (forward(near, packet_id), forward(packet_id, near));
                if ahead <= MAX_AHEAD {
                    return number + ahead;
                }
                if behind <= MAX_IN_FLIGHT as u64 && behind < number {
                    return number - behind;
                }
            }
            Position::At { .. } => {}
        }
        self.break_off();
        1
    }

    /// Identifiers did not count up: what they meant so far is over.
    fn break_off(&mut self) {
        self.counts_up = false;
        if let Position::At { number, .. } = self.position {
            // So far it counted before: only further shows that it counts up.
            self.proof = self.proof.max(number).min(ROUND);
            if number > FORGIVE_AFTER {
                self.breaks = 0;
            }
        }
        self.breaks += 1;
        if self.session == 0 {
            return;
        }
        if self.breaks > MAX_BREAKS {
            tracing::warn!(
                broker = self.broker,
                "packet identifiers don't count up: what this broker delivers again after a crash is written again"
            );
            self.begin();
            self.session = 0;
        } else {
            self.begin();
        }
    }

    /// A new numbering.
    fn begin(&mut self) {
        // Zero has a meaning of its own.
        self.session = rand::random::<u64>().max(1);
        self.position = Position::Start;
        self.recent.clear();
        self.redelivering = false;
        self.inherited = false;
        self.next_checkpoint = 0;
    }

    fn fingerprint(&self, number: u64, packet_id: u16, hash: u128) -> Fingerprint {
        Fingerprint {
            session: self.session,
            number,
            packet_id,
            hash,
        }
    }
}

/// How many steps it is from one identifier to another, counting up.
fn forward(from: u16, to: u16) -> u64 {
    (u64::from(to) + ROUND - u64::from(from)) % ROUND
}

/// The identifier that a broker which counts up uses next.
fn following(packet_id: u16) -> u16 {
    packet_id.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
#[path = "deliveries_tests.rs"]
mod tests;
