//! How the connection of a client ends.

use tokio::time::error::Elapsed;

use super::Farewell;
use crate::hub::Close;
use crate::protocol::{MAX_FRAME, codes};

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

/// Why nothing more can be read. The library's type is not public: what a client can
/// correct is recognised by its text.
pub(super) fn unreadable(error: &axum::Error) -> End {
    let text = error.to_string();
    if text.starts_with("Space limit exceeded") {
        let reason = format!("a frame is too long; at most {MAX_FRAME} bytes are allowed");
        End::Unreadable(Farewell::new(codes::BAD_FRAME, reason))
    } else if text.starts_with("UTF-8 encoding error") {
        let reason = "a text frame is not UTF-8";
        End::Unreadable(Farewell::new(codes::BAD_FRAME, reason))
    } else {
        End::Client
    }
}

/// What became of a message; one that takes too long means that the client is too slow.
pub(super) fn sent(result: Result<Result<(), axum::Error>, Elapsed>) -> Result<(), End> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Client),
        Err(_) => Err(Close::Slow.into()),
    }
}
