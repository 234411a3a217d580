//! One whole frame to a [`Packet`].
//!
//! PUBLISH and the acknowledgements are read here: rumqttc's codec copies the
//! topic of a 3.1.1 message and accepts properties that reach into the payload.
//! `properties` reads those, with their defects.
//! So is DISCONNECT: rumqttc's codec rejects one without a body and takes one with
//! a reason but no properties for the start of a longer packet, which never comes.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::mqttbytes::{self as bytes4, v4};
use rumqttc::v5::mqttbytes::v5::{
    self, ConnAck, ConnectReturnCode, DisconnectReasonCode, PubAck, PubRec, Publish, SubAck,
    SubscribeReasonCode, UnsubAck,
};
use rumqttc::v5::mqttbytes::{self as bytes5, QoS};

use super::{
    CONNACK, DISCONNECT, Defective, MAX_FRAME, Malformed, PINGRESP, PUBACK, PUBCOMP, PUBLISH,
    PUBREC, PUBREL, Packet, SUBACK, UNSUBACK, properties,
};
use crate::{ConnectionError, Explanation, Protocol};

const SHORT: &str = "too short";

/// The fixed header of a packet (MQTT 5, section 2.1).
#[derive(Debug)]
pub(super) struct Header {
    /// Type and flags.
    pub(super) first: u8,
    /// Length of the header itself.
    pub(super) size: usize,
    /// Length of what follows it.
    pub(super) remaining: usize,
}

impl Header {
    /// `None` while it has not arrived in whole.
    pub(super) fn read(input: &[u8]) -> Result<Option<Self>, Malformed> {
        let [first, rest @ ..] = input else {
            return Ok(None);
        };
        let length = variable_integer(rest).map_err(|reason| Malformed::new(*first, reason))?;
        Ok(length.map(|(remaining, size)| Self {
            first: *first,
            size: 1 + size,
            remaining,
        }))
    }

    pub(super) fn kind(&self) -> u8 {
        self.first >> 4
    }
}

/// A variable byte integer (MQTT 5, section 1.5.5) and how many bytes it takes;
/// `None` while it has not arrived in whole.
pub(super) fn variable_integer(input: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut value = 0;
    for (index, byte) in input.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    match input.len() {
        0..4 => Ok(None),
        _ => Err("a length of more than four bytes".into()),
    }
}

pub(super) fn quality(first: u8) -> Result<QoS, String> {
    bytes5::qos((first >> 1) & 0b11).ok_or_else(|| "quality of service 3".into())
}

/// A message without payload and properties.
pub(super) fn envelope(
    first: u8,
    qos: QoS,
    topic: Bytes,
    packet_id: u16,
) -> Result<Publish, String> {
    if qos != QoS::AtMostOnce && packet_id == 0 {
        return Err("packet identifier 0".into());
    }
    Ok(Publish {
        dup: first & 0b1000 != 0,
        qos,
        retain: first & 1 != 0,
        topic,
        pkid: packet_id,
        payload: Bytes::new(),
        properties: None,
    })
}

/// The packet in `frame`, which is complete and begins with `header`.
pub(super) fn packet(
    header: &Header,
    mut frame: BytesMut,
    protocol: Protocol,
) -> Result<Packet, ConnectionError> {
    let body = &frame[header.size..];
    let read = match (header.kind(), protocol) {
        (PUBLISH, _) => {
            frame.advance(header.size);
            publish(header.first, frame.freeze(), protocol)
        }
        (DISCONNECT, Protocol::V5) => match disconnect(Bytes::copy_from_slice(body)) {
            Ok((reason, explanation)) => {
                return Err(ConnectionError::Disconnected {
                    reason,
                    explanation,
                });
            }
            Err(reason) => Err(reason),
        },
        (PUBACK | PUBREC | PUBREL | PUBCOMP, _) => acknowledgement(header, frame, protocol),
        (PINGRESP, _) => Ok(Packet::PingResp),
        // A broker that does not know version 5 answers in version 3.
        (CONNACK, Protocol::V5) if body.len() == 2 => control4(frame),
        (CONNACK | SUBACK | UNSUBACK, Protocol::V5) => control5(frame),
        (CONNACK | SUBACK | UNSUBACK, Protocol::V311) => control4(frame),
        _ => Err("a broker does not send that".into()),
    };
    Ok(read.map_err(|reason| Malformed::new(header.first, reason))?)
}

/// Topic and payload share the memory of `body`.
fn publish(first: u8, mut body: Bytes, protocol: Protocol) -> Result<Packet, String> {
    let qos = quality(first)?;
    let length = usize::from(number(&mut body)?);
    let topic = part(&mut body, length)?;
    let packet_id = match qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce | QoS::ExactlyOnce => number(&mut body)?,
    };
    let mut publish = envelope(first, qos, topic, packet_id)?;
    let mut defect = None;
    if protocol == Protocol::V5 {
        (publish.properties, defect) = properties::read(&mut body);
    }
    publish.payload = body;
    Ok(match defect {
        None => Packet::Publish(publish),
        Some(defect) => Packet::Defective(Box::new(Defective { publish, defect })),
    })
}

fn number(body: &mut Bytes) -> Result<u16, String> {
    body.try_get_u16().map_err(|_| SHORT.into())
}

fn part(body: &mut Bytes, length: usize) -> Result<Bytes, String> {
    if length <= body.len() {
        Ok(body.split_to(length))
    } else {
        Err(SHORT.into())
    }
}

/// Reason code and properties may be absent, each (MQTT 5, section 3.14.2).
fn disconnect(mut body: Bytes) -> Result<(DisconnectReasonCode, Explanation), String> {
    let reason = body.try_get_u8().unwrap_or_default();
    let reason = DisconnectReasonCode::try_from(reason).map_err(|error| error.to_string())?;
    Ok((reason, properties::explanation(&mut body)))
}

fn acknowledgement(header: &Header, frame: BytesMut, protocol: Protocol) -> Result<Packet, String> {
    let [high, low, more @ ..] = &frame[header.size..] else {
        return Err(SHORT.into());
    };
    let packet_id = u16::from_be_bytes([*high, *low]);
    match (header.kind(), more, protocol) {
        // Here a reason and properties change nothing.
        (PUBREL, ..) => Ok(Packet::PubRel(packet_id)),
        (PUBCOMP, ..) => Ok(Packet::PubComp(packet_id)),
        // Success, and nothing to add; in 3.1.1 there is no more.
        (PUBACK, [], _) | (PUBACK, _, Protocol::V311) => {
            Ok(Packet::PubAck(PubAck::new(packet_id, None)))
        }
        (PUBREC, [], _) | (PUBREC, _, Protocol::V311) => {
            Ok(Packet::PubRec(PubRec::new(packet_id, None)))
        }
        (_, _, Protocol::V5 | Protocol::V311) => control5(frame),
    }
}

fn control5(mut frame: BytesMut) -> Result<Packet, String> {
    match v5::Packet::read(&mut frame, None).map_err(|error| error.to_string())? {
        v5::Packet::ConnAck(ack) => Ok(Packet::ConnAck(ack)),
        v5::Packet::PubAck(ack) => Ok(Packet::PubAck(ack)),
        v5::Packet::PubRec(ack) => Ok(Packet::PubRec(ack)),
        v5::Packet::SubAck(ack) => Ok(Packet::SubAck(ack)),
        v5::Packet::UnsubAck(ack) => Ok(Packet::UnsubAck(ack)),
        other => Err(format!("read as {other:?}")),
    }
}

fn control4(mut frame: BytesMut) -> Result<Packet, String> {
    match v4::Packet::read(&mut frame, MAX_FRAME).map_err(|error| error.to_string())? {
        v4::Packet::ConnAck(ack) => Ok(Packet::ConnAck(ConnAck {
            session_present: ack.session_present,
            code: connect_return(ack.code),
            properties: None,
        })),
        v4::Packet::SubAck(ack) => Ok(Packet::SubAck(SubAck {
            pkid: ack.pkid,
            return_codes: ack.return_codes.into_iter().map(subscribe_return).collect(),
            properties: None,
        })),
        v4::Packet::UnsubAck(ack) => Ok(Packet::UnsubAck(UnsubAck {
            pkid: ack.pkid,
            reasons: Vec::new(),
            properties: None,
        })),
        other => Err(format!("read as {other:?}")),
    }
}

fn connect_return(code: v4::ConnectReturnCode) -> ConnectReturnCode {
    match code {
        v4::ConnectReturnCode::Success => ConnectReturnCode::Success,
        v4::ConnectReturnCode::RefusedProtocolVersion => ConnectReturnCode::RefusedProtocolVersion,
        v4::ConnectReturnCode::BadClientId => ConnectReturnCode::BadClientId,
        v4::ConnectReturnCode::ServiceUnavailable => ConnectReturnCode::ServiceUnavailable,
        v4::ConnectReturnCode::BadUserNamePassword => ConnectReturnCode::BadUserNamePassword,
        v4::ConnectReturnCode::NotAuthorized => ConnectReturnCode::NotAuthorized,
    }
}

fn subscribe_return(code: v4::SubscribeReasonCode) -> SubscribeReasonCode {
    match code {
        v4::SubscribeReasonCode::Failure => SubscribeReasonCode::Failure,
        v4::SubscribeReasonCode::Success(qos) => SubscribeReasonCode::Success(match qos {
            bytes4::QoS::AtMostOnce => QoS::AtMostOnce,
            bytes4::QoS::AtLeastOnce => QoS::AtLeastOnce,
            bytes4::QoS::ExactlyOnce => QoS::ExactlyOnce,
        }),
    }
}
