use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::decode::{self, Header};
use super::oversize::Cutter;
use super::{Malformed, PUBLISH, Packet};
use crate::{ConnectionError, Protocol};

/// The largest packet that is kept in memory as a whole, bytes: 8.25 MiB. The
/// bridge's dead-letter topic takes records of 8 MiB; the rest is for topic and
/// properties.
pub const MAX_FRAME: usize = (8 << 20) + (256 << 10);

/// Bytes to read at once. Messages share the memory they were read into, which
/// is freed with the last of them.
const READ_BUFFER: usize = 64 * 1024;
/// Smaller reads are not worth a system call.
const READ_LEAST: usize = 4 * 1024;

/// Reads the packets of one connection.
#[derive(Debug)]
pub struct Reader {
    protocol: Protocol,
    /// Bytes that are not read as packets yet.
    buffer: BytesMut,
    /// Larger messages are cut.
    limit: usize,
    /// A message that is too large to be kept, while it arrives.
    cutter: Option<Box<Cutter>>,
    /// How many bytes the next packet is known to lack.
    missing: usize,
    /// Whether the buffer was enlarged for one packet.
    enlarged: bool,
}

impl Reader {
    /// For a new connection, on which `protocol` is spoken.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            buffer: BytesMut::new(),
            limit: MAX_FRAME,
            cutter: None,
            missing: 0,
            enlarged: false,
        }
    }

    /// The next packet among what was read from the stream already; `None` if the
    /// stream has to be read first.
    ///
    /// # Errors
    /// The broker sent a DISCONNECT, or something that is not MQTT. What follows
    /// it can't be read.
    pub fn packet(&mut self) -> Result<Option<Packet>, ConnectionError> {
        self.missing = 0;
        if let Some(cutter) = &mut self.cutter {
            let Some(oversize) = cutter.feed(&mut self.buffer)? else {
                return Ok(None);
            };
            self.cutter = None;
            return Ok(Some(Packet::Oversize(Box::new(oversize))));
        }
        let Some(header) = Header::read(&self.buffer)? else {
            return Ok(None);
        };
        let frame = header.size + header.remaining;
        if frame > self.limit {
            if header.kind() != PUBLISH {
                return Err(Malformed::new(header.first, format!("{frame} bytes")).into());
            }
            self.buffer.advance(header.size);
            let cutter = Cutter::new(header.first, header.remaining, self.protocol);
            self.cutter = Some(Box::new(cutter));
            return self.packet();
        }
        if self.buffer.len() < frame {
            self.missing = frame - self.buffer.len();
            return Ok(None);
        }
        let frame = self.buffer.split_to(frame);
        decode::packet(&header, frame, self.protocol).map(Some)
    }

    /// The next packet, from `stream` if none has arrived yet. Cancel safe.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn receive<S>(&mut self, stream: &mut S) -> Result<Packet, ConnectionError>
    where
        S: AsyncRead + Unpin,
    {
        loop {
            if let Some(packet) = self.packet()? {
                return Ok(packet);
            }
            self.fill(stream).await?;
        }
    }

    /// Reads once from `stream`, for [`packet`](Self::packet). Cancel safe.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn fill<S>(&mut self, stream: &mut S) -> Result<(), ConnectionError>
    where
        S: AsyncRead + Unpin,
    {
        std::future::poll_fn(|cx| self.poll_fill(cx, stream)).await
    }

    /// The same as [`fill`](Self::fill). Nothing is lost if it is not polled again.
    ///
    /// # Errors
    /// The connection ended.
    pub fn poll_fill<S>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<Result<(), ConnectionError>>
    where
        S: AsyncRead + Unpin,
    {
        self.make_room();
        Poll::Ready(
            match ready!(pin!(stream.read_buf(&mut self.buffer)).poll(cx))? {
                0 => Err(ConnectionError::Closed),
                _ => Ok(()),
            },
        )
    }

    /// Room for a big read, or for all that is missing of a large packet.
    fn make_room(&mut self) {
        if self.enlarged && self.missing == 0 {
            // What follows a large packet must not keep its memory alive.
            let mut own = BytesMut::with_capacity(READ_BUFFER.max(self.buffer.len()));
            own.extend_from_slice(&self.buffer);
            (self.buffer, self.enlarged) = (own, false);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let least = self.missing.max(READ_LEAST);
        if room < least {
            self.enlarged |= self.missing > READ_BUFFER;
            let rest = READ_BUFFER.saturating_sub(self.buffer.len());
            self.buffer.reserve(least.max(rest));
        }
    }

    #[cfg(test)]
    pub(super) fn with_limit(protocol: Protocol, limit: usize) -> Self {
        Self {
            limit,
            ..Self::new(protocol)
        }
    }

    /// The same as if a stream had brought `bytes`.
    #[cfg(test)]
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that are not read as packets yet, and the memory that holds them.
    #[cfg(test)]
    pub(super) fn buffer(&self) -> &BytesMut {
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{
        ConnectReturnCode, DisconnectReasonCode, Publish, PublishProperties,
    };
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::Writer;

    fn read_one(protocol: Protocol, bytes: &[u8]) -> Result<Option<Packet>, ConnectionError> {
        let mut reader = Reader::new(protocol);
        reader.feed(bytes);
        reader.packet()
    }

    #[test]
    fn a_disconnect_ends_the_connection_with_or_without_reason_and_properties() {
        let taken_over = DisconnectReasonCode::SessionTakenOver;
        let normal = DisconnectReasonCode::NormalDisconnection;
        for (bytes, expected) in [
            (&[0xE0, 1, 0x8E][..], taken_over),
            (&[0xE0, 2, 0x8E, 0], taken_over),
            // With a reason string.
            (&[0xE0, 6, 0x8E, 4, 31, 0, 1, b'x'], taken_over),
            (&[0xE0, 0], normal),
        ] {
            let read = read_one(Protocol::V5, bytes);
            let ended = matches!(read, Err(ConnectionError::Disconnected { reason, .. }) if reason == expected);
            assert!(ended, "{read:?} from {bytes:?}");
        }
    }

    #[test]
    fn a_refusal_of_version_5_is_understood() {
        let refused = read_one(Protocol::V5, &[0x20, 2, 0, 1]).unwrap().unwrap();
        assert!(
            matches!(refused, Packet::ConnAck(ack) if ack.code == ConnectReturnCode::RefusedProtocolVersion)
        );
    }

    #[test]
    fn malformed_packets_are_reported_by_name() {
        for (bytes, text) in [
            (
                &[0x30, 4, 0, 9, b'a', b'/'][..],
                "a malformed PUBLISH (too short)",
            ),
            (
                &[0x36, 4, 0, 1, b'a', 0],
                "a malformed PUBLISH (quality of service 3)",
            ),
            (
                &[0x32, 6, 0, 1, b'a', 0, 0, 0],
                "a malformed PUBLISH (packet identifier 0)",
            ),
            (
                &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1],
                "a length of more than four bytes",
            ),
            (&[0x90, 2, 0, 1], "a malformed SUBACK"),
            (
                &[0x10, 2, 0, 1],
                "a malformed CONNECT (a broker does not send that)",
            ),
            (
                &[0xB0, 0xFF, 0xFF, 0xFF, 0x7F],
                "a malformed UNSUBACK (268435460 bytes)",
            ),
            (&[0xE0, 1, 0x42], "a malformed DISCONNECT"),
            (&[0x40, 1, 0], "a malformed PUBACK (too short)"),
            (&[0x40, 3, 0, 1, 0x42], "a malformed PUBACK"),
        ] {
            let error = read_one(Protocol::V5, bytes).expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_user_property_does_not_reach_into_the_payload() {
        let bytes = [
            0x30, 13, 0, 1, b'a', 4, 38, 0, 1, b'k', 0, 1, b'v', b'p', b'p',
        ];
        let read = read_one(Protocol::V5, &bytes).unwrap();
        let Some(Packet::Defective(defective)) = read else {
            panic!("{read:?}");
        };
        assert_eq!(&defective.publish.payload[..], b"\0\x01vpp");
    }

    #[test]
    fn oversize_messages_are_truncated_as_they_arrive() {
        let payload: Vec<u8> = (0..20 << 20).map(|i: u32| (i / 7) as u8).collect();
        let mut publish = Publish::new("a/b", QoS::AtLeastOnce, payload.clone(), None);
        publish.pkid = 9;
        let property = ("note".to_string(), "x".repeat(60_000));
        publish.properties = Some(PublishProperties {
            user_properties: vec![property; 5],
            ..PublishProperties::default()
        });
        let mut writer = Writer::new(Protocol::V5);
        writer.publish(&publish).unwrap();
        writer.release(4);

        let mut reader = Reader::new(Protocol::V5);
        let mut packets = Vec::new();
        for chunk in writer.buffer().chunks(50_000) {
            reader.feed(chunk);
            while let Some(packet) = reader.packet().unwrap() {
                packets.push(packet);
            }
            assert!(
                reader.buffer().len() < 50_000,
                "it waits for more than it needs"
            );
        }
        let [Packet::Oversize(oversize), Packet::PubRel(4)] = &packets[..] else {
            panic!("{} packets", packets.len());
        };
        assert_eq!(oversize.publish.payload, payload[..64 << 10]);
        assert_eq!(oversize.publish.topic, "a/b");
        assert_eq!((oversize.publish.pkid, oversize.size), (9, 20 << 20));
        assert_eq!(oversize.sha256[..], Sha256::digest(&payload)[..]);
        assert_eq!(oversize.publish.properties, None);
    }

    #[tokio::test]
    async fn a_large_packet_does_not_keep_its_memory() {
        let (mut stream, mut broker) = tokio::io::duplex(200);
        let mut writer = Writer::new(Protocol::V5);
        for size in std::iter::once(1 << 20).chain([200; 100]) {
            let publish = Publish::new("a/b", QoS::AtMostOnce, vec![1; size], None);
            writer.publish(&publish).unwrap();
        }
        let sending = tokio::spawn(async move { writer.flush(&mut broker).await });
        let mut reader = Reader::new(Protocol::V5);
        for size in std::iter::once(1 << 20).chain([200; 100]) {
            match reader.receive(&mut stream).await.unwrap() {
                Packet::Publish(publish) => assert_eq!(publish.payload.len(), size),
                other => panic!("{other:?}"),
            }
        }
        sending.await.unwrap().unwrap();
        let capacity = reader.buffer().capacity();
        assert!(capacity <= 128 * 1024, "{capacity} bytes");
        let ended = reader.receive(&mut stream).await;
        assert!(matches!(ended, Err(ConnectionError::Closed)), "{ended:?}");
    }
}
