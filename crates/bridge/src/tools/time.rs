//! Points in time as an operator writes them.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// Reads RFC 3339, such as `2026-11-21T10:00:00Z`, or how long before `now`,
/// such as `2h ago` or `-2h`. Milliseconds since the epoch.
fn parse(text: &str, now: Timestamp) -> Result<i64, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let expected =
        || format!("{text:?} is not a time such as 2026-11-21T10:00:00Z, \"2h ago\" or -2h");
    let span: Span = text.parse().map_err(|_| expected())?;
    if span.is_positive() {
        return Err(format!("{text:?} is in the future: write \"{text} ago\""));
    }
    // By the calendar, so that days are taken too.
    let time = now.to_zoned(TimeZone::UTC).checked_add(span);
    Ok(time.map_err(|_| expected())?.timestamp().as_millisecond())
}

/// [`parse`] for the command line.
pub(super) fn parse_arg(text: &str) -> Result<i64, String> {
    parse(text, Timestamp::now())
}

/// RFC 3339 with milliseconds.
pub(super) fn show(millis: i64) -> String {
    match Timestamp::from_millisecond(millis) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => millis.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-11-21T09:30:00Z", "2026-11-21T09:30:00.000Z"),
            ("2026-11-21T10:30:00+01:00", "2026-11-21T09:30:00.000Z"),
            ("2h ago", "2026-11-21T08:00:00.000Z"),
            ("-2h", "2026-11-21T08:00:00.000Z"),
            ("1d 30m ago", "2026-11-20T09:30:00.000Z"),
            ("-PT90S", "2026-11-21T09:58:30.000Z"),
        ] {
            assert_eq!(parse(text, now).map(show), Ok(expected.into()), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_or_to_come_is_refused() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(parse("2h", now).unwrap_err().contains("2h ago"));
        for text in ["", "soon", "2026-11-21", "-2", "999999y ago"] {
            let refused = parse(text, now).unwrap_err();
            assert!(refused.contains("is not a time"), "{text}: {refused}");
        }
    }
}
