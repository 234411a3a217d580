//! The rules that a server has to keep, with clients that break them, and a client of another
//! implementation.

mod reading;
mod sockets;

use super::frame::{Opcode, unmask};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame with this first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let (header, size) = super::frame::header(Opcode::Text, payload.len());
    let mut frame = header[..size].to_vec();
    frame[0] = first;
    frame[1] |= 0x80;
    frame.extend(MASK);
    let begin = frame.len();
    frame.extend_from_slice(payload);
    unmask(&mut frame[begin..], MASK, 0);
    frame
}

/// A whole message or control frame.
fn whole(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    frame(0x80 | opcode as u8, payload)
}

/// A frame of a message that goes on.
fn part(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    frame(opcode as u8, payload)
}
