//! Frames (RFC 6455, section 5).

/// The longest payload of a control frame.
pub(super) const MAX_CONTROL: usize = 125;
/// The longest header of a frame of a client: two bytes, eight of length, four of mask.
pub(super) const MAX_HEADER: usize = 14;

/// What a frame is (section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Opcode {
    /// More of a message.
    Continuation = 0,
    /// The beginning of a text, or all of it.
    Text = 1,
    /// The beginning of a binary message, or all of it.
    Binary = 2,
    /// The end of the connection.
    Close = 8,
    /// A question whether the other side is there.
    Ping = 9,
    /// The answer to it.
    Pong = 10,
}

impl Opcode {
    fn of(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    pub(super) fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// The header of a client's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) is_last: bool,
    pub(super) opcode: Opcode,
    pub(super) length: u64,
    pub(super) mask: [u8; 4],
}

impl Header {
    /// How many bytes a header has that begins with these, which are at least two.
    pub(super) fn size(first: [u8; 2]) -> usize {
        let length = match first[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if first[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    /// Parses a whole header.
    ///
    /// # Errors
    /// What is wrong with it: a client must not send it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let (&[first, second], rest) = bytes.split_first_chunk().ok_or("a header is incomplete")?;
        if first & 0x70 != 0 {
            return Err("a reserved bit is set");
        }
        let opcode = Opcode::of(first & 0x0f).ok_or("an unknown kind of frame")?;
        if second & 0x80 == 0 {
            return Err("a frame is not masked");
        }
        let is_last = first & 0x80 != 0;
        let (length, rest) = match second & 0x7f {
            126 => {
                let (bytes, rest) = rest.split_first_chunk().ok_or("a header is incomplete")?;
                (u64::from(u16::from_be_bytes(*bytes)), rest)
            }
            127 => {
                let (bytes, rest) = rest.split_first_chunk().ok_or("a header is incomplete")?;
                (u64::from_be_bytes(*bytes), rest)
            }
            short => (u64::from(short), rest),
        };
        let is_shortest = match second & 0x7f {
            126 => length > 125,
            127 => length > u64::from(u16::MAX) && length >> 63 == 0,
            _ => true,
        };
        if !is_shortest {
            return Err("a length is not in its shortest form");
        }
        if opcode.is_control() && (!is_last || length > MAX_CONTROL as u64) {
            return Err("a control frame is fragmented or longer than 125 bytes");
        }
        let mask = *rest.first_chunk().ok_or("a header is incomplete")?;
        Ok(Self {
            is_last,
            opcode,
            length,
            mask,
        })
    }
}

/// The header of a whole, unmasked message or control frame, and how many of the bytes it has.
pub(super) fn header(opcode: Opcode, length: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = 0x80 | opcode as u8;
    let size = if let Some(short) = u8::try_from(length).ok().filter(|short| *short <= 125) {
        header[1] = short;
        2
    } else if let Ok(length) = u16::try_from(length) {
        header[1] = 126;
        header[2..4].copy_from_slice(&length.to_be_bytes());
        4
    } else {
        header[1] = 127;
        header[2..].copy_from_slice(&(length as u64).to_be_bytes());
        10
    };
    (header, size)
}

/// Removes the mask of the part of a payload that begins `at` this byte of it (section 5.3).
pub(super) fn unmask(part: &mut [u8], mask: [u8; 4], at: u64) {
    let mut turned = mask;
    turned.rotate_left((at % 4) as usize);
    for (byte, mask) in part.iter_mut().zip(turned.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Whether an endpoint may send the code in a close frame (section 7.4, and those that IANA has
/// registered since).
pub(super) fn is_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
