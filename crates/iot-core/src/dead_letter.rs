//! The dead-letter contract: what bridge and consumer write to the dead-letter topic, and
//! what its readers may rely on.
//!
//! A dead letter is the message as it came, with the reason and its origin in headers that
//! begin with [`PREFIX`]. Only services set these headers: they leave out any that a
//! publisher sends. A message that is too large even for this topic is truncated, see
//! [`Truncated`].

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Topic that takes every message no service could use, unless configured otherwise.
pub const DEFAULT_TOPIC: &str = "iot.dead-letter";

/// The bridge keeps payloads up to this size, in bytes, and truncates larger ones. The consumer's
/// whole records stay below it: it truncates above this minus [`OVERHEAD`].
pub const MAX_RECORD: usize = 8 << 20;
/// Room for the headers that a service adds and for the record's framing, in bytes. A message that
/// needs more is truncated when Kafka rejects it as too large.
pub const OVERHEAD: usize = 64 << 10;
/// `max.message.bytes` of the topic: [`MAX_RECORD`], and the [`OVERHEAD`].
pub const TOPIC_MAX_MESSAGE_BYTES: usize = MAX_RECORD + OVERHEAD;
/// How many bytes of a truncated payload are kept.
pub const KEPT: usize = 64 << 10;
/// How many bytes of a truncated message's key are kept.
pub const KEPT_KEY: usize = 1 << 10;

/// The names of the contract's headers begin with this.
pub const PREFIX: &str = "dlq-";
/// Why the message is a dead letter: one of the short reasons such as
/// [`ParseError::reason`](crate::message::ParseError::reason) or
/// [`RouteError::reason`](crate::route::RouteError::reason).
pub const REASON: &str = "dlq-reason";
/// The reason in words, see [`detail`].
pub const DETAIL: &str = "dlq-detail";
/// Most bytes of that text.
pub const MAX_DETAIL: usize = 200;
/// The sensor whose reading caused the refusal. Only the consumer sets it, and only if a reading is
/// the reason.
pub const SENSOR: &str = "dlq-sensor";
/// The readings that were refused, if the other readings of the message were accepted: a JSON
/// array of [`PartialReading`]. Absent if the whole message was refused. Such a message is never
/// sent again as it is.
pub const PARTIAL: &str = "dlq-partial";
/// Most bytes of that array. A message that needs more is refused whole.
pub const MAX_PARTIAL: usize = 32 << 10;
/// Kafka topic that the message was read from, or the MQTT topic it was published to.
pub const TOPIC: &str = "dlq-topic";
/// Partition that the message was read from, decimal. Absent from the bridge.
pub const PARTITION: &str = "dlq-partition";
/// Offset that the message was read from, decimal. Absent from the bridge.
pub const OFFSET: &str = "dlq-offset";
/// When the bridge received the message, or the consumer rejected it, milliseconds since
/// the Unix epoch, decimal.
pub const TIME: &str = "dlq-time";
/// `true` on a truncated message, absent otherwise.
pub const CUT: &str = "dlq-cut";
/// Size of a truncated message's payload before truncation, bytes, decimal.
pub const SIZE: &str = "dlq-size";
/// SHA-256 of a truncated message's payload before truncation, 64 hexadecimal digits.
pub const SHA256: &str = "dlq-sha256";

/// A reason as the value of [`DETAIL`]: one line of at most [`MAX_DETAIL`] bytes.
#[must_use]
pub fn detail(reason: &impl fmt::Display) -> String {
    const CUT_OFF: &str = "...";
    let mut text = reason.to_string();
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    if text.len() > MAX_DETAIL {
        text.truncate(text.floor_char_boundary(MAX_DETAIL - CUT_OFF.len()));
        text.push_str(CUT_OFF);
    }
    text
}

/// A reading that was refused while others of its message were accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialReading<'a> {
    /// Its position among the readings of the message, from 0. Fields of the older format count
    /// in the order temperature, humidity; readings of third-party formats by name.
    pub reading: usize,
    /// Its sensor, if it has a name: at most 128 bytes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensor: Option<Cow<'a, str>>,
    /// Why it was refused, as in [`REASON`].
    pub reason: Cow<'a, str>,
}

/// The value of [`PARTIAL`]; `None` if it would be longer than [`MAX_PARTIAL`].
#[must_use]
pub fn partial(refused: &[PartialReading<'_>]) -> Option<String> {
    let text = serde_json::to_string(refused).ok()?;
    (text.len() <= MAX_PARTIAL).then_some(text)
}

/// Reads the value of [`PARTIAL`].
///
/// # Errors
/// It is not such an array.
pub fn read_partial(value: &[u8]) -> serde_json::Result<Vec<PartialReading<'static>>> {
    serde_json::from_slice(value)
}

/// What is known of a payload of which only the first [`KEPT`] bytes are kept. The headers
/// that the message came with are dropped, as they may be what makes it too large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncated {
    /// Size of the whole payload, bytes.
    pub size: u64,
    /// SHA-256 of the whole payload (FIPS 180-4).
    pub sha256: [u8; 32],
}

impl Truncated {
    /// The headers of a truncated message, in their order: name and value.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, String); 3] {
        let digest = self.sha256.iter();
        let digest = digest.map(|byte| format!("{byte:02x}")).collect();
        [
            (CUT, "true".to_owned()),
            (SIZE, self.size.to_string()),
            (SHA256, digest),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_messages_carry_size_and_digest() {
        let mut sha256 = [0; 32];
        (sha256[0], sha256[31]) = (0x0a, 0xff);
        let headers = Truncated {
            size: 9 << 20,
            sha256,
        }
        .headers();
        let digest = format!("0a{}ff", "0".repeat(60));
        let expected = [(CUT, "true"), (SIZE, "9437184"), (SHA256, digest.as_str())];
        for ((name, value), expected) in headers.iter().zip(expected) {
            assert_eq!((*name, value.as_str()), expected);
            assert!(name.starts_with(PREFIX));
        }
    }

    #[test]
    fn a_detail_is_one_short_line() {
        assert_eq!(detail(&"a\nb"), "a b");
        let longest = "x".repeat(MAX_DETAIL);
        assert_eq!(detail(&longest), longest);
        // The character at the limit has two bytes.
        let long = format!("{}\u{e4}\u{e4}\u{e4}", "x".repeat(MAX_DETAIL - 4));
        let expected = format!("{}...", "x".repeat(MAX_DETAIL - 4));
        assert_eq!(detail(&long), expected);
    }

    #[test]
    fn refused_readings_are_listed_whatever_their_names() {
        let refused = |reading, sensor: Option<&'static str>| PartialReading {
            reading,
            sensor: sensor.map(Into::into),
            reason: "not_a_number".into(),
        };
        let list = [refused(0, Some("a,\"b\"\n\u{0}ä")), refused(7, None)];
        let text = partial(&list).unwrap();
        assert!(text.is_ascii() || text.contains('ä'));
        assert!(!text.contains(char::is_control));
        assert_eq!(read_partial(text.as_bytes()).unwrap(), list);
        let expected = r#"[{"reading":7,"reason":"not_a_number"}]"#;
        assert_eq!(partial(&list[1..]).as_deref(), Some(expected));
        assert!(read_partial(b"temperature").is_err());
    }

    #[test]
    fn a_list_of_refused_readings_is_bounded() {
        let refused = PartialReading {
            reading: 1,
            sensor: Some("s".repeat(128).into()),
            reason: "not_a_number".into(),
        };
        let one = partial(std::slice::from_ref(&refused)).unwrap().len();
        // Each takes as much as one in brackets, without a bracket and with a comma.
        let most = (MAX_PARTIAL - 1) / (one - 1);
        assert!(partial(&vec![refused.clone(); most]).is_some());
        assert_eq!(partial(&vec![refused; most + 1]), None);
        const { assert!(MAX_PARTIAL < OVERHEAD) };
    }

    #[test]
    fn a_truncated_message_fits_into_the_topic() {
        const { assert!(KEPT + KEPT_KEY + OVERHEAD < MAX_RECORD) };
        assert_eq!(TOPIC_MAX_MESSAGE_BYTES, 8_454_144);
    }
}
