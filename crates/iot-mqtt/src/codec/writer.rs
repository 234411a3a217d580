use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5::{self, Publish};
use rumqttc::v5::mqttbytes::{self as bytes5, QoS};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{
    DISCONNECT, PINGREQ, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, SUBSCRIBE, UNSUBSCRIBE,
};
use crate::{Connect, ConnectionError, Protocol};

/// Reserved flags of PUBREL, SUBSCRIBE and UNSUBSCRIBE (MQTT 5, section 2.1.3).
const RESERVED: u8 = 0b0010;
/// Strings have a length of two bytes (MQTT 5, section 1.5.4).
const MAX_STRING: usize = u16::MAX as usize;

/// Why a packet cannot be queued. Packets that were queued before it are intact.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The broker does not accept packets of this size.
    #[error("a packet of {size} bytes is larger than the broker accepts ({limit} bytes)")]
    TooLarge {
        /// Size of the packet, in bytes.
        size: usize,
        /// The broker's Maximum Packet Size, in bytes.
        limit: u32,
    },
    /// A topic, client id, user name or password is longer than MQTT allows.
    #[error("a string of {0} bytes is longer than MQTT allows (65535 bytes)")]
    StringTooLong(usize),
    /// A message of QoS 1 or 2 needs a packet identifier other than 0.
    #[error("a message of QoS 1 or 2 needs a packet identifier")]
    MissingPacketId,
    /// The packet has values that MQTT does not allow.
    #[error("encoding a packet: {0}")]
    Encode(bytes5::Error),
    /// The same for MQTT 3.1.1.
    #[error("encoding a packet: {0}")]
    Encode311(rumqttc::mqttbytes::Error),
}

/// Queues packets for one connection; one write sends many of them.
#[derive(Debug)]
pub struct Writer {
    protocol: Protocol,
    buffer: BytesMut,
    /// The broker's Maximum Packet Size, in bytes; `None` for no limit.
    max_packet_size: Option<u32>,
    /// Whether bytes were written since the stream's last flush: it may hold them
    /// back.
    unflushed: bool,
    /// Number of bytes that were written.
    written: u64,
}

impl Writer {
    /// For a new connection that uses `protocol`.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            buffer: BytesMut::new(),
            max_packet_size: None,
            unflushed: false,
            written: 0,
        }
    }

    /// Sets the broker's Maximum Packet Size, in bytes: larger messages are
    /// rejected.
    pub(crate) fn set_max_packet_size(&mut self, limit: Option<u32>) {
        self.max_packet_size = limit;
    }

    /// Number of bytes that are not written yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Number of bytes that the stream has taken since the start of the connection. Bytes after
    /// these never left.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The same once everything that is queued now is written.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Whether everything was written and flushed.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.buffer.is_empty() && !self.unflushed
    }

    /// Queues a CONNECT, with a Receive Maximum and a Session Expiry Interval in
    /// MQTT 5 only. It never has a Maximum Packet Size: brokers drop larger
    /// messages without a notice.
    ///
    /// # Errors
    /// A string is longer than MQTT allows.
    pub fn connect(&mut self, connect: &Connect) -> Result<(), WriteError> {
        let login = connect.login.iter();
        let login = login.flat_map(|login| [&login.username, &login.password]);
        for string in login.chain([&connect.client_id]) {
            check_string(string.len())?;
        }
        // rumqttc's codec assumes that CONNECT starts at index 0 of the buffer.
        let mut packet = BytesMut::new();
        match self.protocol {
            Protocol::V5 => connect5(connect, &mut packet)?,
            Protocol::V311 => connect311(connect, &mut packet)?,
        }
        self.buffer.unsplit(packet);
        Ok(())
    }

    /// Queues a message, in MQTT 3.1.1 without its properties.
    ///
    /// # Errors
    /// The message is larger than the broker accepts, or not valid in MQTT. No
    /// part of it is queued.
    pub fn publish(&mut self, publish: &Publish) -> Result<(), WriteError> {
        check_string(publish.topic.len())?;
        if publish.qos != QoS::AtMostOnce && publish.pkid == 0 {
            return Err(WriteError::MissingPacketId);
        }
        if let Some(limit) = self.max_packet_size {
            let size = publish.size();
            if size > limit as usize {
                return Err(WriteError::TooLarge { size, limit });
            }
        }
        let before = self.buffer.len();
        let written = match self.protocol {
            Protocol::V5 => publish.write(&mut self.buffer).map(drop),
            Protocol::V311 => publish311(publish, &mut self.buffer),
        };
        written.map_err(|error| {
            self.buffer.truncate(before);
            WriteError::Encode(error)
        })
    }

    /// Queues the acknowledgement of a received message: PUBACK for QoS 1, PUBREC
    /// for QoS 2, nothing for QoS 0.
    pub fn acknowledge(&mut self, packet_id: u16, qos: QoS) {
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.answer(PUBACK << 4, packet_id),
            QoS::ExactlyOnce => self.answer(PUBREC << 4, packet_id),
        }
    }

    /// Queues a PUBREL, the answer to PUBREC.
    pub fn release(&mut self, packet_id: u16) {
        self.answer(PUBREL << 4 | RESERVED, packet_id);
    }

    /// Queues a PUBCOMP, the answer to PUBREL.
    pub fn complete(&mut self, packet_id: u16) {
        self.answer(PUBCOMP << 4, packet_id);
    }

    /// With reason code 0 and no properties, which has the same bytes in both
    /// versions.
    fn answer(&mut self, first: u8, packet_id: u16) {
        let [high, low] = packet_id.to_be_bytes();
        self.buffer.put_slice(&[first, 2, high, low]);
    }

    /// Queues a SUBSCRIBE. In MQTT 5, the broker sends retained messages only for a
    /// new subscription, not for one that the session already has.
    ///
    /// A filter has at most 65,535 bytes; see also [`valid_filter`](crate::valid_filter).
    pub fn subscribe(&mut self, packet_id: u16, filters: &[String], qos: QoS) {
        /// Retain Handling 1 (MQTT 5, section 3.8.3.1).
        const RETAIN_HANDLING_1: u8 = 1 << 4;
        let options = match self.protocol {
            Protocol::V5 => qos as u8 | RETAIN_HANDLING_1,
            Protocol::V311 => qos as u8,
        };
        self.filters(SUBSCRIBE, packet_id, filters, Some(options));
    }

    /// Queues an UNSUBSCRIBE. A filter has at most 65,535 bytes.
    pub fn unsubscribe(&mut self, packet_id: u16, filters: &[String]) {
        self.filters(UNSUBSCRIBE, packet_id, filters, None);
    }

    fn filters(&mut self, kind: u8, packet_id: u16, filters: &[String], options: Option<u8>) {
        let properties = usize::from(self.protocol == Protocol::V5);
        let each = 2 + usize::from(options.is_some());
        let all: usize = filters.iter().map(|filter| filter.len() + each).sum();
        let out = &mut self.buffer;
        out.put_u8(kind << 4 | RESERVED);
        put_variable_byte_integer(2 + properties + all, out);
        out.put_u16(packet_id);
        out.put_bytes(0, properties);
        for filter in filters {
            debug_assert!(filter.len() <= MAX_STRING, "the caller checks filters");
            out.put_u16(filter.len() as u16);
            out.put_slice(filter.as_bytes());
            out.extend(options);
        }
    }

    /// Queues a PINGREQ.
    pub fn ping(&mut self) {
        self.buffer.put_slice(&[PINGREQ << 4, 0]);
    }

    /// Queues a DISCONNECT after which the broker keeps the session for as long as
    /// CONNECT asked.
    pub fn disconnect(&mut self) {
        self.buffer.put_slice(&[DISCONNECT << 4, 0]);
    }

    /// Queues a DISCONNECT after which the broker drops the session. With MQTT
    /// 3.1.1 it keeps a persistent session: the client cannot end it this way.
    pub fn disconnect_and_end_session(&mut self) {
        match self.protocol {
            // Reason 0 and five bytes of properties: Session Expiry Interval 0.
            Protocol::V5 => {
                let packet = [DISCONNECT << 4, 7, 0, 5, 17, 0, 0, 0, 0];
                self.buffer.put_slice(&packet);
            }
            Protocol::V311 => self.disconnect(),
        }
    }

    /// Writes and flushes everything that is queued. Cancel safe: unwritten bytes
    /// stay queued.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn flush<S>(&mut self, stream: &mut S) -> Result<(), ConnectionError>
    where
        S: AsyncWrite + Unpin,
    {
        std::future::poll_fn(|cx| self.poll_flush(cx, stream)).await
    }

    /// The same as [`flush`](Self::flush). Unwritten bytes stay queued.
    ///
    /// # Errors
    /// The connection ended.
    pub fn poll_flush<S>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<Result<(), ConnectionError>>
    where
        S: AsyncWrite + Unpin,
    {
        while !self.buffer.is_empty() {
            // Removes exactly the written bytes from the buffer.
            let written = ready!(pin!(stream.write_buf(&mut self.buffer)).poll(cx))?;
            if written == 0 {
                return Poll::Ready(Err(ConnectionError::Closed));
            }
            self.unflushed = true;
            self.written += written as u64;
        }
        if self.unflushed {
            ready!(pin!(stream.flush()).poll(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The queued bytes.
    #[cfg(test)]
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }
}

fn check_string(length: usize) -> Result<(), WriteError> {
    if length > MAX_STRING {
        Err(WriteError::StringTooLong(length))
    } else {
        Ok(())
    }
}

/// Variable Byte Integer (MQTT 5, section 1.5.5).
pub(super) fn put_variable_byte_integer(mut value: usize, out: &mut BytesMut) {
    while value > 0x7F {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn publish311(publish: &Publish, out: &mut BytesMut) -> Result<(), bytes5::Error> {
    /// The largest remaining length (MQTT 3.1.1, section 2.2.3).
    const LARGEST: usize = 268_435_455;
    let (topic, payload) = (&publish.topic, &publish.payload);
    let has_id = publish.qos != QoS::AtMostOnce;
    let length = 2 + topic.len() + 2 * usize::from(has_id) + payload.len();
    if length > LARGEST {
        return Err(bytes5::Error::PayloadTooLong);
    }
    let (dup, retain) = (u8::from(publish.dup), u8::from(publish.retain));
    out.put_u8(PUBLISH << 4 | dup << 3 | (publish.qos as u8) << 1 | retain);
    put_variable_byte_integer(length, out);
    out.put_u16(topic.len() as u16);
    out.put_slice(topic);
    if has_id {
        out.put_u16(publish.pkid);
    }
    out.put_slice(payload);
    Ok(())
}

fn connect5(connect: &Connect, out: &mut BytesMut) -> Result<(), WriteError> {
    let properties = v5::ConnectProperties {
        session_expiry_interval: connect.session_expiry,
        receive_maximum: connect.receive_maximum,
        ..v5::ConnectProperties::new()
    };
    let packet = v5::Connect {
        keep_alive: connect.keep_alive,
        client_id: connect.client_id.clone(),
        clean_start: connect.clean_start,
        properties: Some(properties),
    };
    let login = connect.login.as_ref();
    let login = login.map(|login| v5::Login::new(&login.username, &login.password));
    let written = v5::Packet::Connect(packet, None, login).write(out, None);
    written.map(drop).map_err(WriteError::Encode)
}

fn connect311(connect: &Connect, out: &mut BytesMut) -> Result<(), WriteError> {
    let login = connect.login.as_ref();
    let packet = v4::Connect {
        keep_alive: connect.keep_alive,
        clean_session: connect.clean_start,
        login: login.map(|login| v4::Login::new(&login.username, &login.password)),
        ..v4::Connect::new(&connect.client_id)
    };
    let written = v4::Packet::Connect(packet).write(out, usize::MAX);
    written.map(drop).map_err(WriteError::Encode311)
}
