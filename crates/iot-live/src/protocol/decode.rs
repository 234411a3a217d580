//! What clients send.

use prost::Message;
use prost::encoding::decode_varint;

use super::Framing;
use super::messages::Command;

/// The most bytes in a frame of a client.
pub const MAX_FRAME: usize = 64 << 10;

/// Why a frame is refused.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is longer than [`MAX_FRAME`].
    #[error("a frame has {0} bytes; at most {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// A line is not a command.
    #[error("command {number} of the frame: {reason}")]
    Json {
        /// Counted from 1.
        number: usize,
        /// The reason.
        reason: serde_json::Error,
    },
    /// A length is not a varint, or goes beyond the frame.
    #[error("command {number} of the frame: its length is wrong")]
    Length {
        /// Counted from 1.
        number: usize,
    },
    /// A message is not a command.
    #[error("command {number} of the frame: {reason}")]
    Protobuf {
        /// Counted from 1.
        number: usize,
        /// The reason.
        reason: prost::DecodeError,
    },
}

impl Framing {
    /// The commands in a frame, in order. Nothing is sent in an event stream.
    ///
    /// # Errors
    /// The frame is too long, or one of them is not a command.
    pub fn commands(self, frame: &[u8]) -> Result<Vec<Command>, Malformed> {
        if frame.len() > MAX_FRAME {
            return Err(Malformed::TooLong(frame.len()));
        }
        match self {
            Self::Json => lines(frame),
            Self::Protobuf => messages(frame),
            Self::EventStream => Ok(Vec::new()),
        }
    }
}

fn lines(frame: &[u8]) -> Result<Vec<Command>, Malformed> {
    let lines = frame.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty()).zip(1..);
    lines
        .map(|(line, number)| {
            serde_json::from_slice(line).map_err(|reason| Malformed::Json { number, reason })
        })
        .collect()
}

fn messages(mut frame: &[u8]) -> Result<Vec<Command>, Malformed> {
    let mut commands = Vec::new();
    while !frame.is_empty() {
        let number = commands.len() + 1;
        let length = decode_varint(&mut frame).ok();
        let length = length.and_then(|length| usize::try_from(length).ok());
        let message = length.and_then(|length| frame.split_off(..length));
        let message = message.ok_or(Malformed::Length { number })?;
        let command = Command::decode(message);
        commands.push(command.map_err(|reason| Malformed::Protobuf { number, reason })?);
    }
    Ok(commands)
}
