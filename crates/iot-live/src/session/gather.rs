//! Frames as messages of a WebSocket.

use bytes::Bytes;

use crate::protocol::Framing;

/// Waiting frames are gathered into messages of about this many bytes: a client must be able to
/// take a ping between two of them.
pub(super) const GATHER: usize = 16 << 10;
/// Bytes of all frames.
pub(super) fn size(frames: &[Bytes]) -> usize {
    frames.iter().map(Bytes::len).sum()
}

/// Frames as messages of at most [`GATHER`] bytes, unless a single one is longer.
pub(super) fn messages(framing: Framing, frames: Vec<Bytes>) -> impl Iterator<Item = Bytes> + Send {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &frames[at..];
        if rest.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let fits = |frame: &&Bytes| {
            bytes += frame.len();
            bytes <= GATHER
        };
        let count = rest.iter().take_while(fits).count().max(1);
        at += count;
        Some(framing.join(&rest[..count]))
    })
}
