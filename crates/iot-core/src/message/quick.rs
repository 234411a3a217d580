//! The fast path for JSON as most programs write it, several times faster than a JSON
//! library: known fields, each at most once, no nulls, no escapes, and numbers short
//! enough to be exact. Anything else is left to [`parse`](super::parse), which accepts
//! it or returns the error.

use std::borrow::Cow;

use super::{DeviceMessage, Location, Quality, Reading};

/// A float represents whole numbers of up to 15 digits and the [`POWERS`] of ten exactly,
/// so their quotient is the float nearest to the decimal number.
const DIGITS: usize = 15;
const POWERS: [f64; DIGITS + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];

/// Parses `text`; `None` if it is not a plain message as a whole.
pub(super) fn read(text: &str) -> Option<DeviceMessage<'_>> {
    let mut scanner = Scanner { text, at: 0 };
    let message = scanner.message()?;
    scanner.peek().is_none().then_some(message)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// Fills an empty slot; `None` if the field occurred before.
fn set<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// Position of the first quote, backslash or control character.
fn special(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let flags = special_in(u64::from_le_bytes(*word));
        if flags != 0 {
            return Some(place * 8 + flags.trailing_zeros() as usize / 8);
        }
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    let found = rest.iter().position(is_special);
    found.map(|at| words.len() * 8 + at)
}

/// The same for eight bytes at once: sets the highest bit of the first such byte and of no
/// byte before it (Bit Twiddling Hacks, "Determine if a word has a byte less than n").
fn special_in(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let below = |word: u64, least: u64| word.wrapping_sub(ONES * least) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | equal(b'"') | equal(b'\\')) & (ONES * 0x80)
}

impl<'a> Scanner<'a> {
    fn message(&mut self) -> Option<DeviceMessage<'a>> {
        let (mut device_id, mut tenant, mut project) = (None, None, None);
        let (mut seq, mut timestamp) = (None, None);
        let (mut location, mut readings) = (None, None);
        self.object(|scanner, name| match name {
            "device_id" => set(&mut device_id, scanner.non_empty()?),
            "tenant" => set(&mut tenant, scanner.string()?),
            "project" => set(&mut project, scanner.string()?),
            "seq" => set(&mut seq, scanner.whole()?),
            "timestamp" => set(&mut timestamp, scanner.whole()?),
            "location" => set(&mut location, scanner.location()?),
            "readings" => set(&mut readings, scanner.readings()?),
            _ => None,
        })?;
        Some(DeviceMessage {
            device_id: device_id?,
            tenant,
            project,
            seq,
            timestamp: timestamp?.cast_signed(),
            location,
            readings: readings?,
        })
    }

    fn location(&mut self) -> Option<Location<'a>> {
        let (mut building, mut floor, mut room) = (None, None, None);
        self.object(|scanner, name| match name {
            "building" => set(&mut building, scanner.string()?),
            "floor" => set(&mut floor, scanner.string()?),
            "room" => set(&mut room, scanner.string()?),
            _ => None,
        })?;
        Some(Location {
            building: building.unwrap_or_default(),
            floor: floor.unwrap_or_default(),
            room: room.unwrap_or_default(),
        })
    }

    fn readings(&mut self) -> Option<Vec<Reading<'a>>> {
        let mut readings = Vec::new();
        self.take(b'[')?;
        loop {
            readings.push(self.reading()?);
            if !self.has_next(b']')? {
                return Some(readings);
            }
        }
    }

    fn reading(&mut self) -> Option<Reading<'a>> {
        let (mut sensor, mut value, mut unit, mut quality) = (None, None, None, None);
        self.object(|scanner, name| match name {
            "sensor" => set(&mut sensor, scanner.non_empty()?),
            "value" => set(&mut value, scanner.number()?),
            "unit" => set(&mut unit, scanner.string()?),
            "quality" => set(&mut quality, Quality::from_name(scanner.plain()?)?),
            _ => None,
        })?;
        Some(Reading {
            sensor: sensor?,
            value: value?,
            unit,
            quality: quality.unwrap_or_default(),
        })
    }

    /// Reads an object; `field` reads the value of each name.
    fn object(&mut self, mut field: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            let name = self.plain()?;
            self.take(b':')?;
            field(self, name)?;
            if !self.has_next(b'}')? {
                return Some(());
            }
        }
    }

    /// Consumes a comma (`true`) or `end` (`false`).
    fn has_next(&mut self, end: u8) -> Option<bool> {
        let next = self.peek()?;
        self.at += 1;
        match next {
            b',' => Some(true),
            _ => (next == end).then_some(false),
        }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.plain().map(Cow::Borrowed)
    }

    fn non_empty(&mut self) -> Option<Cow<'a, str>> {
        self.string().filter(|text| !text.is_empty())
    }

    /// A string without escapes or control characters.
    fn plain(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let begin = self.at;
        let rest = self.text.as_bytes().get(begin..)?;
        let length = special(rest)?;
        self.at += length + 1;
        (rest[length] == b'"').then(|| &self.text[begin..begin + length])
    }

    /// A whole number without a sign, of at most [`DIGITS`] digits.
    fn whole(&mut self) -> Option<u64> {
        self.peek()?;
        let begin = self.at;
        let number = self.digits(0)?;
        self.ends_number(begin).then_some(number)
    }

    fn number(&mut self) -> Option<f64> {
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        let begin = self.at;
        let mut number = self.digits(0)?;
        let mut decimals = 0;
        if self.text.as_bytes().get(self.at) == Some(&b'.') {
            self.at += 1;
            let point = self.at;
            number = self.digits(number)?;
            decimals = self.at - point;
        }
        // -0 is left to the complete parser.
        if !self.ends_number(begin) || (negative && number == 0) {
            return None;
        }
        let value = number as f64 / POWERS.get(decimals)?;
        Some(if negative { -value } else { value })
    }

    /// Reads one or more digits and appends them to `number`.
    fn digits(&mut self, mut number: u64) -> Option<u64> {
        let begin = self.at;
        while let Some(digit @ b'0'..=b'9') = self.text.as_bytes().get(self.at) {
            number = number
                .wrapping_mul(10)
                .wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        (self.at > begin).then_some(number)
    }

    /// Whether the text from `begin` to here is a complete number of at most [`DIGITS`]
    /// characters without a leading zero.
    fn ends_number(&self, begin: usize) -> bool {
        let bytes = self.text.as_bytes();
        let leading_zero = bytes[begin] == b'0' && self.at - begin > 1 && bytes[begin + 1] != b'.';
        let continues = matches!(bytes.get(self.at), Some(b'.' | b'e' | b'E'));
        self.at - begin <= DIGITS && !leading_zero && !continues
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::lenient;
    use super::super::strategies::{damaged, decimal, json, plain_message};
    use super::*;

    fn value(number: &str) -> String {
        format!(
            r#"{{"device_id":"d","timestamp":1,"readings":[{{"sensor":"s","value":{number}}}]}}"#
        )
    }

    /// Both parsers return the same message, to the last bit.
    fn check(text: &str) -> Result<bool, TestCaseError> {
        let Some(message) = read(text) else {
            return Ok(false);
        };
        let bits = |message: &DeviceMessage<'_>| {
            let values = message.readings.iter();
            values.map(|r| r.value.to_bits()).collect::<Vec<_>>()
        };
        let lenient = lenient(text, &mut Vec::new())
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(bits(&message), bits(&lenient));
        prop_assert_eq!(message, lenient);
        Ok(true)
    }

    #[test]
    fn plain_messages_take_the_fast_path() {
        for text in [
            &value("21.5"),
            &value("-0.25"),
            &value("123456789012345"),
            " {\"timestamp\" : 1 ,\r\n\t\"device_id\":\"ä\", \"seq\":0, \"location\":{\"room\":\"\"},
              \"readings\":[{\"value\":0,\"sensor\":\"s\",\"quality\":\"bad\"}]} ",
        ] {
            assert!(check(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn other_messages_do_not_take_the_fast_path() {
        for text in [
            &value("-0"),
            &value("1e3"),
            &value("01"),
            &value("1."),
            &value(".5"),
            &value("- 1"),
            &value("1234567890123456"),
            &value("1,\"value\":1"),
            &value("1,\"unit\":null"),
            &value("1,\"other\":1"),
            &value("1}{"),
            &value("1}],\"seq\":-1,\"x\":[{"),
            &value("1").replace("\"s\"", "\"\\u0073\""),
            &value("1").replace("\"s\"", "\"\n\""),
            &value("1").replace("\"s\"", "\"\""),
            &(value("1") + "x"),
            &value("1").replace(":1,", ":1.5,"),
            "{}",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    /// A message whose numbers have at most 15 digits.
    fn short_numbers() -> impl Strategy<Value = DeviceMessage<'static>> {
        let numbers = (
            proptest::option::of(0..1_000_000_u64),
            0..4_102_444_800_000_i64,
        );
        (plain_message(decimal()), numbers).prop_map(|(message, (seq, timestamp))| DeviceMessage {
            seq,
            timestamp,
            ..message
        })
    }

    proptest! {
        #[test]
        fn special_bytes_are_found(bytes in "[ -~]{0,30}[\"\\\\\n\x1f\x7f\u{80}\u{2028}a]{0,3}[ -~]{0,9}") {
            let is_special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
            prop_assert_eq!(special(bytes.as_bytes()), bytes.bytes().position(is_special));
        }

        #[test]
        fn any_plain_message_takes_the_fast_path(message in short_numbers()) {
            let bytes = json(&message);
            prop_assert!(check(std::str::from_utf8(&bytes).unwrap())?);
        }

        #[test]
        fn both_parsers_agree_on_any_number(number in r"-?(0|[0-9]{1,17})(\.[0-9]{1,17})?(e1)?") {
            check(&value(&number))?;
        }

        #[test]
        fn both_parsers_agree_on_damaged_messages(bytes in damaged(short_numbers())) {
            if let Ok(text) = std::str::from_utf8(&bytes) {
                check(text)?;
            }
        }
    }
}
