//! How the connection of a client ends.

use std::io;

use tokio::time::error::Elapsed;

use super::Farewell;
use crate::hub::Close;
use crate::protocol::{MAX_FRAME, codes};
use crate::websocket::Fault;

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client has closed it, or it broke.
    Client,
    /// The server ends it.
    Server(Farewell),
    /// The server ends it, and can read nothing more.
    Unreadable(Farewell),
}

impl From<Farewell> for End {
    fn from(farewell: Farewell) -> Self {
        Self::Server(farewell)
    }
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Server(close.into())
    }
}

/// How the connection ends when nothing more can be read from the client.
pub(super) fn unreadable(fault: Fault) -> End {
    let reason = match fault {
        Fault::Lost => return End::Client,
        // Libraries take care of this: what is at fault is no program of a user's.
        Fault::Protocol(_) => {
            return End::Unreadable(Farewell::new(codes::PROTOCOL_ERROR, fault.to_string()));
        }
        Fault::NotUtf8 => fault.to_string(),
        Fault::TooLong => {
            format!("a frame is too long; at most {MAX_FRAME} bytes are allowed")
        }
    };
    End::Unreadable(Farewell::new(codes::BAD_FRAME, reason))
}

/// What became of a message; one that takes too long means that the client is too slow.
pub(super) fn sent(result: Result<io::Result<()>, Elapsed>) -> Result<(), End> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Client),
        Err(_) => Err(Close::Slow.into()),
    }
}
