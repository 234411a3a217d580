use proptest::prelude::*;

use super::strategies::{damaged, finite, json, message, value};
use super::*;

const FULL: &str = r#"{"device_id":"d1","tenant":"acme","project":"plant","seq":7,"timestamp":1767225600123,"location":{"building":"b1","floor":"f2","room":"r3"},"readings":[{"sensor":"temperature","value":21.5,"unit":"celsius","quality":"good"},{"sensor":"switch","value":1.0,"quality":"bad"}]}"#;

fn reason(payload: &str) -> &'static str {
    parse(payload.as_bytes()).expect_err(payload).reason()
}

fn full() -> DeviceMessage<'static> {
    DeviceMessage {
        device_id: "d1".into(),
        tenant: Some("acme".into()),
        project: Some("plant".into()),
        seq: Some(7),
        timestamp: 1_767_225_600_123,
        location: Some(Location {
            building: "b1".into(),
            floor: "f2".into(),
            room: "r3".into(),
        }),
        readings: vec![
            Reading {
                sensor: "temperature".into(),
                value: 21.5,
                unit: Some("celsius".into()),
                quality: Quality::Good,
            },
            Reading {
                sensor: "switch".into(),
                value: 1.0,
                unit: None,
                quality: Quality::Bad,
            },
        ],
    }
}

/// A message with the one reading `reading`.
fn with_reading(reading: &str) -> String {
    format!(r#"{{"device_id":"d","timestamp":1,"readings":[{reading}]}}"#)
}

/// A complete message with `fields` added.
fn with_fields(fields: &str) -> String {
    format!(r#"{{"device_id":"d","timestamp":1,"readings":[{{"sensor":"s","value":2}}],{fields}}}"#)
}

#[test]
fn reads_every_field() {
    assert_eq!(parse(FULL.as_bytes()), Ok(full()));
}

#[test]
fn writes_what_it_reads() {
    let mut out = b"before ".to_vec();
    full().write_json(&mut out);
    assert_eq!(String::from_utf8(out).unwrap(), format!("before {FULL}"));
}

#[test]
fn borrows_text_without_escapes() {
    let message = parse(FULL.as_bytes()).unwrap();
    assert!(matches!(message.device_id, Cow::Borrowed(_)));
    assert!(matches!(message.tenant, Some(Cow::Borrowed(_))));
    assert!(matches!(message.readings[0].sensor, Cow::Borrowed(_)));
    let escaped = FULL.replace("d1", r"d\u0031");
    let message = parse(escaped.as_bytes()).unwrap();
    assert!(matches!(message.device_id, Cow::Owned(_)));
    assert_eq!(message.into_owned(), full());
}

#[test]
fn optional_fields_may_be_absent_or_null() {
    let absent =
        parse(br#"{"device_id":"d","timestamp":1,"readings":[{"sensor":"s","value":2}]}"#).unwrap();
    assert_eq!(absent.location, None);
    assert_eq!(absent.readings[0].quality, Quality::Good);
    let null = br#"{"tenant":null,"project":null,"seq":null,"location":null,"readings":
        [{"quality":null,"unit":null,"value":2,"sensor":"s"}],"timestamp":1,"device_id":"d"}"#;
    assert_eq!(parse(null), Ok(absent));
}

#[test]
fn parts_of_a_location_may_be_absent() {
    let payload = with_fields(r#""location":{"floor":"f1","wing":"w"}"#);
    let location = parse(payload.as_bytes()).unwrap().location.unwrap();
    assert_eq!(location.floor, "f1");
    assert_eq!((&*location.building, &*location.room), ("", ""));
}

#[test]
fn unknown_fields_are_ignored_even_twice() {
    let payload = with_fields(r#""x":[{"y":[1,"a"]}],"x":null,"temperature":"hot""#);
    assert!(parse(payload.as_bytes()).is_ok());
}

#[test]
fn reads_the_legacy_format() {
    let message =
        parse(br#"{"deviceId":"d1","timestamp":1767225600,"temperature":21.5,"humidity":60}"#)
            .unwrap();
    assert_eq!(message.device_id, "d1");
    assert_eq!(message.timestamp, 1_767_225_600_000);
    let readings: Vec<_> = message
        .readings
        .iter()
        .map(|r| (&*r.sensor, r.value, r.unit.as_deref()))
        .collect();
    assert_eq!(
        readings,
        [
            ("temperature", 21.5, Some("celsius")),
            ("humidity", 60.0, Some("percent"))
        ]
    );
}

#[test]
fn legacy_seconds_may_have_a_fraction() {
    let payload = br#"{"temperature":1,"timestamp":1767225600.1234,"deviceId":"d"}"#;
    let message = parse(payload).unwrap();
    assert_eq!(message.timestamp, 1_767_225_600_123);
    assert_eq!(message.readings.len(), 1);
}

#[test]
fn fields_of_both_formats_are_ambiguous() {
    let both = r#"{"deviceId":"d","device_id":"d","timestamp":1,"temperature":1}"#;
    assert_eq!(reason(both), "mixed_formats");
    let readings = r#"{"deviceId":"d","timestamp":1,"readings":[{"sensor":"s","value":1}]}"#;
    assert_eq!(reason(readings), "mixed_formats");
}

#[test]
fn payloads_other_than_json_objects_are_refused() {
    assert_eq!(reason(""), "empty");
    assert_eq!(reason(" \r\n\t"), "empty");
    assert_eq!(reason("hello"), "not_json");
    assert_eq!(reason(&FULL[..FULL.len() - 1]), "not_json");
    assert_eq!(reason(&format!("{FULL} x")), "not_json");
    for other in ["[]", "1", "null", "true", "\"text\"", "-1.5"] {
        assert_eq!(reason(other), "wrong_type", "{other}");
    }
    assert_eq!(
        parse(b"{\"a\":\"\xff\"}"),
        Err(ParseError::NotUtf8 { at: 6 })
    );
}

#[test]
fn missing_and_empty_fields_are_named() {
    let readings = r#""readings":[{"sensor":"s","value":1}]"#;
    assert_eq!(reason("{}"), "missing_device_id");
    assert_eq!(
        reason(&format!(r#"{{"timestamp":1,{readings}}}"#)),
        "missing_device_id"
    );
    assert_eq!(
        reason(&format!(r#"{{"device_id":null,"timestamp":1,{readings}}}"#)),
        "missing_device_id"
    );
    assert_eq!(
        reason(&format!(r#"{{"device_id":"","timestamp":1,{readings}}}"#)),
        "empty_device_id"
    );
    assert_eq!(
        reason(&format!(r#"{{"device_id":"d",{readings}}}"#)),
        "missing_timestamp"
    );
    assert_eq!(reason(r#"{"device_id":"d","timestamp":1}"#), "no_readings");
    assert_eq!(
        reason(r#"{"device_id":"d","timestamp":1,"readings":[]}"#),
        "no_readings"
    );
    assert_eq!(reason(r#"{"deviceId":"d","timestamp":1}"#), "no_readings");
    assert_eq!(reason(&with_reading(r#"{"value":1}"#)), "missing_sensor");
    assert_eq!(
        reason(&with_reading(r#"{"sensor":"","value":1}"#)),
        "empty_sensor"
    );
    assert_eq!(reason(&with_reading(r#"{"sensor":"s"}"#)), "missing_value");
}

#[test]
fn values_that_stand_for_nan_or_infinity_are_refused() {
    for (value, expected) in [
        ("null", "not_a_number"),
        (r#""NaN""#, "not_a_number"),
        (r#""21.5""#, "not_a_number"),
        ("true", "not_a_number"),
        ("[1]", "not_a_number"),
        ("{}", "not_a_number"),
        ("1e999", "number_out_of_range"),
        ("-1e999", "number_out_of_range"),
        ("NaN", "not_json"),
        ("Infinity", "not_json"),
    ] {
        let payload = with_reading(&format!(r#"{{"sensor":"s","value":{value}}}"#));
        assert_eq!(reason(&payload), expected, "{value}");
        let legacy = format!(r#"{{"deviceId":"d","timestamp":1,"temperature":{value}}}"#);
        assert_eq!(reason(&legacy), expected, "{value}");
    }
}

#[test]
fn errors_name_the_field_and_the_type_found() {
    let payload = with_fields(r#""location":{"floor":[2]}"#);
    assert_eq!(
        parse(payload.as_bytes()).unwrap_err().to_string(),
        "location.floor must be text, not an array"
    );
    for fields in [
        r#""tenant":1"#,
        r#""project":{}"#,
        r#""seq":-1"#,
        r#""seq":1.0"#,
        r#""seq":18446744073709551616"#,
        r#""seq":"1""#,
        r#""location":"b1""#,
    ] {
        assert_eq!(reason(&with_fields(fields)), "wrong_type", "{fields}");
    }
    for reading in [
        "1",
        "null",
        r#"{"sensor":1,"value":1}"#,
        r#"{"sensor":"s","value":1,"unit":1}"#,
        r#"{"sensor":"s","value":1,"quality":1}"#,
    ] {
        assert_eq!(reason(&with_reading(reading)), "wrong_type", "{reading}");
    }
    assert_eq!(reason(r#"{"device_id":1,"timestamp":1}"#), "wrong_type");
    assert_eq!(
        reason(r#"{"device_id":"d","timestamp":"2026-01-01"}"#),
        "wrong_type"
    );
    assert_eq!(
        reason(r#"{"device_id":"d","timestamp":1,"readings":{}}"#),
        "wrong_type"
    );
    assert_eq!(
        reason(&with_reading(
            r#"{"sensor":"s","value":1,"quality":"great"}"#
        )),
        "unknown_quality"
    );
}

#[test]
fn errors_of_a_reading_have_its_position_and_what_was_found() {
    let second = |reading: &str| with_reading(&format!(r#"{{"sensor":"s","value":1}},{reading}"#));
    for (payload, expected) in [
        (
            second(r#"{"sensor":"s","value":"21.5"}"#),
            "readings[1]: value must be a number, not text",
        ),
        (
            second(r#"{"sensor":"s","value":1,"unit":1}"#),
            "readings[1]: unit must be text, not a number",
        ),
        (
            second(r#"{"sensor":"s","value":1,"quality":"gr\neat"}"#),
            r#"readings[1]: quality must be good, uncertain or bad, not "gr\neat""#,
        ),
        (
            second("[]"),
            "readings[1]: the reading must be an object, not an array",
        ),
        (
            r#"{"deviceId":"d","timestamp":1,"humidity":"60"}"#.to_owned(),
            "humidity must be a number, not text",
        ),
    ] {
        let error = parse(payload.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn quoted_text_is_short() {
    assert_eq!(quoted("a\u{7}"), r#""a\u{7}""#);
    let long = quoted(&"\u{e4}".repeat(33));
    assert_eq!(long, format!("{:?}...", "\u{e4}".repeat(32)));
}

#[test]
fn duplicate_fields_are_refused() {
    for payload in [
        with_fields(r#""device_id":"d""#),
        with_fields(r#""seq":1,"seq":1"#),
        with_fields(r#""seq":null,"seq":1"#),
        with_fields(r#""location":{"room":"a","room":"b"}"#),
        with_reading(r#"{"sensor":"s","value":1,"value":2}"#),
        r#"{"deviceId":"a","deviceId":"b","timestamp":1,"temperature":1}"#.to_owned(),
    ] {
        assert_eq!(reason(&payload), "duplicate_field", "{payload}");
    }
}

#[test]
fn times_beyond_the_range_are_refused() {
    for time in ["9223372036854775808", "1e300", "-1e16"] {
        let payload = format!(
            r#"{{"device_id":"d","timestamp":{time},"readings":[{{"sensor":"s","value":1}}]}}"#
        );
        assert_eq!(reason(&payload), "timestamp_out_of_range", "{time}");
        let legacy = format!(r#"{{"deviceId":"d","timestamp":{time},"temperature":1}}"#);
        assert_eq!(reason(&legacy), "timestamp_out_of_range", "{time}");
    }
    let legacy = r#"{"deviceId":"d","timestamp":9223372036854775,"temperature":1}"#;
    assert!(parse(legacy.as_bytes()).is_ok());
    assert_eq!(
        reason(&legacy.replace("775,", "776,")),
        "timestamp_out_of_range"
    );
}

#[test]
fn depth_does_not_grow_the_stack() {
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    assert!(parse(with_fields(&format!(r#""x":{deep}"#)).as_bytes()).is_ok());
    assert_eq!(
        reason(&with_fields(&format!(r#""tenant":{deep}"#))),
        "wrong_type"
    );
    assert_eq!(reason(&with_reading(&deep)), "wrong_type");
    assert_eq!(reason(&deep), "wrong_type");
    assert_eq!(reason(&"[".repeat(1_000_000)), "not_json");
    assert_eq!(reason(&r#"{"location":"#.repeat(100_000)), "not_json");
}

#[test]
fn malformed_json_after_an_invalid_reading_takes_precedence() {
    let payload = r#"{"device_id":"d","timestamp":1,"readings":[{"sensor":1},{]}"#;
    assert_eq!(reason(payload), "not_json");
}

#[test]
fn every_reason_is_listed() {
    for payload in [
        "",
        "x",
        "[]",
        "{}",
        r#"{"device_id":"","timestamp":1}"#,
        r#"{"device_id":"d"}"#,
        r#"{"device_id":"d","timestamp":1}"#,
        r#"{"device_id":"d","timestamp":1e999}"#,
        r#"{"device_id":"d","timestamp":1e99}"#,
        r#"{"device_id":"d","device_id":"d"}"#,
        r#"{"device_id":"d","deviceId":"d"}"#,
        &with_reading("{}"),
        &with_reading(r#"{"sensor":""}"#),
        &with_reading(r#"{"sensor":"s"}"#),
        &with_reading(r#"{"sensor":"s","value":""}"#),
        &with_reading(r#"{"sensor":"s","value":1,"quality":""}"#),
    ] {
        let reason = reason(payload);
        assert!(ParseError::REASONS.contains(&reason), "{reason}");
    }
    let not_utf8 = parse(b"\xff").unwrap_err().reason();
    assert!(ParseError::REASONS.contains(&not_utf8));
}

proptest! {
    #[test]
    fn written_messages_are_read_back(message in message(value())) {
        let bytes = json(&message);
        prop_assert_eq!(parse(&bytes).map(DeviceMessage::into_owned), Ok(message.clone()));
    }

    #[test]
    fn written_values_are_read_back_to_the_bit(value in finite()) {
        for number in [format!("{value}"), format!("{value:e}")] {
            let payload = with_reading(&format!(r#"{{"sensor":"s","value":{number}}}"#));
            let read = parse(payload.as_bytes()).unwrap().readings[0].value;
            prop_assert_eq!(read, value);
        }
    }

    #[test]
    fn long_numbers_are_read_as_the_nearest_float(number in "-?[1-9][0-9]{15,120}(\\.[0-9]{1,40})?") {
        let payload = with_reading(&format!(r#"{{"sensor":"s","value":{number}}}"#));
        let read = parse(payload.as_bytes()).unwrap().readings[0].value;
        prop_assert_eq!(read, number.parse::<f64>().unwrap());
    }

    #[test]
    fn any_bytes_are_accepted_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn damaged_messages_are_accepted_or_refused(bytes in damaged(message(any::<f64>()))) {
        if let Ok(message) = parse(&bytes) {
            prop_assert!(!message.device_id.is_empty() && !message.readings.is_empty());
            prop_assert!(message.readings.iter().all(|r| r.value.is_finite()));
        }
        let mut refused = Vec::new();
        let partial = parse_partial(&bytes, &mut refused);
        match partial {
            Ok(message) if refused.is_empty() => prop_assert_eq!(parse(&bytes), Ok(message)),
            Ok(message) => {
                prop_assert!(parse(&bytes).is_err());
                prop_assert!(!message.readings.is_empty());
                prop_assert!(message.readings.iter().all(|r| r.value.is_finite()));
            }
            Err(_) => prop_assert!(parse(&bytes).is_err()),
        }
    }

    #[test]
    fn any_json_is_accepted_or_refused(
        text in r#"\{("(device_id|deviceId|timestamp|readings|temperature|seq)":(1|-1.5|"a"|null|\[\]|\{\}|\[\{"sensor":"s","value":1\}\]),?){0,6}\}"#,
    ) {
        if let Err(error) = parse(text.as_bytes()) {
            prop_assert!(ParseError::REASONS.contains(&error.reason()));
        }
    }
}
