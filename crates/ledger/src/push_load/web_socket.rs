//! WebSocket frames (RFC 6455) as far as a client needs that receives much and sends little.

use anyhow::{Context, bail, ensure};

/// The longest frame that is accepted.
const LONGEST: u64 = 16 << 20;

pub(super) const TEXT: u8 = 1;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// A frame of a server, which masks nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'b> {
    pub(super) opcode: u8,
    pub(super) payload: &'b [u8],
}

/// Takes the first frame of `bytes`; returns it and the number of bytes that it took, or nothing
/// if it is not complete.
///
/// # Errors
/// A frame that is masked, a part of a message, or too long.
pub(super) fn next(bytes: &[u8]) -> anyhow::Result<Option<(Frame<'_>, usize)>> {
    let &[first, second, ref rest @ ..] = bytes else {
        return Ok(None);
    };
    ensure!(first & 0x80 != 0, "a message in several frames");
    ensure!(second & 0x80 == 0, "a masked frame");
    let (head, length) = match second {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (4, u64::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (10, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        length => (2, u64::from(length)),
    };
    ensure!(length <= LONGEST, "a frame of {length} bytes");
    let end = head + length as usize;
    let frame = bytes.get(head..end).map(|payload| Frame {
        opcode: first & 0x0f,
        payload,
    });
    Ok(frame.map(|frame| (frame, end)))
}

/// A frame of a client. The mask is zero, which changes nothing: masks protect proxies, and there
/// are none here.
pub(super) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASKED: u8 = 0x80;
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => frame.push(MASKED | short as u8),
        long => {
            frame.push(MASKED | 126);
            // Requests are far shorter than 64 KiB.
            frame.extend((long as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The request that opens a WebSocket.
pub(super) fn handshake(host: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: aW90LWxlZGdlciBsb2FkIQ==\r\n\r\n"
    )
}

/// The length of the answer to it, if it is complete.
///
/// # Errors
/// The answer is a refusal.
pub(super) fn answer(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = bytes.windows(END.len()).position(|at| at == END) else {
        ensure!(
            bytes.len() < 16 << 10,
            "the answer is not that of a WebSocket"
        );
        return Ok(None);
    };
    let line = bytes.split(|byte| *byte == b'\r').next();
    let line = String::from_utf8_lossy(line.context("an empty answer")?);
    if !line.starts_with("HTTP/1.1 101") {
        bail!("{line}");
    }
    Ok(Some(end + END.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_lengths_are_read_once_they_are_complete() {
        for (head, length) in [
            (vec![0x81, 5], 5),
            (vec![0x81, 126, 1, 0], 256),
            (vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0], 65_536),
        ] {
            let mut bytes = head.clone();
            bytes.extend(vec![b'x'; length]);
            for part in [0, 1, head.len() - 1, head.len(), bytes.len() - 1] {
                assert_eq!(next(&bytes[..part]).unwrap(), None, "{part} of {length}");
            }
            let end = bytes.len();
            bytes.push(0x8a);
            let (frame, took) = next(&bytes).unwrap().unwrap();
            assert_eq!(
                (frame.opcode, frame.payload.len(), took),
                (TEXT, length, end)
            );
        }
    }

    #[test]
    fn what_servers_must_not_send_is_refused() {
        assert!(next(&[0x01, 0]).is_err());
        assert!(next(&[0x81, 0x80]).is_err());
        assert!(next(&[0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn requests_are_masked() {
        let short = frame(TEXT, b"{}");
        assert_eq!(short, [0x81, 0x82, 0, 0, 0, 0, b'{', b'}']);
        let long = frame(TEXT, &[b'x'; 300]);
        assert_eq!((&long[..4], long.len()), (&[0x81, 0xfe, 1, 44][..], 308));
    }

    #[test]
    fn only_an_upgrade_opens_a_web_socket() {
        let text = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nrest";
        assert_eq!(answer(&text[..20]).unwrap(), None);
        assert_eq!(answer(text).unwrap(), Some(text.len() - 4));
        let refused = answer(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap_err();
        assert_eq!(refused.to_string(), "HTTP/1.1 403 Forbidden");
    }
}
