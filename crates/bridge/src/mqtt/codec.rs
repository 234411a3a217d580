//! Packets from and to bytes. Whatever version of the protocol a broker speaks,
//! the session sees one kind of packet.
//!
//! rumqttc's codec reads and writes the packets that are rare. Messages are
//! read here: theirs copies the topic of a 3.1.1 message, takes properties
//! that reach into the payload, and waits for ever after a DISCONNECT that has
//! a reason and no properties.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::{self as bytes4, v4};
use rumqttc::v5::mqttbytes::v5::{
    self, ConnAck, ConnectReturnCode, DisconnectReasonCode, Publish, PublishProperties, SubAck,
    SubscribeReasonCode, UnsubAck,
};
use rumqttc::v5::mqttbytes::{self as bytes5, QoS};

use super::oversize::{Cutter, Oversize};
use crate::config::Protocol;

/// A message that takes more is not kept in memory. The dead-letter topic
/// takes 8 MiB; what is beyond is for the topic and properties.
pub(super) const MAX_FRAME: usize = (8 << 20) + (256 << 10);

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBREL: u8 = 6;
const SUBACK: u8 = 9;
const UNSUBACK: u8 = 11;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;

/// What a broker may send.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Packet {
    ConnAck(ConnAck),
    Publish(Publish),
    Oversize(Box<Oversize>),
    PubRel(u16),
    SubAck(SubAck),
    UnsubAck(UnsubAck),
    PingResp,
    Disconnect(DisconnectReasonCode),
}

/// What came is not MQTT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a malformed {packet} ({reason})")]
pub(crate) struct Malformed {
    packet: &'static str,
    reason: String,
}

impl Malformed {
    pub(super) fn new(first: u8, reason: impl Into<String>) -> Self {
        Self {
            packet: name(first),
            reason: reason.into(),
        }
    }
}

/// Reads what one connection brings.
#[derive(Debug)]
pub(super) struct Reader {
    protocol: Protocol,
    /// A message that takes more is cut.
    limit: usize,
    /// The message that is too large to be kept, while it arrives.
    cutter: Option<Box<Cutter>>,
    missing: usize,
}

impl Reader {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            limit: MAX_FRAME,
            cutter: None,
            missing: 0,
        }
    }

    /// How many bytes the next packet is known to lack.
    pub(super) fn missing(&self) -> usize {
        self.missing
    }

    /// The next packet that has arrived in whole, taken from `input`.
    pub(super) fn read(&mut self, input: &mut BytesMut) -> Result<Option<Packet>, Malformed> {
        self.missing = 0;
        if let Some(cutter) = &mut self.cutter {
            let Some(oversize) = cutter.feed(input)? else {
                return Ok(None);
            };
            self.cutter = None;
            return Ok(Some(Packet::Oversize(Box::new(oversize))));
        }
        let Some(header) = Header::read(input)? else {
            return Ok(None);
        };
        let frame = header.size + header.remaining;
        if frame > self.limit {
            if header.kind() != PUBLISH {
                let reason = format!("{frame} bytes");
                return Err(Malformed::new(header.first, reason));
            }
            input.advance(header.size);
            let (first, remaining) = (header.first, header.remaining);
            let cutter = Cutter::new(first, remaining, self.protocol);
            self.cutter = Some(Box::new(cutter));
            return self.read(input);
        }
        if input.len() < frame {
            self.missing = frame - input.len();
            return Ok(None);
        }
        let mut frame = input.split_to(frame);
        let packet = match header.kind() {
            PUBLISH => {
                frame.advance(header.size);
                publish(header.first, frame.freeze(), self.protocol).map(Packet::Publish)
            }
            _ => control(&header, frame, self.protocol),
        };
        packet
            .map(Some)
            .map_err(|reason| Malformed::new(header.first, reason))
    }
}

/// The part of a packet that says what and how long it is (MQTT 5, section 2.1).
#[derive(Debug)]
struct Header {
    first: u8,
    /// Of the header itself.
    size: usize,
    /// Of what follows.
    remaining: usize,
}

impl Header {
    fn read(input: &[u8]) -> Result<Option<Self>, Malformed> {
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

    fn kind(&self) -> u8 {
        self.first >> 4
    }
}

/// A variable byte integer (MQTT 5, section 1.5.5) and how many bytes it takes,
/// once all of them are there.
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

/// Topic and payload share the memory of `body`.
fn publish(first: u8, mut body: Bytes, protocol: Protocol) -> Result<Publish, String> {
    let qos = quality(first)?;
    let length = usize::from(number(&mut body)?);
    let topic = part(&mut body, length)?;
    let packet_id = match qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce | QoS::ExactlyOnce => number(&mut body)?,
    };
    let mut publish = envelope(first, qos, topic, packet_id)?;
    if protocol == Protocol::V5 {
        publish.properties = properties(&mut body)?;
    }
    publish.payload = body;
    Ok(publish)
}

fn properties(body: &mut Bytes) -> Result<Option<PublishProperties>, String> {
    // Most messages have none.
    if body.first() == Some(&0) {
        body.advance(1);
        return Ok(None);
    }
    let (length, size) = variable_integer(body)?.ok_or(SHORT)?;
    let mut own = part(body, size + length)?;
    let properties = PublishProperties::read(&mut own).map_err(|error| error.to_string())?;
    match own.is_empty() {
        true => Ok(properties),
        false => Err("properties of another length than they say".into()),
    }
}

const SHORT: &str = "too short";

fn number(body: &mut Bytes) -> Result<u16, String> {
    body.try_get_u16().map_err(|_| SHORT.into())
}

fn part(body: &mut Bytes, length: usize) -> Result<Bytes, String> {
    match length <= body.len() {
        true => Ok(body.split_to(length)),
        false => Err(SHORT.into()),
    }
}

/// Everything that is not a message.
fn control(header: &Header, mut frame: BytesMut, protocol: Protocol) -> Result<Packet, String> {
    let body = &frame[header.size..];
    match (header.kind(), protocol) {
        (PINGRESP, _) => Ok(Packet::PingResp),
        (PUBREL, _) => match body {
            // A reason and properties may follow, and change nothing.
            [high, low, ..] => Ok(Packet::PubRel(u16::from_be_bytes([*high, *low]))),
            _ => Err(SHORT.into()),
        },
        (DISCONNECT, Protocol::V5) => {
            let reason = body.first().copied().unwrap_or_default();
            let reason = DisconnectReasonCode::try_from(reason);
            reason
                .map(Packet::Disconnect)
                .map_err(|error| error.to_string())
        }
        // What a broker answers that does not know version 5 is of version 3.
        (CONNACK, Protocol::V5) if body.len() == 2 => control4(frame),
        (CONNACK | SUBACK | UNSUBACK, Protocol::V5) => control5(&mut frame),
        (CONNACK | SUBACK | UNSUBACK, Protocol::V311) => control4(frame),
        _ => Err("a broker does not send that".into()),
    }
}

fn control5(frame: &mut BytesMut) -> Result<Packet, String> {
    match v5::Packet::read(frame, None).map_err(|error| error.to_string())? {
        v5::Packet::ConnAck(ack) => Ok(Packet::ConnAck(ack)),
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

fn name(first: u8) -> &'static str {
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
    NAMES[usize::from(first >> 4)]
}

/// What a CONNECT says.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) client_id: String,
    /// Whether the broker is to forget an earlier session.
    pub(super) clean: bool,
    /// User name and password.
    pub(super) login: Option<(String, String)>,
    /// Seconds.
    pub(super) keep_alive: u16,
    /// Seconds.
    pub(super) session_expiry: u32,
    pub(super) receive_maximum: u16,
}

/// Writes packets behind what is in a buffer already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer(pub(super) Protocol);

impl Writer {
    pub(super) fn connect(self, hello: Hello, out: &mut BytesMut) -> Result<(), String> {
        match self.0 {
            Protocol::V5 => connect5(hello, out),
            Protocol::V311 => connect4(hello, out),
        }
    }

    /// PUBACK, or PUBREC; with success it is the same in both versions.
    pub(super) fn acknowledge(self, packet_id: u16, qos: QoS, out: &mut BytesMut) {
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => answer(0x40, packet_id, out),
            QoS::ExactlyOnce => answer(0x50, packet_id, out),
        }
    }

    pub(super) fn complete(self, packet_id: u16, out: &mut BytesMut) {
        answer(0x70, packet_id, out);
    }

    pub(super) fn subscribe(
        self,
        packet_id: u16,
        filters: &[String],
        qos: QoS,
        out: &mut BytesMut,
    ) {
        let options = match self.0 {
            // Retained messages for a new subscription only, not at every
            // connection: they were delivered already.
            Protocol::V5 => qos as u8 | 1 << 4,
            Protocol::V311 => qos as u8,
        };
        self.filters(0x82, packet_id, filters, Some(options), out);
    }

    pub(super) fn unsubscribe(self, packet_id: u16, filters: &[String], out: &mut BytesMut) {
        self.filters(0xA2, packet_id, filters, None, out);
    }

    fn filters(
        self,
        first: u8,
        packet_id: u16,
        filters: &[String],
        options: Option<u8>,
        out: &mut BytesMut,
    ) {
        let properties = usize::from(self.0 == Protocol::V5);
        let each = 2 + usize::from(options.is_some());
        let all: usize = filters.iter().map(|filter| filter.len() + each).sum();
        out.put_u8(first);
        put_length(2 + properties + all, out);
        out.put_u16(packet_id);
        out.put_bytes(0, properties);
        for filter in filters {
            // The configuration is checked: a filter is at most 65,535 bytes.
            out.put_u16(filter.len() as u16);
            out.put_slice(filter.as_bytes());
            out.extend(options);
        }
    }

    pub(super) fn ping(self, out: &mut BytesMut) {
        out.put_slice(&[0xC0, 0]);
    }

    /// With `end_session`, the broker forgets the session at once; version
    /// 3.1.1 has no such thing.
    pub(super) fn disconnect(self, end_session: bool, out: &mut BytesMut) {
        match (self.0, end_session) {
            // Reason 0, five bytes of properties: session expiry interval 0.
            (Protocol::V5, true) => out.put_slice(&[0xE0, 7, 0, 5, 17, 0, 0, 0, 0]),
            _ => out.put_slice(&[0xE0, 0]),
        }
    }
}

fn answer(first: u8, packet_id: u16, out: &mut BytesMut) {
    let [high, low] = packet_id.to_be_bytes();
    out.put_slice(&[first, 2, high, low]);
}

fn put_length(mut length: usize, out: &mut BytesMut) {
    while length > 0x7F {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

fn connect5(hello: Hello, out: &mut BytesMut) -> Result<(), String> {
    let connect = v5::Connect {
        keep_alive: hello.keep_alive,
        client_id: hello.client_id,
        clean_start: hello.clean,
        properties: Some(v5::ConnectProperties {
            session_expiry_interval: Some(hello.session_expiry),
            receive_maximum: Some(hello.receive_maximum),
            ..v5::ConnectProperties::new()
        }),
    };
    let login = hello.login.map(|(name, word)| v5::Login::new(name, word));
    let written = v5::Packet::Connect(connect, None, login).write(out, None);
    written.map(drop).map_err(|error| error.to_string())
}

fn connect4(hello: Hello, out: &mut BytesMut) -> Result<(), String> {
    let connect = v4::Connect {
        keep_alive: hello.keep_alive,
        clean_session: hello.clean,
        login: hello.login.map(|(name, word)| v4::Login::new(name, word)),
        ..v4::Connect::new(hello.client_id)
    };
    let written = v4::Packet::Connect(connect).write(out, usize::MAX);
    written.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
