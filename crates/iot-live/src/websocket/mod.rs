//! The server's side of WebSockets (RFC 6455), without extensions. Our own because each of thousands
//! of clients pays for what a library keeps: an idle connection has no buffer here, and a message
//! that many clients get is written from memory that they share.

mod frame;
mod handshake;
mod read;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use handshake::{Handshake, offers};
pub(crate) use read::{Fault, Limits};
pub(crate) use socket::Socket;

use bytes::Bytes;

/// What a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    /// A whole message, which is UTF-8 if it is text.
    Message(Kind, Vec<u8>),
    /// A ping, to be answered with the same bytes.
    Ping(Bytes),
    /// An answer to a ping.
    Pong,
    /// The end of the connection, with the client's code if there is one.
    Close(Option<u16>),
}
