//! How a Kafka record names the MQTT message that it was made from.

use twox_hash::XxHash3_128;

/// Names one received message, across redeliveries and restarts of the bridge:
/// the value of the header `mqtt-delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReceiveId {
    /// The epoch that the number belongs to; random, never 0.
    pub(crate) epoch: u64,
    /// Receive number: counts messages with a packet identifier, from 1.
    pub(crate) number: u64,
    /// Packet identifier (MQTT 5, section 2.2.1).
    pub(crate) packet_id: u16,
    /// [`content_hash`] of the message.
    pub(crate) hash: u128,
}

impl ReceiveId {
    /// Epoch, number, packet identifier and hash, big endian.
    pub(crate) fn to_bytes(self) -> [u8; 34] {
        let mut bytes = [0; 34];
        bytes[..8].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_be_bytes());
        bytes[16..18].copy_from_slice(&self.packet_id.to_be_bytes());
        bytes[18..].copy_from_slice(&self.hash.to_be_bytes());
        bytes
    }

    /// The reverse of [`Self::to_bytes`]; `None` for any other length.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 34] = bytes.try_into().ok()?;
        Some(Self {
            epoch: u64::from_be_bytes(bytes[..8].try_into().ok()?),
            number: u64::from_be_bytes(bytes[8..16].try_into().ok()?),
            packet_id: u16::from_be_bytes(bytes[16..18].try_into().ok()?),
            hash: u128::from_be_bytes(bytes[18..].try_into().ok()?),
        })
    }
}

/// A hash (XXH3, 128 bits) that a message and its redelivery have in common.
pub(crate) fn content_hash(topic: &[u8], payload: &[u8]) -> u128 {
    // Not a hash of both concatenated: that would ignore where one ends.
    let seed = XxHash3_128::oneshot(topic) as u64;
    XxHash3_128::oneshot_with_seed(seed, payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_receive_id_survives_encoding(epoch: u64, number: u64, packet_id: u16, hash: u128) {
            let id = ReceiveId { epoch, number, packet_id, hash };
            prop_assert_eq!(ReceiveId::from_bytes(&id.to_bytes()), Some(id));
        }
    }

    #[test]
    fn the_header_is_34_bytes_big_endian() {
        let id = ReceiveId {
            epoch: 0x01,
            number: 0x0203,
            packet_id: 0x0405,
            hash: 0x06,
        };
        let mut expected = [0; 34];
        for (index, byte) in [(7, 1), (14, 2), (15, 3), (16, 4), (17, 5), (33, 6)] {
            expected[index] = byte;
        }
        assert_eq!(id.to_bytes(), expected);
        assert_eq!(ReceiveId::from_bytes(&expected[1..]), None);
    }

    #[test]
    fn the_hash_separates_topic_and_payload() {
        assert_ne!(content_hash(b"ab", b"c"), content_hash(b"a", b"bc"));
    }
}
