//! Which message a packet identifier stands for, while the broker can't use it for another one.
//!
//! A broker must not reuse an identifier before it has received the acknowledgement (MQTT 5,
//! section 2.2.1). Until the acknowledgement has left, a PUBLISH with the same identifier and
//! content and with DUP is therefore the message that was received before, on the same
//! connection too: some brokers send a message again that is not acknowledged in time. Each use
//! of an identifier is answered once, because a second answer could reach the broker when it has
//! given the identifier to another message, which would count as acknowledged without being
//! written.
//!
//! An acknowledgement that was written to the socket may have been lost with the connection.
//! Whether a redelivery after that is the same message, only the numbering can say.
//!
//! At QoS 2 the broker keeps the identifier until the exchange is complete, so it is remembered
//! from PUBREC to PUBREL (MQTT 5, section 4.3.3), across connections of one session.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use iot_mqtt::QoS;

use super::numbering::Kind;
use crate::ring::Seq;

/// The identifiers of one MQTT session that are in use.
#[derive(Debug, Default)]
pub(crate) struct PacketIds {
    /// The broker that has the session.
    broker: Option<Arc<str>>,
    /// Messages without an acknowledgement: in the ring, or confirmed after their connection was
    /// lost.
    unacknowledged: HashMap<u16, Use>,
    /// Acknowledgements that may not have been written yet, in order. Each has the connection's
    /// byte count at its end.
    leaving: VecDeque<(u64, u16, Use)>,
    /// Messages of QoS 2 between PUBREC and PUBREL.
    unreleased: HashMap<u16, Use>,
}

/// A message that an identifier stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    /// Hash of topic and payload.
    hash: u128,
    /// Its number in the ring; it may have left the ring since.
    seq: Seq,
}

impl PacketIds {
    /// A connection is up; `resumed`: the broker kept the session. The identifiers of another
    /// session, or of another broker's, mean nothing.
    pub(crate) fn connected(&mut self, broker: &Arc<str>, resumed: bool) {
        if !resumed || self.broker.as_ref() != Some(broker) {
            *self = Self {
                broker: Some(broker.clone()),
                ..Self::default()
            };
        }
    }

    /// The connection is lost, after `written` bytes: acknowledgements behind them never left.
    pub(crate) fn disconnected(&mut self, written: u64) {
        self.written(written);
        for (_, packet_id, used) in self.leaving.drain(..) {
            self.unacknowledged.entry(packet_id).or_insert(used);
        }
    }

    /// Whether a PUBLISH is [`Kind::Redelivery`] or [`Kind::Acknowledged`]; `None` if it is
    /// neither, as far as identifiers show.
    pub(crate) fn find(&self, packet_id: u16, dup: bool, qos: QoS, hash: u128) -> Option<Kind> {
        let same = |used: &&Use| used.hash == hash;
        if qos == QoS::ExactlyOnce {
            if let Some(used) = self.unreleased.get(&packet_id).filter(same) {
                return Some(Kind::Redelivery(used.seq));
            }
        } else if !dup {
            return None;
        }
        if let Some(used) = self.unacknowledged.get(&packet_id).filter(same) {
            return Some(Kind::Redelivery(used.seq));
        }
        let is_leaving = |(_, id, used): &&(u64, u16, Use)| *id == packet_id && used.hash == hash;
        let leaving = self.leaving.iter().find(is_leaving);
        leaving.map(|_| Kind::Acknowledged)
    }

    /// The identifier stands for the message `seq` in the ring from now on.
    pub(crate) fn used(&mut self, packet_id: u16, hash: u128, seq: Seq) {
        self.unreleased.remove(&packet_id);
        self.unacknowledged.insert(packet_id, Use { hash, seq });
    }

    /// Whether the message `seq` may be acknowledged: its identifier stands for no other one.
    pub(crate) fn is_current(&self, packet_id: u16, seq: Seq) -> bool {
        let used = self.unacknowledged.get(&packet_id);
        used.is_some_and(|used| used.seq == seq)
    }

    /// The acknowledgement of a message is queued; it ends at this byte of the connection.
    pub(crate) fn acknowledged(&mut self, packet_id: u16, qos: QoS, end: u64) {
        let Some(used) = self.unacknowledged.remove(&packet_id) else {
            return;
        };
        if qos == QoS::ExactlyOnce {
            self.unreleased.insert(packet_id, used);
        } else {
            self.leaving.push_back((end, packet_id, used));
        }
    }

    /// The connection has written its first `written` bytes.
    pub(crate) fn written(&mut self, written: u64) {
        while self
            .leaving
            .pop_front_if(|(end, ..)| *end <= written)
            .is_some()
        {}
    }

    /// The broker has released an identifier of QoS 2 (PUBREL).
    pub(crate) fn released(&mut self, packet_id: u16) {
        self.unreleased.remove(&packet_id);
    }
}

#[cfg(test)]
mod tests {
    use super::Kind::{Acknowledged, Redelivery};
    use super::*;

    const QOS_1: QoS = QoS::AtLeastOnce;
    const QOS_2: QoS = QoS::ExactlyOnce;
    const HASH: u128 = 7;

    fn connected() -> PacketIds {
        let mut ids = PacketIds::default();
        ids.connected(&"a".into(), false);
        ids
    }

    #[test]
    fn a_duplicate_is_the_unacknowledged_message() {
        let mut ids = connected();
        assert_eq!(ids.find(5, true, QOS_1, HASH), None);
        ids.used(5, HASH, 10);
        assert_eq!(ids.find(5, true, QOS_1, HASH), Some(Redelivery(10)));
        // Another message, in a broker that has given the identifier away.
        assert_eq!(ids.find(5, false, QOS_1, HASH), None);
        assert_eq!(ids.find(5, true, QOS_1, HASH + 1), None);
        assert_eq!(ids.find(6, true, QOS_1, HASH), None);
    }

    #[test]
    fn an_identifier_that_was_used_again_is_not_acknowledged_for_the_earlier_message() {
        let mut ids = connected();
        ids.used(5, HASH, 10);
        ids.used(5, HASH + 1, 11);
        assert!(!ids.is_current(5, 10));
        assert!(ids.is_current(5, 11));
        ids.acknowledged(5, QOS_1, 4);
        assert!(!ids.is_current(5, 11));
    }

    #[test]
    fn a_message_is_new_once_its_acknowledgement_was_written() {
        let mut ids = connected();
        ids.used(5, HASH, 10);
        ids.acknowledged(5, QOS_1, 8);
        ids.written(7);
        assert_eq!(ids.find(5, true, QOS_1, HASH), Some(Acknowledged));
        ids.written(8);
        assert_eq!(ids.find(5, true, QOS_1, HASH), None);
    }

    #[test]
    fn acknowledgements_that_never_left_are_remembered_for_the_next_connection() {
        let mut ids = connected();
        for (packet_id, end) in [(5, 4), (6, 8), (7, 12)] {
            ids.used(packet_id, HASH, u64::from(packet_id));
            ids.acknowledged(packet_id, QOS_1, end);
        }
        // Confirmed later, without a connection.
        ids.used(8, HASH, 8);
        // The broker has read the first answer, and can't have read the second one.
        ids.disconnected(7);
        ids.connected(&"a".into(), true);
        let found = [5, 6, 7, 8].map(|id| ids.find(id, true, QOS_1, HASH));
        let expected = [6, 7, 8].map(|seq| Some(Redelivery(seq)));
        assert_eq!((found[0], &found[1..]), (None, &expected[..]));
    }

    #[test]
    fn another_session_forgets_all() {
        for (broker, resumed) in [("a", false), ("b", true)] {
            let mut ids = connected();
            ids.used(5, HASH, 10);
            ids.used(6, HASH, 11);
            ids.acknowledged(6, QOS_2, 4);
            ids.disconnected(4);
            ids.connected(&broker.into(), resumed);
            assert_eq!(ids.find(5, true, QOS_1, HASH), None);
            assert_eq!(ids.find(6, true, QOS_2, HASH), None);
        }
    }

    #[test]
    fn at_qos_2_an_identifier_is_remembered_until_it_is_released() {
        let mut ids = connected();
        ids.used(5, HASH, 10);
        // The broker may send it again before PUBREC, with or without DUP.
        assert_eq!(ids.find(5, false, QOS_2, HASH), Some(Redelivery(10)));
        ids.acknowledged(5, QOS_2, 4);
        ids.disconnected(4);
        ids.connected(&"a".into(), true);
        assert_eq!(ids.find(5, true, QOS_2, HASH), Some(Redelivery(10)));
        ids.released(5);
        assert_eq!(ids.find(5, true, QOS_2, HASH), None);
    }
}
