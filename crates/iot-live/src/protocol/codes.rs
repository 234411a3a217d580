//! Numbers that tell a client what to do next.
//!
//! Closing: from 3500 to 3999 and from 4500 on a client does not come back, otherwise it connects
//! again. Unsubscribing: from 2500 on a client subscribes again. Errors: only temporary ones are
//! tried again.

/// Temporary failure of the server.
pub const INTERNAL: u32 = 100;
/// The client has not proved who it is.
pub const UNAUTHORIZED: u32 = 101;
/// There is no such channel.
pub const UNKNOWN_CHANNEL: u32 = 102;
/// The client may not have what it named.
pub const DENIED: u32 = 103;
/// The client has subscribed to it already.
pub const ALREADY_SUBSCRIBED: u32 = 105;
/// The client has too many subscriptions.
pub const LIMIT: u32 = 106;
/// The request is wrong; the message says why.
pub const BAD_REQUEST: u32 = 107;
/// There is no such request or method.
pub const NOT_FOUND: u32 = 104;

/// The token was valid once: the client needs a newer one.
pub const TOKEN_EXPIRED: u32 = 109;

/// A rule of WebSockets is broken (RFC 6455, 7.4.1).
pub const PROTOCOL_ERROR: u16 = 1002;
/// The service stops, or cannot answer.
pub const SHUTDOWN: u16 = 3001;
/// The token has expired, and there was no newer one.
pub const EXPIRED: u16 = 3005;
/// The client reads too slowly.
pub const SLOW: u16 = 3008;
/// The client does not answer pings.
pub const NO_PONG: u16 = 3012;
/// A frame is not of the protocol.
pub const BAD_FRAME: u16 = 3501;
/// The client does not begin with a connect request.
pub const NO_CONNECT: u16 = 3502;

/// All codes of errors.
pub(crate) const ERRORS: [u32; 9] = [
    INTERNAL,
    UNAUTHORIZED,
    UNKNOWN_CHANNEL,
    DENIED,
    NOT_FOUND,
    ALREADY_SUBSCRIBED,
    LIMIT,
    BAD_REQUEST,
    TOKEN_EXPIRED,
];
