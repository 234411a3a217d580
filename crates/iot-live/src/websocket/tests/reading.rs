//! Bytes of clients.

use proptest::prelude::*;

use super::*;
use crate::websocket::frame::is_code;
use crate::websocket::read::{Fault, Limits, Reader};
use crate::websocket::{Kind, Received};

const LIMITS: Limits = Limits { message: 1_000 };

/// What is received of bytes that arrive in parts of these sizes, again and again.
fn read(bytes: &[u8], sizes: &[usize]) -> (Vec<Received>, Option<Fault>) {
    let mut reader = Reader::new(LIMITS);
    let (mut all, mut rest) = (Vec::new(), bytes);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut part, after) = rest.split_at(rest.len().min(*size));
        rest = after;
        loop {
            match reader.take(&mut part) {
                Ok(Some(received)) => all.push(received),
                Ok(None) => break,
                Err(fault) => return (all, Some(fault)),
            }
        }
        assert!(part.is_empty());
    }
    (all, None)
}

fn fault_of(bytes: &[u8]) -> Option<Fault> {
    read(bytes, &[usize::MAX]).1
}

fn text(text: &str) -> Received {
    Received::Message(Kind::Text, text.into())
}

#[test]
fn the_examples_of_the_standard_are_understood() {
    // Section 5.7.
    let hello = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(read(hello, &[99]), (vec![text("Hello")], None));
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(read(pong, &[99]), (vec![Received::Pong], None));
}

#[test]
fn control_frames_may_come_within_a_message() {
    let mut bytes = part(Opcode::Text, "K\u{fc}".as_bytes());
    bytes.extend(whole(Opcode::Ping, b"1"));
    // A character may begin in one frame and end in another.
    bytes.extend(part(Opcode::Continuation, &"\u{1f600}".as_bytes()[..1]));
    bytes.extend(whole(Opcode::Pong, b""));
    bytes.extend(whole(Opcode::Continuation, &"\u{1f600}".as_bytes()[1..]));
    bytes.extend(whole(Opcode::Binary, b"\xff"));
    bytes.extend(whole(Opcode::Close, b""));
    let expected = vec![
        Received::Ping("1".into()),
        Received::Pong,
        text("K\u{fc}\u{1f600}"),
        Received::Message(Kind::Binary, b"\xff".into()),
        Received::Close(None),
    ];
    for size in [1, 2, 3, 7, 1_000] {
        assert_eq!(read(&bytes, &[size]), (expected.clone(), None));
    }
}

#[test]
fn broken_rules_are_faults() {
    let mut unmasked = whole(Opcode::Text, b"Hello");
    unmasked[1] &= 0x7f;
    let mut within = part(Opcode::Text, b"a");
    within.extend(whole(Opcode::Text, b"b"));
    let long = [b'x'; 126];
    let of_length = |length: u8, bytes: &[u8]| {
        let mut frame = vec![0x82, 0x80 | length];
        frame.extend(bytes);
        frame.extend(MASK);
        frame
    };
    for (bytes, why) in [
        (unmasked, "not masked"),
        (frame(0xc1, b""), "reserved bit"),
        (frame(0xa1, b""), "reserved bit"),
        (frame(0x91, b""), "reserved bit"),
        (frame(0x83, b""), "unknown kind"),
        (frame(0x87, b""), "unknown kind"),
        (frame(0x8b, b""), "unknown kind"),
        (frame(0x8f, b""), "unknown kind"),
        (whole(Opcode::Continuation, b""), "its continuation"),
        (part(Opcode::Continuation, b""), "its continuation"),
        (within, "within another"),
        (part(Opcode::Ping, b""), "control frame"),
        (part(Opcode::Close, b""), "control frame"),
        (whole(Opcode::Ping, &long), "control frame"),
        (whole(Opcode::Pong, &long), "control frame"),
        (whole(Opcode::Close, b"\x03"), "half a code"),
        (of_length(126, &[0, 125]), "shortest form"),
        (of_length(127, &65_535_u64.to_be_bytes()), "shortest form"),
        (of_length(127, &u64::MAX.to_be_bytes()), "shortest form"),
        // What is no WebSocket at all.
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "reserved bit"),
    ] {
        for size in [1, 99] {
            let (received, fault) = read(&bytes, &[size]);
            assert!(received.is_empty());
            assert!(
                matches!(fault, Some(Fault::Protocol(found)) if found.contains(why)),
                "{bytes:?}: {fault:?}"
            );
        }
    }
}

#[test]
fn texts_and_reasons_are_utf8() {
    let mut parts = part(Opcode::Text, b"\xf0\x9f");
    parts.extend(whole(Opcode::Continuation, b"x"));
    for bytes in [
        whole(Opcode::Text, b"\xff"),
        // A surrogate, a longer form than need be, and half a character.
        whole(Opcode::Text, b"\xed\xa0\x80"),
        whole(Opcode::Text, b"\xc0\xaf"),
        whole(Opcode::Text, b"\xe2\x82"),
        parts,
        whole(Opcode::Close, b"\x03\xe8\xff"),
    ] {
        assert_eq!(fault_of(&bytes), Some(Fault::NotUtf8), "{bytes:?}");
    }
    assert_eq!(fault_of(&whole(Opcode::Ping, b"\xff")), None);
}

#[test]
fn only_some_codes_may_end_a_connection() {
    for code in 0..=u16::MAX {
        let close = whole(Opcode::Close, &code.to_be_bytes());
        let expected = match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(vec![Received::Close(Some(code))]),
            _ => Err(()),
        };
        let (received, fault) = read(&close, &[99]);
        let found = if fault.is_none() {
            Ok(received)
        } else {
            Err(())
        };
        assert_eq!(found, expected, "{code}");
        assert_eq!(is_code(code), expected.is_ok());
    }
}

#[test]
fn long_messages_are_refused_before_they_arrive() {
    let fits = "x".repeat(LIMITS.message);
    let all = read(&whole(Opcode::Text, fits.as_bytes()), &[99]);
    assert_eq!(all, (vec![text(&fits)], None));
    let mut parts = part(Opcode::Text, &fits.as_bytes()[..600]);
    parts.extend(whole(Opcode::Continuation, &fits.as_bytes()[600..]));
    assert_eq!(read(&parts, &[99]), (vec![text(&fits)], None));

    // Only the headers of what is too long.
    let mut huge = vec![0x82, 0xff];
    huge.extend((u64::MAX >> 1).to_be_bytes());
    huge.extend(MASK);
    assert_eq!(fault_of(&huge), Some(Fault::TooLong));
    let mut parts = part(Opcode::Text, fits.as_bytes());
    parts.extend(&part(Opcode::Continuation, b"x")[..6]);
    assert_eq!(fault_of(&parts), Some(Fault::TooLong));
    // Frames of nothing may follow, and cost nothing.
    let mut empty = part(Opcode::Text, b"");
    empty.extend(part(Opcode::Continuation, b"").repeat(1_000));
    empty.extend(whole(Opcode::Continuation, b""));
    assert_eq!(read(&empty, &[99]), (vec![text("")], None));
}

fn message() -> impl Strategy<Value = (Kind, Vec<Vec<u8>>)> {
    let text = prop::collection::vec(".{0,40}", 1..5);
    let texts = text.prop_map(|parts| {
        let parts = parts.into_iter().map(String::into_bytes);
        (Kind::Text, parts.collect())
    });
    let binary = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5);
    prop_oneof![texts, binary.prop_map(|parts| (Kind::Binary, parts))]
}

proptest! {
    #[test]
    fn messages_arrive_as_they_were_sent(
        messages in prop::collection::vec(message(), 0..6),
        pings in prop::collection::vec(any::<bool>(), 30),
        sizes in prop::collection::vec(1_usize..50, 1..10),
    ) {
        let (mut bytes, mut expected, mut pings) = (Vec::new(), Vec::new(), pings.into_iter().cycle());
        for (kind, parts) in messages {
            let last = parts.len() - 1;
            for (number, payload) in parts.iter().enumerate() {
                if pings.next() == Some(true) {
                    bytes.extend(whole(Opcode::Ping, b"?"));
                    expected.push(Received::Ping("?".into()));
                }
                let opcode = match kind {
                    _ if number > 0 => Opcode::Continuation,
                    Kind::Text => Opcode::Text,
                    Kind::Binary => Opcode::Binary,
                };
                let sent = if number == last { whole } else { part };
                bytes.extend(sent(opcode, payload));
            }
            expected.push(Received::Message(kind, parts.concat()));
        }
        prop_assert_eq!(read(&bytes, &sizes), (expected, None));
    }

    #[test]
    fn any_bytes_mean_the_same_in_any_parts(
        // Mostly headers that are nearly right.
        frames in prop::collection::vec(
            (any::<u8>(), prop::bool::weighted(0.9), prop::collection::vec(any::<u8>(), 0..140)), 0..8,
        ),
        noise in prop::collection::vec(any::<u8>(), 0..40),
        sizes in prop::collection::vec(1_usize..50, 1..10),
    ) {
        let mut bytes = Vec::new();
        for (first, is_plain, payload) in frames {
            bytes.extend(frame(if is_plain { first & 0x8b } else { first }, &payload));
        }
        bytes.extend(noise);
        prop_assert_eq!(read(&bytes, &sizes), read(&bytes, &[usize::MAX]));
    }
}
