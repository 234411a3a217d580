//! The wire of the push protocol.

use bytes::Bytes;

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
    /// A publication of a channel. `data` is JSON; without `offset` the client's position stays.
    pub fn publication(
        self,
        channel: &str,
        epoch: &str,
        offset: Option<u64>,
        data: &[u8],
    ) -> Bytes {
        let _ = (channel, epoch, offset, data);
        todo!()
    }

    /// The end of a subscription, by the server.
    pub fn unsubscribe(self, channel: &str, code: u32, reason: &str) -> Bytes {
        let _ = (channel, code, reason);
        todo!()
    }
}
