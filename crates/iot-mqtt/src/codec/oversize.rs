//! Messages that are too large to be kept in memory.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use sha2::{Digest, Sha256};

use super::Malformed;
use super::decode;
use crate::Protocol;

/// How much is kept of the payload of an [`Oversize`] message, bytes: 64 KiB.
pub const KEPT: usize = 64 * 1024;

/// A message larger than [`MAX_FRAME`](crate::MAX_FRAME), truncated.
#[derive(Debug, Clone, PartialEq)]
pub struct Oversize {
    /// The message with the first [`KEPT`] bytes of its payload and without properties.
    pub publish: Publish,
    /// Size of the whole payload, bytes.
    pub size: u64,
    /// SHA-256 of the whole payload.
    pub sha256: [u8; 32],
}

/// Reads such a message, keeps its start and discards the rest.
#[derive(Debug)]
pub(super) struct Cutter {
    first: u8,
    protocol: Protocol,
    /// Bytes of the packet that have not arrived.
    left: usize,
    /// The message without its payload, once topic and packet identifier have arrived.
    publish: Option<Publish>,
    /// Bytes of the properties that have not arrived.
    properties: usize,
    kept: Vec<u8>,
    size: u64,
    hash: Sha256,
}

impl Cutter {
    /// `remaining` is what follows the fixed header.
    pub(super) fn new(first: u8, remaining: usize, protocol: Protocol) -> Self {
        Self {
            first,
            protocol,
            left: remaining,
            publish: None,
            properties: 0,
            kept: Vec::new(),
            size: 0,
            hash: Sha256::new(),
        }
    }

    /// Takes what has arrived from `input`; returns the message once it is complete.
    pub(super) fn feed(&mut self, input: &mut BytesMut) -> Result<Option<Oversize>, Malformed> {
        if self.publish.is_none() {
            let started = self.start(input);
            self.publish = started.map_err(|reason| Malformed::new(self.first, reason))?;
        }
        if self.publish.is_none() {
            return Ok(None);
        }
        let skipped = self.properties.min(input.len());
        self.properties -= skipped;
        self.take(skipped, input);
        let payload = self.left.min(input.len());
        let chunk = &input[..payload];
        self.hash.update(chunk);
        self.size += payload as u64;
        self.kept
            .extend_from_slice(&chunk[..payload.min(KEPT - self.kept.len())]);
        self.take(payload, input);
        if self.left > 0 {
            return Ok(None);
        }
        Ok(self.publish.take().map(|publish| Oversize {
            publish: Publish {
                payload: std::mem::take(&mut self.kept).into(),
                ..publish
            },
            size: self.size,
            sha256: self.hash.finalize_reset().into(),
        }))
    }

    /// Reads everything in front of the properties, once it has arrived.
    fn start(&mut self, input: &mut BytesMut) -> Result<Option<Publish>, String> {
        let qos = decode::quality(self.first)?;
        let Some((length, rest)) = input.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((topic, rest)) = rest.split_at_checked(length) else {
            return Ok(None);
        };
        let (packet_id, rest) = match qos {
            QoS::AtMostOnce => (0, rest),
            QoS::AtLeastOnce | QoS::ExactlyOnce => match rest.split_first_chunk::<2>() {
                Some((id, rest)) => (u16::from_be_bytes(*id), rest),
                None => return Ok(None),
            },
        };
        let (properties, size) = match self.protocol {
            Protocol::V311 => (0, 0),
            Protocol::V5 => match decode::variable_integer(rest)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        // A copy, which does not keep the whole buffer in memory.
        let topic = Bytes::copy_from_slice(topic);
        let publish = decode::envelope(self.first, qos, topic, packet_id)?;
        let read = input.len() - rest.len() + size;
        if read + properties > self.left {
            return Err("parts longer than itself".into());
        }
        self.take(read, input);
        self.properties = properties;
        Ok(Some(publish))
    }

    fn take(&mut self, count: usize, input: &mut BytesMut) {
        input.advance(count);
        self.left -= count;
    }
}
