//! What arrives from a client: messages and control frames out of bytes, in parts of any size.

use bytes::Bytes;

use super::frame::{Header, MAX_CONTROL, MAX_HEADER, Opcode, is_code, unmask};
use super::{Kind, Received};

/// The most memory that is set aside for a message before its bytes are there.
const MOST_AHEAD: usize = 4 << 10;

/// How long what a client sends may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a message, and so of each of its frames.
    pub(crate) message: usize,
}

/// Why nothing more of a client can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It broke a rule of the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// A text is not UTF-8.
    #[error("a text frame is not UTF-8")]
    NotUtf8,
    /// A message is longer than it may be.
    #[error("a message is too long")]
    TooLong,
    /// The connection broke, or was closed without the closing handshake.
    #[error("the connection is lost")]
    Lost,
}

/// Puts together what arrives.
#[derive(Debug)]
pub(super) struct Reader {
    limits: Limits,
    /// The bytes of a header until it is complete.
    head: [u8; MAX_HEADER],
    head_size: usize,
    /// The frame whose payload arrives, and how much of it has.
    frame: Option<(Header, u64)>,
    /// The message of which frames arrive, and what it holds.
    message: Option<Kind>,
    payload: Vec<u8>,
    /// Control frames may come between the frames of a message.
    control: Vec<u8>,
}

impl Reader {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            head: [0; MAX_HEADER],
            head_size: 0,
            frame: None,
            message: None,
            payload: Vec::new(),
            control: Vec::new(),
        }
    }

    /// Takes bytes from the beginning of `bytes`, up to the end of what it returns; all of them if
    /// nothing is complete yet.
    ///
    /// # Errors
    /// Nothing more can be read.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Received>, Fault> {
        loop {
            let (header, arrived) = match &mut self.frame {
                Some(frame) => frame,
                None => match self.head(bytes)? {
                    Some(header) => self.frame.insert((header, 0)),
                    None => return Ok(None),
                },
            };
            let missing = usize::try_from(header.length - *arrived).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(missing.min(bytes.len()));
            *bytes = rest;
            let payload = if header.opcode.is_control() {
                &mut self.control
            } else {
                &mut self.payload
            };
            let begin = payload.len();
            payload.extend_from_slice(part);
            unmask(&mut payload[begin..], header.mask, *arrived);
            *arrived += part.len() as u64;
            if *arrived < header.length {
                return Ok(None);
            }
            let header = *header;
            self.frame = None;
            if let Some(received) = self.complete(header)? {
                return Ok(Some(received));
            }
        }
    }

    /// Bytes of buffers.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.payload.capacity() + self.control.capacity()
    }

    /// The header of the next frame, once it is complete.
    fn head(&mut self, bytes: &mut &[u8]) -> Result<Option<Header>, Fault> {
        while let Some((&byte, rest)) = bytes.split_first() {
            self.head[self.head_size] = byte;
            self.head_size += 1;
            *bytes = rest;
            let [first, second, ..] = self.head;
            if self.head_size < 2 || self.head_size < Header::size([first, second]) {
                continue;
            }
            let head = &self.head[..self.head_size];
            self.head_size = 0;
            let header = Header::parse(head).map_err(Fault::Protocol)?;
            self.begin(header)?;
            return Ok(Some(header));
        }
        Ok(None)
    }

    /// Checks that a frame may come now.
    fn begin(&mut self, header: Header) -> Result<(), Fault> {
        let kind = match (header.opcode, self.message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Continuation, None) => {
                return Err(Fault::Protocol("a message begins with its continuation"));
            }
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(Fault::Protocol("a message begins within another"));
            }
            (Opcode::Continuation, Some(kind)) => kind,
            (Opcode::Text, None) => Kind::Text,
            (Opcode::Binary, None) => Kind::Binary,
        };
        self.message = Some(kind);
        let room = self.limits.message - self.payload.len();
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > room {
            return Err(Fault::TooLong);
        }
        self.payload.reserve_exact(length.min(MOST_AHEAD));
        Ok(())
    }

    /// What a complete frame is, or completes.
    fn complete(&mut self, header: Header) -> Result<Option<Received>, Fault> {
        match header.opcode {
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                let Some(kind) = self.message.take_if(|_| header.is_last) else {
                    return Ok(None);
                };
                let payload = std::mem::take(&mut self.payload);
                if kind == Kind::Text && std::str::from_utf8(&payload).is_err() {
                    return Err(Fault::NotUtf8);
                }
                Ok(Some(Received::Message(kind, payload)))
            }
            Opcode::Ping => {
                let payload: Bytes = std::mem::take(&mut self.control).into();
                debug_assert!(payload.len() <= MAX_CONTROL);
                Ok(Some(Received::Ping(payload)))
            }
            Opcode::Pong => {
                self.control = Vec::new();
                Ok(Some(Received::Pong))
            }
            Opcode::Close => {
                let payload = std::mem::take(&mut self.control);
                closing(&payload).map(|code| Some(Received::Close(code)))
            }
        }
    }
}

/// The code in a close frame (section 5.5.1).
fn closing(payload: &[u8]) -> Result<Option<u16>, Fault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(Fault::Protocol("a close frame has half a code"))
        };
    };
    let code = u16::from_be_bytes(*code);
    if !is_code(code) {
        return Err(Fault::Protocol(
            "a close frame has a code that is not allowed",
        ));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Fault::NotUtf8);
    }
    Ok(Some(code))
}
