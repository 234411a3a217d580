//! Metadata (key 3): the brokers of the cluster, and who leads the partitions of topics.
//!
//! Versions 7 to 10. Version 9 is the first flexible one.
//!
//! Request:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `topics` | ARRAY | 0 | the topics that are asked for: |
//! | - `topic_id` | UUID | 10 | id of the topic; all zero, as its name is given |
//! | - `name` | STRING | 0 | name of the topic; nullable since 10 |
//! | `allow_auto_topic_creation` | BOOLEAN | 4 | false: asking must not create a topic |
//! | `include_cluster_authorized_operations` | BOOLEAN | 8, until 10 | false |
//! | `include_topic_authorized_operations` | BOOLEAN | 8 | false |
//!
//! Response:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `throttle_time_ms` | INT32 | 3 | how long the request was delayed for a quota; ignored |
//! | `brokers` | ARRAY | 0 | all brokers: |
//! | - `node_id` | INT32 | 0 | number of the broker |
//! | - `host` | STRING | 0 | name or address that clients reach it by |
//! | - `port` | INT32 | 0 | its port |
//! | - `rack` | NULLABLE_STRING | 1 | where it stands; ignored |
//! | `cluster_id` | NULLABLE_STRING | 2 | ignored |
//! | `controller_id` | INT32 | 1 | ignored |
//! | `topics` | ARRAY | 0 | the topics: |
//! | - `error_code` | INT16 | 0 | 0 or why the topic's partitions are not known |
//! | - `name` | STRING | 0 | name of the topic |
//! | - `topic_id` | UUID | 10 | id of the topic, another one if it is deleted and created again; all zero if it has none, as before Kafka 2.8 |
//! | - `is_internal` | BOOLEAN | 1 | ignored |
//! | - `partitions` | ARRAY | 0 | its partitions: |
//! | -- `error_code` | INT16 | 0 | ignored: says no more about the leader than its number |
//! | -- `partition_index` | INT32 | 0 | number of the partition |
//! | -- `leader_id` | INT32 | 0 | number of the broker that leads it; -1 for none |
//! | -- `leader_epoch` | INT32 | 7 | counts the leaders of the partition; -1 for unknown |
//! | -- `replica_nodes` | ARRAY of INT32 | 0 | ignored |
//! | -- `isr_nodes` | ARRAY of INT32 | 0 | ignored |
//! | -- `offline_replicas` | ARRAY of INT32 | 5 | ignored |
//! | - `topic_authorized_operations` | INT32 | 8 | ignored |
//! | `cluster_authorized_operations` | INT32 | 8, until 10 | ignored |

use std::fmt;
use std::str::FromStr;

use super::primitives::{Decoder, Encoder, Result};
use super::{ApiKey, ErrorCode, Request};

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Identity of a topic: another one when a topic is deleted and created again under the
/// same name (Kafka 2.8, KIP-516).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicId(u128);

impl TopicId {
    /// `None` for all zero, which stands for unknown in the protocol.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        Self::new(u128::from_be_bytes(bytes))
    }

    pub(crate) fn new(id: u128) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    pub(crate) fn to_u128(self) -> u128 {
        self.0
    }

    /// The 16 bytes, as they are in the protocol.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// Text that is not the id of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a topic, which is 22 digits of base64")]
pub struct InvalidTopicId;

/// Reads what `Display` writes.
impl FromStr for TopicId {
    type Err = InvalidTopicId;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidTopicId> {
        if text.len() != 22 {
            return Err(InvalidTopicId);
        }
        let mut id = 0_u128;
        for (place, digit) in text.bytes().enumerate() {
            let bits = DIGITS.iter().position(|known| *known == digit);
            let bits = bits.ok_or(InvalidTopicId)? as u128;
            id = match place {
                // The last digit has two bits of the id.
                21 if bits & 0b1111 == 0 => id << 2 | bits >> 4,
                21 => return Err(InvalidTopicId),
                _ => id << 6 | bits,
            };
        }
        Self::new(id).ok_or(InvalidTopicId)
    }
}

/// As Kafka's tools write it: base64 with `-` and `_`, without padding.
impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |bits: u128| DIGITS[bits as usize & 63] as char;
        for shift in (2..128).step_by(6).rev() {
            write!(f, "{}", digit(self.0 >> shift))?;
        }
        write!(f, "{}", digit(self.0 << 4))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Asks for the leaders of topics, by name.
#[derive(Debug)]
pub(crate) struct MetadataRequest<'r> {
    pub(crate) topics: &'r [&'r str],
}

/// Brokers and leaders.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) brokers: Vec<Broker>,
    pub(crate) topics: Vec<Topic>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broker {
    pub(crate) node_id: i32,
    /// `host:port`, with brackets around an IPv6 address.
    pub(crate) address: String,
}

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) error: Option<ErrorCode>,
    pub(crate) name: String,
    /// `None` if the broker does not tell.
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) partitions: Vec<Partition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) partition_index: i32,
    /// -1 for none.
    pub(crate) leader_id: i32,
    /// -1 for unknown.
    pub(crate) leader_epoch: i32,
}

impl Request for MetadataRequest<'_> {
    const API: ApiKey = ApiKey::Metadata;

    type Response<'a> = Metadata;

    fn encode(&self, version: i16, to: &mut Encoder<'_>) {
        to.array_length(self.topics.len());
        for name in self.topics {
            if version >= 10 {
                to.uuid(0);
            }
            to.string(name);
            to.tagged_fields();
        }
        to.bool(false);
        if (8..=10).contains(&version) {
            to.bool(false);
        }
        if version >= 8 {
            to.bool(false);
        }
        to.tagged_fields();
    }

    fn decode<'a>(version: i16, from: &mut Decoder<'a>) -> Result<Metadata> {
        from.i32()?;
        let brokers = from.array(broker)?;
        from.nullable_string()?;
        from.i32()?;
        // Nothing is read after the topics.
        let topics = from.array(|from| topic(version, from))?;
        Ok(Metadata { brokers, topics })
    }
}

fn broker(from: &mut Decoder<'_>) -> Result<Broker> {
    let node_id = from.i32()?;
    let host = from.string()?;
    let port = from.i32()?;
    from.nullable_string()?;
    from.tagged_fields()?;
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    Ok(Broker { node_id, address })
}

fn topic(version: i16, from: &mut Decoder<'_>) -> Result<Topic> {
    let error = ErrorCode::new(from.i16()?);
    let name = from.string()?.to_owned();
    let topic_id = match version {
        10.. => TopicId::new(from.uuid()?),
        _ => None,
    };
    from.bool()?;
    let partitions = from.array(partition)?;
    if version >= 8 {
        from.i32()?;
    }
    from.tagged_fields()?;
    Ok(Topic {
        error,
        name,
        topic_id,
        partitions,
    })
}

fn partition(from: &mut Decoder<'_>) -> Result<Partition> {
    from.i16()?;
    let found = Partition {
        partition_index: from.i32()?,
        leader_id: from.i32()?,
        leader_epoch: from.i32()?,
    };
    for _ in ["replica_nodes", "isr_nodes", "offline_replicas"] {
        from.array(Decoder::i32)?;
    }
    from.tagged_fields()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: [u8; 16] = [0xff, 0xfe, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    /// Version 7: two brokers, and a topic with one partition.
    const PLAIN: &[u8] = b"\0\0\0\x07\
        \0\0\0\x02\
        \0\0\0\x01\0\x02b1\0\0\x23\x84\xff\xff\
        \0\0\0\x02\0\x03::1\0\0\x23\x85\0\x01r\
        \xff\xff\0\0\0\x01\
        \0\0\0\x01\
        \0\0\0\x01t\0\
        \0\0\0\x01\
        \0\0\0\0\0\x03\0\0\0\x02\0\0\0\x09\
        \0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\0";

    /// Version 10: the same with compact types, a tagged field in the partition, and the id.
    fn flexible(id: [u8; 16]) -> Vec<u8> {
        [
            b"\0\0\0\x07\
            \x03\
            \0\0\0\x01\x03b1\0\0\x23\x84\0\0\
            \0\0\0\x02\x04::1\0\0\x23\x85\x02r\0\
            \0\0\0\0\x01\
            \x02\
            \0\0\x02t"
                .as_slice(),
            &id,
            b"\0\
            \x02\
            \0\0\0\0\0\x03\0\0\0\x02\0\0\0\x09\
            \x02\0\0\0\x02\x01\x01\x01\x05\x02zz\
            \0\0\0\0\0\
            \0\0\0\0\0",
        ]
        .concat()
    }

    fn decode(version: i16, bytes: &[u8]) -> Result<Metadata> {
        let flexible = ApiKey::Metadata.is_flexible(version);
        MetadataRequest::decode(version, &mut Decoder::new(bytes, flexible))
    }

    fn check(metadata: &Metadata, id: Option<[u8; 16]>) {
        let addresses = [(1, "b1:9092"), (2, "[::1]:9093")];
        let expected = addresses.map(|(node_id, address)| Broker {
            node_id,
            address: address.into(),
        });
        assert_eq!(metadata.brokers, expected);
        let topic = &metadata.topics[0];
        assert_eq!((topic.error, topic.name.as_str()), (None, "t"));
        assert_eq!(topic.topic_id.map(TopicId::to_bytes), id);
        let partition = Partition {
            partition_index: 3,
            leader_id: 2,
            leader_epoch: 9,
        };
        assert_eq!(topic.partitions, [partition]);
    }

    #[test]
    fn version_7_has_leaders_and_no_topic_id() {
        check(&decode(7, PLAIN).unwrap(), None);
        // Version 8 adds the operations after a topic's partitions.
        check(&decode(8, &[PLAIN, &[0; 8]].concat()).unwrap(), None);
    }

    #[test]
    fn version_10_is_flexible_and_has_topic_ids() {
        check(&decode(10, &flexible(ID)).unwrap(), Some(ID));
        // Version 9 is the same without the id.
        let mut nine = flexible(ID);
        let at = nine.windows(16).position(|bytes| bytes == ID).unwrap();
        nine.drain(at..at + 16);
        check(&decode(9, &nine).unwrap(), None);
    }

    #[test]
    fn an_id_of_zeros_is_unknown() {
        check(&decode(10, &flexible([0; 16])).unwrap(), None);
    }

    #[test]
    fn topic_ids_are_written_as_kafka_writes_them() {
        // Uuid.toString() of Kafka's Java client: base64url of the bytes.
        let id = TopicId::from_bytes(ID).unwrap();
        assert_eq!(id.to_string(), "__4CAwQFBgcICQoLDA0ODw");
        let one = TopicId::from_bytes(1_u128.to_be_bytes()).unwrap();
        assert_eq!(one.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        for id in [id, one] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn other_text_is_not_the_id_of_a_topic() {
        for text in [
            "",
            "AAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAB",
            "__4CAwQFBgcICQoLDA0OD=",
            "__4CAwQFBgcICQoLDA0ODwA",
        ] {
            assert_eq!(text.parse::<TopicId>(), Err(InvalidTopicId), "{text:?}");
        }
    }

    #[test]
    fn topics_are_asked_for_by_name_and_not_created() {
        let request = MetadataRequest { topics: &["t"] };
        let encode = |version| {
            let mut out = Vec::new();
            let flexible = ApiKey::Metadata.is_flexible(version);
            request.encode(version, &mut Encoder::new(&mut out, flexible));
            out
        };
        assert_eq!(encode(7), b"\0\0\0\x01\0\x01t\0");
        assert_eq!(encode(8), b"\0\0\0\x01\0\x01t\0\0\0");
        assert_eq!(encode(9), b"\x02\x02t\0\0\0\0\0");
        let ten = [&b"\x02"[..], &[0; 16], b"\x02t\0\0\0\0\0"].concat();
        assert_eq!(encode(10), ten);
    }

    proptest! {
        #[test]
        fn any_response_is_read_or_rejected(
            version in 7..=10_i16, at in 0..100_usize, byte: u8, cut in 0..=110_usize
        ) {
            let mut bytes = match version {
                9.. => flexible(ID),
                _ => PLAIN.to_vec(),
            };
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(cut);
            let _ = decode(version, &bytes);
        }
    }
}
