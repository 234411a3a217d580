//! The wire of the push protocol: the Centrifuge client protocol, version 2, in both of its
//! framings, and Server-Sent Events. docs/push.md describes it for those who write clients.

pub mod codes;
mod decode;
pub mod messages;
#[cfg(test)]
mod tests;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use serde::Serialize;

pub use decode::{MAX_FRAME, Malformed};
use messages::{Publication, Push, Reply, Unsubscribe};

/// How answers and publications are written for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Framing {
    /// A JSON object (without a newline), for text frames of a WebSocket.
    Json,
    /// A length-prefixed message, for binary frames of a WebSocket.
    Protobuf,
    /// An event of Server-Sent Events, with its empty line.
    EventStream,
}

impl Framing {
    /// A publication of a channel. `data` is JSON without newlines; without `offset` the client's
    /// position stays.
    #[must_use]
    pub fn publication(
        self,
        channel: &str,
        epoch: &str,
        offset: Option<u64>,
        data: &[u8],
    ) -> Bytes {
        let mut out = BytesMut::with_capacity(channel.len() + data.len() + 96);
        match self {
            // By hand, so that `data` is neither parsed nor copied once more.
            Self::Json => {
                out.put_slice(br#"{"push":{"channel":"#);
                put_json(&mut out, &channel);
                out.put_slice(br#","pub":{"#);
                if let Some(offset) = offset {
                    out.put_slice(br#""offset":"#);
                    put_json(&mut out, &offset);
                    out.put_u8(b',');
                }
                out.put_slice(br#""data":"#);
                out.put_slice(data);
                out.put_slice(b"}}}");
            }
            Self::Protobuf => {
                let publication = Publication {
                    offset: offset.unwrap_or(0),
                    data: Bytes::copy_from_slice(data),
                };
                return self.push(channel, |push| push.publication = Some(publication));
            }
            Self::EventStream => {
                let id = offset.map(|offset| event_id(epoch, offset));
                put_event(&mut out, None, id.as_deref(), data);
            }
        }
        out.freeze()
    }

    /// The end of a subscription, by the server.
    #[must_use]
    pub fn unsubscribe(self, channel: &str, code: u32, reason: &str) -> Bytes {
        let unsubscribe = Unsubscribe {
            code,
            reason: reason.to_owned(),
        };
        match self {
            Self::Json | Self::Protobuf => {
                self.push(channel, |push| push.unsubscribe = Some(unsubscribe))
            }
            Self::EventStream => end_event("unsubscribe", &unsubscribe),
        }
    }

    /// The answer to a request, or a ping.
    #[must_use]
    pub fn reply(self, reply: &Reply) -> Bytes {
        match self {
            Self::Json => json(reply).into(),
            Self::Protobuf => reply.encode_length_delimited_to_vec().into(),
            Self::EventStream => event(Some("reply"), None, &json(reply)),
        }
    }

    /// Several of the above as one message of a WebSocket.
    #[must_use]
    pub fn join(self, parts: &[Bytes]) -> Bytes {
        if let [one] = parts {
            return one.clone();
        }
        let size = parts.iter().map(|part| part.len() + 1).sum();
        let mut out = BytesMut::with_capacity(size);
        for part in parts {
            if self == Self::Json && !out.is_empty() {
                out.put_u8(b'\n');
            }
            out.put_slice(part);
        }
        out.freeze()
    }

    fn push(self, channel: &str, fill: impl FnOnce(&mut Push)) -> Bytes {
        let mut push = Push {
            channel: channel.to_owned(),
            ..Push::default()
        };
        fill(&mut push);
        self.reply(&Reply {
            push: Some(push),
            ..Reply::default()
        })
    }
}

/// An event of Server-Sent Events (HTML, 9.2). `data` has no newlines. An empty `id` makes the
/// client forget the last one.
#[must_use]
pub(crate) fn event(name: Option<&str>, id: Option<&str>, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() + 64);
    put_event(&mut out, name, id, data);
    out.freeze()
}

/// The last event of a stream.
#[must_use]
pub(crate) fn end_event(name: &str, why: &Unsubscribe) -> Bytes {
    event(Some(name), None, &json(why))
}

/// Whether an event is one of [`Framing::unsubscribe`].
#[must_use]
pub(crate) fn is_end_event(event: &[u8]) -> bool {
    event.starts_with(b"event: unsubscribe\n")
}

/// A position as the id of an event.
#[must_use]
pub(crate) fn event_id(epoch: &str, offset: u64) -> String {
    format!("{epoch}:{offset}")
}

fn put_event(out: &mut BytesMut, name: Option<&str>, id: Option<&str>, data: &[u8]) {
    for (field, value) in [("event", name), ("id", id)] {
        if let Some(value) = value {
            out.put_slice(field.as_bytes());
            out.put_slice(b": ");
            out.put_slice(value.as_bytes());
            out.put_u8(b'\n');
        }
    }
    out.put_slice(b"data: ");
    out.put_slice(data);
    out.put_slice(b"\n\n");
}

fn put_json(out: &mut BytesMut, value: &impl Serialize) {
    serde_json::to_writer(out.writer(), value).expect("memory takes all, and keys are texts");
}

/// The messages have texts as keys, and this service wrote the JSON in them.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("`data` is JSON")
}
