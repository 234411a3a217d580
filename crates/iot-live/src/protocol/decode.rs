//! What clients send.

use prost::Message;
use prost::encoding::decode_varint;

use super::Framing;
use super::messages::Command;

/// The most bytes in a frame of a client.
pub const MAX_FRAME: usize = 64 << 10;
/// The most commands in one. An empty one has a single byte in a frame and hundreds in memory.
pub(super) const MAX_COMMANDS: usize = 1_024;

/// Why a frame is refused.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is longer than [`MAX_FRAME`].
    #[error("a frame has {0} bytes; at most {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// It has more than 1,024.
    #[error("a frame has more than {MAX_COMMANDS} commands")]
    TooMany,
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
    /// The commands in a frame, in order, without empty ones, which answer pings. Nothing is sent
    /// in an event stream.
    ///
    /// # Errors
    /// The frame is too long, has too many commands, or one of them is not a command.
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
    let mut commands = Vec::new();
    for (line, number) in lines {
        let command = serde_json::from_slice(line);
        let command = command.map_err(|reason| Malformed::Json { number, reason })?;
        add(&mut commands, command)?;
    }
    Ok(commands)
}

fn messages(mut frame: &[u8]) -> Result<Vec<Command>, Malformed> {
    let mut commands = Vec::new();
    let mut number = 0;
    while !frame.is_empty() {
        number += 1;
        let length = decode_varint(&mut frame).ok();
        let length = length.and_then(|length| usize::try_from(length).ok());
        let message = length.and_then(|length| frame.split_off(..length));
        let message = message.ok_or(Malformed::Length { number })?;
        let command = Command::decode(message);
        let command = command.map_err(|reason| Malformed::Protobuf { number, reason })?;
        add(&mut commands, command)?;
    }
    Ok(commands)
}

fn add(commands: &mut Vec<Command>, command: Command) -> Result<(), Malformed> {
    if command == Command::default() {
        return Ok(());
    }
    if commands.len() == MAX_COMMANDS {
        return Err(Malformed::TooMany);
    }
    commands.push(command);
    Ok(())
}
