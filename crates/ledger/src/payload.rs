//! The format of numbered messages.
//!
//! A numbered message is a device message that every service accepts, with the
//! ledger's own fields added:
//!
//! ```json
//! {"device_id":"ledger-r1-3","seq":17,"timestamp":1767225600000,
//!  "readings":[{"sensor":"ledger_seq","value":17}],
//!  "run":"r1","conn":3,"sent_us":1767225600000123,"pad":"....","sum":"c0ffee00c0ffee00"}
//! ```
//!
//! `sum` is the 64-bit FNV-1a hash, in hexadecimal, of all bytes before `,"sum"`. It
//! detects accidental changes, not deliberate ones.

use std::fmt::Write as _;

use serde::Deserialize;

/// The numbers of one message. With the run and the size they determine all its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The sending connection, from 0.
    pub(crate) conn: u32,
    /// The message's number within its connection, from 0.
    pub(crate) seq: u64,
    /// When it was first sent, in microseconds since the Unix epoch.
    pub(crate) sent_us: u64,
}

/// The result of [`decode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// An intact message of the run.
    Ours(Mark),
    /// A message of the run whose bytes were changed.
    Corrupt,
    /// A message of another run, or not of the ledger.
    Foreign,
}

/// `,"sum":"` + 16 hex digits + `"}`.
const TAIL: usize = 8 + 16 + 2;

/// Checks the name of a run, which becomes part of JSON and of MQTT client ids.
pub(crate) fn valid_run(run: &str) -> Result<String, String> {
    let valid = !run.is_empty()
        && run.len() <= 32
        && run
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if valid {
        Ok(run.to_owned())
    } else {
        Err("must be 1 to 32 letters, digits, '-' or '_'".to_owned())
    }
}

/// The smallest size, in bytes, that fits every message of such a run.
pub(crate) fn smallest(run: &str, connections: u32, messages: u64) -> usize {
    let mark = Mark {
        conn: connections,
        seq: messages,
        sent_us: now_us(),
    };
    let mut head = String::new();
    write_head(&mut head, run, mark);
    head.len() + 1 + TAIL
}

/// Replaces `out` by the payload of `mark`, of exactly `size` bytes if that is at least
/// [`smallest`].
pub(crate) fn encode(out: &mut String, run: &str, mark: Mark, size: usize) {
    out.clear();
    write_head(out, run, mark);
    let pad = size.saturating_sub(out.len() + 1 + TAIL);
    out.extend(std::iter::repeat_n('.', pad));
    out.push('"');
    let sum = fnv1a_64(out.as_bytes());
    // Writing to a String cannot fail.
    let _ = write!(out, ",\"sum\":\"{sum:016x}\"}}");
}

fn write_head(out: &mut String, run: &str, mark: Mark) {
    let Mark { conn, seq, sent_us } = mark;
    let timestamp = sent_us / 1000;
    let _ = write!(
        out,
        "{{\"device_id\":\"ledger-{run}-{conn}\",\"seq\":{seq},\"timestamp\":{timestamp},\
         \"readings\":[{{\"sensor\":\"ledger_seq\",\"value\":{seq}}}],\
         \"run\":\"{run}\",\"conn\":{conn},\"sent_us\":{sent_us},\"pad\":\""
    );
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    run: &'a str,
    conn: u32,
    seq: u64,
    sent_us: u64,
}

/// Classifies a payload for `run`.
///
/// A payload is intact only if it equals, byte by byte, what [`encode`] writes for its
/// numbers. `scratch` is reused between calls.
pub(crate) fn decode(payload: &[u8], run: &str, scratch: &mut String) -> Found {
    let fields = serde_json::from_slice::<Fields<'_>>(payload).ok();
    let Some(fields) = fields.filter(|fields| fields.run == run) else {
        return if mentions(payload, run) {
            Found::Corrupt
        } else {
            Found::Foreign
        };
    };
    let mark = Mark {
        conn: fields.conn,
        seq: fields.seq,
        sent_us: fields.sent_us,
    };
    encode(scratch, run, mark, payload.len());
    if scratch.as_bytes() == payload {
        Found::Ours(mark)
    } else {
        Found::Corrupt
    }
}

/// Whether a corrupt payload belonged to `run`. Each message names its run twice, so one
/// changed byte does not hide it.
fn mentions(payload: &[u8], run: &str) -> bool {
    let needles = [format!("\"run\":\"{run}\""), format!("\"ledger-{run}-")];
    needles.iter().any(|needle| {
        payload
            .windows(needle.len())
            .any(|window| window == needle.as_bytes())
    })
}

fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The current time in microseconds since the Unix epoch.
pub(crate) fn now_us() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(run: &str, mark: Mark, size: usize) -> Vec<u8> {
        let mut out = String::new();
        encode(&mut out, run, mark, size);
        out.into_bytes()
    }

    const MARK: Mark = Mark {
        conn: 3,
        seq: 17,
        sent_us: 1_767_225_600_000_123,
    };

    #[test]
    fn a_payload_has_exactly_the_requested_size() {
        let smallest = smallest("r1", 16, 200_000);
        for size in [smallest, smallest + 1, 400, 5000] {
            assert_eq!(payload("r1", MARK, size).len(), size);
        }
        let last = Mark {
            conn: 15,
            seq: 199_999,
            sent_us: now_us(),
        };
        assert_eq!(payload("r1", last, smallest).len(), smallest);
    }

    #[test]
    fn a_payload_is_a_device_message() {
        let payload = payload("r1", MARK, 400);
        let message = iot_core::message::parse(&payload).unwrap();
        assert_eq!(message.device_id, "ledger-r1-3");
        assert_eq!(message.seq, Some(17));
        assert_eq!(message.timestamp, 1_767_225_600_000);
    }

    #[test]
    fn another_run_is_foreign() {
        let mut scratch = String::new();
        assert_eq!(
            decode(&payload("r1", MARK, 400), "r2", &mut scratch),
            Found::Foreign
        );
        assert_eq!(
            decode(b"{\"device_id\":\"a\"}", "r2", &mut scratch),
            Found::Foreign
        );
        assert_eq!(decode(b"", "r2", &mut scratch), Found::Foreign);
    }

    #[test]
    fn a_truncated_or_extended_payload_is_corrupt() {
        let whole = payload("r1", MARK, 400);
        let mut scratch = String::new();
        assert_eq!(decode(&whole[..200], "r1", &mut scratch), Found::Corrupt);
        assert_eq!(
            decode(&[&whole[..], b" "].concat(), "r1", &mut scratch),
            Found::Corrupt
        );
    }

    proptest! {
        #[test]
        fn encoded_payloads_decode_to_their_mark(conn in 0u32..1000, seq: u64, sent_us: u64, size in 0usize..2000) {
            let mark = Mark { conn, seq, sent_us };
            let mut scratch = String::new();
            prop_assert_eq!(decode(&payload("run-1", mark, size), "run-1", &mut scratch), Found::Ours(mark));
        }

        #[test]
        fn any_changed_byte_is_detected(at in 0usize..400, to: u8) {
            let mut bytes = payload("run-1", MARK, 400);
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            prop_assert_eq!(decode(&bytes, "run-1", &mut String::new()), Found::Corrupt);
        }

        #[test]
        fn decode_never_panics(bytes: Vec<u8>) {
            decode(&bytes, "run-1", &mut String::new());
        }
    }
}
