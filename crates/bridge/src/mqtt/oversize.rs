//! Messages that are too large to be kept: their beginning, size and hash.

use bytes::{Buf, Bytes, BytesMut};
use iot_core::dead_letter::KEPT;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use sha2::{Digest, Sha256};

use super::codec::{self, Malformed};
use crate::config::Protocol;

/// A message that was too large to be kept in memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Oversize {
    /// With the beginning of the payload, and no properties.
    pub(crate) publish: Publish,
    /// Of the whole payload, in bytes.
    pub(crate) size: u64,
    /// Of the whole payload.
    pub(crate) sha256: [u8; 32],
}

/// Reads such a message and throws most of it away.
#[derive(Debug)]
pub(super) struct Cutter {
    first: u8,
    protocol: Protocol,
    /// What has not arrived of the packet.
    left: usize,
    /// Without the payload, once topic and packet identifier are there.
    publish: Option<Publish>,
    /// What has not arrived of the properties.
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

    /// Takes what has arrived; gives the message once it has ended.
    pub(super) fn feed(&mut self, input: &mut BytesMut) -> Result<Option<Oversize>, Malformed> {
        if self.publish.is_none() {
            let begun = self.begin(input);
            self.publish = begun.map_err(|reason| Malformed::new(self.first, reason))?;
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

    /// Everything in front of the properties, once it is there.
    fn begin(&mut self, input: &mut BytesMut) -> Result<Option<Publish>, String> {
        let qos = codec::quality(self.first)?;
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
            Protocol::V5 => match codec::variable_integer(rest)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        // A copy: the rest of the buffer is not to be kept with it.
        let topic = Bytes::copy_from_slice(topic);
        let publish = codec::envelope(self.first, qos, topic, packet_id)?;
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
