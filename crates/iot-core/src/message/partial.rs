//! Readings that are refused alone, while the others of their message are taken.

use super::{DeviceMessage, ParseError, Reading, parse};

/// With more defective readings than this a message is refused whole, so that the list of them
/// is bounded.
pub const MAX_REFUSED: usize = 1_000;
/// How much of a sensor's name is kept, in bytes.
const MAX_NAME: usize = 128;

/// The first byte of the text that stands for a number that is not finite, in JSON from
/// [`mark_not_finite`]. A control character, so that it begins no name and no unit.
pub const NOT_FINITE: char = '\u{7f}';

/// A reading that is refused alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedReading {
    /// Its position among the readings of the message, from 0.
    pub index: usize,
    /// The name of its sensor, if it has one: at most 128 bytes of it.
    pub sensor: Option<String>,
    /// What is wrong, and in which reading.
    pub defect: ParseError,
}

impl RefusedReading {
    /// A reading of the list `readings`.
    pub(super) fn in_list(index: usize, sensor: Option<&str>, defect: ParseError) -> Self {
        Self {
            index,
            sensor: sensor.map(short_name),
            defect: defect.in_reading(index),
        }
    }

    fn is_not_finite(&self) -> bool {
        match &self.defect {
            ParseError::InReading { defect, .. } => **defect == ParseError::NotFinite,
            defect => *defect == ParseError::NotFinite,
        }
    }
}

/// The first 128 bytes of a sensor's name.
#[must_use]
pub fn short_name(sensor: &str) -> String {
    sensor[..sensor.floor_char_boundary(MAX_NAME)].to_owned()
}

/// The positions in a message of the readings that remain when those at the positions `refused`,
/// which ascend, are left out. It does not end.
pub fn remaining(refused: impl IntoIterator<Item = usize>) -> impl Iterator<Item = usize> {
    let mut refused = refused.into_iter().peekable();
    (0..).filter(move |at| refused.next_if_eq(at).is_none())
}

/// The good readings; the first defect if there are none, or too many others.
pub(super) fn some_good<'a>(
    good: Vec<Reading<'a>>,
    refused: &[RefusedReading],
) -> Result<Vec<Reading<'a>>, ParseError> {
    match refused.first() {
        None if good.is_empty() => Err(ParseError::NoReadings),
        Some(first) if good.is_empty() || refused.len() > MAX_REFUSED => Err(first.defect.clone()),
        _ => Ok(good),
    }
}

/// Parses a text that is JSON except for numbers that are not finite. `None` if there are others
/// than in values of readings.
pub(super) fn with_not_finite(
    text: &str,
    refused: &mut Vec<RefusedReading>,
) -> Option<DeviceMessage<'static>> {
    let (marked, count) = mark_not_finite(text)?;
    let message = parse::lenient(&marked, refused).ok()?.into_owned();
    let found = refused.iter().filter(|reading| reading.is_not_finite());
    (found.count() == count).then_some(message)
}

/// A text in which numbers that are not finite, as many programs write them (`NaN`, `-Infinity`,
/// `nan`, `inf`, `1e999`), are JSON strings that begin with [`NOT_FINITE`], and their count.
/// `None` if there are none. Every position in the text stays the same.
#[must_use]
pub fn mark_not_finite(text: &str) -> Option<(String, usize)> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let mut bytes = text.as_bytes().to_vec();
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|byte| is_part(byte)).count();
        if length == 0 {
            at = match bytes[at] {
                b'"' => end_of_string(&bytes, at + 1),
                _ => at + 1,
            };
            continue;
        }
        let token = std::str::from_utf8(&bytes[at..at + length]).ok()?;
        // No name of such a number is shorter.
        if length >= 3 && token.parse().is_ok_and(|value: f64| !value.is_finite()) {
            bytes[at] = b'"';
            bytes[at + 1] = NOT_FINITE as u8;
            bytes[at + length - 1] = b'"';
            count += 1;
        }
        at += length;
    }
    let marked = String::from_utf8(bytes).ok()?;
    (count > 0).then_some((marked, count))
}

/// The position after the quote that ends the string whose text begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::super::{parse, parse_partial};
    use super::*;

    fn taken(payload: &str) -> Result<Vec<(String, f64)>, ParseError> {
        let message = parse_partial(payload.as_bytes(), &mut Vec::new())?;
        let readings = message.readings.into_iter();
        Ok(readings.map(|r| (r.sensor.into_owned(), r.value)).collect())
    }

    /// Position, sensor and reason of each refused reading.
    fn refused(payload: &str) -> Vec<(usize, Option<String>, &'static str)> {
        let mut refused = Vec::new();
        parse_partial(payload.as_bytes(), &mut refused).expect(payload);
        let refused = refused.into_iter();
        let refused = refused.map(|r| (r.index, r.sensor, r.defect.reason()));
        refused.collect()
    }

    fn with(readings: &str) -> String {
        format!(r#"{{"device_id":"d","timestamp":1,"readings":[{readings}]}}"#)
    }

    const GOOD: &str = r#"{"sensor":"good","value":1}"#;

    #[test]
    fn a_defective_reading_is_refused_alone() {
        for (reading, named, reason) in [
            (r#"{"sensor":"s","value":null}"#, true, "not_a_number"),
            (r#"{"sensor":"s","value":"21.5"}"#, true, "not_a_number"),
            (r#"{"sensor":"s","value":"NaN"}"#, true, "not_a_number"),
            (r#"{"sensor":"s","value":true}"#, true, "not_a_number"),
            (r#"{"sensor":"s","value":[1]}"#, true, "not_a_number"),
            (r#"{"sensor":"s","value":NaN}"#, true, "not_a_number"),
            (r#"{"sensor":"s","value":-nan}"#, true, "not_a_number"),
            (r#"{"value":-Infinity,"sensor":"s"}"#, true, "not_a_number"),
            (r#"{"sensor":"s","value": inf }"#, true, "not_a_number"),
            (r#"{"sensor":"s","value":1e999}"#, true, "not_a_number"),
            (r#"{"sensor":"s"}"#, true, "missing_value"),
            (r#"{"sensor":"s","value":1,"unit":1}"#, true, "wrong_type"),
            (
                r#"{"sensor":"s","value":1,"quality":"x"}"#,
                true,
                "unknown_quality",
            ),
            (
                r#"{"sensor":"s","value":1,"value":1}"#,
                true,
                "duplicate_field",
            ),
            (r#"{"value":1}"#, false, "missing_sensor"),
            (r#"{"sensor":"","value":1}"#, false, "empty_sensor"),
            (r#"{"sensor":1,"value":1}"#, false, "wrong_type"),
            ("1", false, "wrong_type"),
            ("null", false, "wrong_type"),
        ] {
            for (payload, index) in [
                (with(&format!("{reading},{GOOD}")), 0),
                (with(&format!("{GOOD},{reading},{GOOD}")), 1),
            ] {
                let name = named.then(|| "s".to_owned());
                assert_eq!(refused(&payload), [(index, name, reason)], "{payload}");
                let expected = vec![("good".to_owned(), 1.0); index + 1];
                assert_eq!(taken(&payload), Ok(expected), "{payload}");
                assert!(parse(payload.as_bytes()).is_err(), "{payload}");
            }
        }
    }

    #[test]
    fn every_defective_reading_has_its_position() {
        let bad = r#"{"sensor":"s","value":null}"#;
        let payload = with(&format!("{bad},{GOOD},{bad},{GOOD},{bad}"));
        let positions: Vec<_> = refused(&payload).into_iter().map(|r| r.0).collect();
        assert_eq!(positions, [0, 2, 4]);
        let left: Vec<_> = remaining(positions).take(3).collect();
        assert_eq!(left, [1, 3, 5]);
    }

    #[test]
    fn a_field_of_the_older_format_is_refused_alone() {
        let payload = |values: &str| format!(r#"{{"deviceId":"d","timestamp":1,{values}}}"#);
        let name = |name: &str| Some(name.to_owned());
        for (values, expected, left) in [
            (
                r#""temperature":null,"humidity":60"#,
                (0, name("temperature"), "not_a_number"),
                "humidity",
            ),
            (
                r#""humidity":NaN,"temperature":20"#,
                (1, name("humidity"), "not_a_number"),
                "temperature",
            ),
        ] {
            let payload = payload(values);
            assert_eq!(refused(&payload), [expected]);
            assert_eq!(taken(&payload).unwrap()[0].0, left);
        }
        let none = payload(r#""temperature":null,"humidity":"60""#);
        let error = taken(&none).unwrap_err();
        assert_eq!(error.to_string(), "temperature must be a number, not null");
    }

    #[test]
    fn without_a_good_reading_the_message_has_its_first_defect() {
        for (readings, expected) in [
            (r#"{"sensor":"s","value":null},{}"#, "not_a_number"),
            ("{},null", "missing_sensor"),
            (r#"{"sensor":"s","value":NaN}"#, "not_json"),
            (r#"{"sensor":"s","value":1e999}"#, "number_out_of_range"),
        ] {
            let error = taken(&with(readings)).unwrap_err();
            assert_eq!(error.reason(), expected, "{readings}");
        }
    }

    #[test]
    fn defects_of_the_message_refuse_it_whole() {
        let good = with(GOOD);
        for (payload, expected) in [
            (good.replace(r#""d""#, "null"), "missing_device_id"),
            (good.replace(":1,", ":null,"), "missing_timestamp"),
            (good.replace(":1,", ":NaN,"), "not_json"),
            (good.replace(r#""d","#, r#""d","tenant":1,"#), "wrong_type"),
            (good.replace(r#""d","#, r#""d","rssi":NaN,"#), "not_json"),
            (good.replace(']', ",NaN"), "not_json"),
            (with(&format!("{GOOD},NaN")), "not_json"),
            (
                with(&format!(r#"{GOOD},{{"sensor":"s","value":1,"unit":NaN}}"#)),
                "not_json",
            ),
        ] {
            let error = taken(&payload).unwrap_err();
            assert_eq!(error.reason(), expected, "{payload}");
        }
    }

    #[test]
    fn too_many_defective_readings_refuse_the_message() {
        let payload = |bad| with(&format!("{GOOD}{}", ",{}".repeat(bad)));
        assert_eq!(refused(&payload(MAX_REFUSED)).len(), MAX_REFUSED);
        let error = taken(&payload(MAX_REFUSED + 1)).unwrap_err();
        assert_eq!(error.to_string(), "readings[1]: sensor is missing");
    }

    #[test]
    fn long_names_are_shortened() {
        let long = "\u{e4}".repeat(100);
        let bad = format!(r#"{GOOD},{{"sensor":"{long}"}}"#);
        let name = refused(&with(&bad))[0].1.clone();
        assert_eq!(name, Some("\u{e4}".repeat(64)));
    }

    #[test]
    fn numbers_in_strings_and_finite_ones_are_not_marked() {
        for text in [
            r#"{"a":"NaN","b\":inf,":"x\\","c":[1,1e300,-0.5,true,null]}"#,
            "\"NaN",
            "\"\\",
            "",
        ] {
            assert_eq!(mark_not_finite(text), None, "{text}");
        }
        let marked = mark_not_finite("[NaN,1e999]").unwrap();
        assert_eq!(marked, ("[\"\u{7f}\",\"\u{7f}99\"]".to_owned(), 2));
    }
}
