//! Packets from and to bytes.

mod decode;
mod oversize;
mod properties;
mod reader;
mod writer;

use rumqttc::v5::mqttbytes::v5::{ConnAck, PubAck, PubRec, Publish, SubAck, UnsubAck};

pub use oversize::{KEPT, Oversize};
pub use properties::Defective;
pub use reader::{MAX_FRAME, Reader};
pub use writer::{WriteError, Writer};

// Types of packets (MQTT 5, section 2.1.2).
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;

/// Names of packets by type.
const NAMES: [&str; 16] = [
    "packet of type 0",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "AUTH",
];

/// A packet from a broker. A DISCONNECT is none of them: it ends the connection
/// with [`ConnectionError::Disconnected`](crate::ConnectionError::Disconnected).
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    /// The answer to CONNECT.
    ConnAck(ConnAck),
    /// A message. Its topic and payload share memory with the messages that were
    /// read along with it.
    Publish(Publish),
    /// A message whose properties are not valid.
    Defective(Box<Defective>),
    /// A message too large to be kept in memory, in part.
    Oversize(Box<Oversize>),
    /// The broker has a message of QoS 1, or rejects it.
    PubAck(PubAck),
    /// The broker has a message of QoS 2, or rejects it.
    PubRec(PubRec),
    /// The broker knows that a message of QoS 2 has arrived; its packet identifier.
    PubRel(u16),
    /// The delivery of a message of QoS 2 is complete; its packet identifier.
    PubComp(u16),
    /// The answer to SUBSCRIBE.
    SubAck(SubAck),
    /// The answer to UNSUBSCRIBE. In MQTT 3.1.1 it has no reasons.
    UnsubAck(UnsubAck),
    /// The answer to a ping.
    PingResp,
}

impl Packet {
    /// What MQTT calls the packet, such as `PUBACK`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let kind = match self {
            Self::ConnAck(_) => CONNACK,
            Self::Publish(_) | Self::Defective(_) | Self::Oversize(_) => PUBLISH,
            Self::PubAck(_) => PUBACK,
            Self::PubRec(_) => PUBREC,
            Self::PubRel(_) => PUBREL,
            Self::PubComp(_) => PUBCOMP,
            Self::SubAck(_) => SUBACK,
            Self::UnsubAck(_) => UNSUBACK,
            Self::PingResp => PINGRESP,
        };
        NAMES[usize::from(kind)]
    }
}

/// The broker sent something that is not MQTT, or that a broker does not send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the broker sent a malformed {packet} ({reason})")]
pub struct Malformed {
    packet: &'static str,
    reason: String,
}

impl Malformed {
    /// `first` is the first byte of the packet.
    fn new(first: u8, reason: impl Into<String>) -> Self {
        Self {
            packet: NAMES[usize::from(first >> 4)],
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests;
