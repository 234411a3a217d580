//! Points in time on the command line.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// Parses a time in RFC 3339, such as `2026-11-21T10:00:00Z`, or relative to now: `2h`,
/// `2h ago` and `-2h` all mean two hours ago.
///
/// # Errors
/// `text` is neither.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    before(text, Timestamp::now())
}

fn before(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let wrong =
        || format!("{text:?} is not a time such as 2026-11-21T10:00:00Z, or 2h for two hours ago");
    let span: Span = text.parse().map_err(|_| wrong())?;
    // A zoned time, because only that accepts days.
    let time = now.to_zoned(TimeZone::UTC).checked_sub(span.abs());
    Ok(time.map_err(|_| wrong())?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_relative() {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-11-21T09:30:00Z", "2026-11-21T09:30:00Z"),
            ("2026-11-21T10:30:00+01:00", "2026-11-21T09:30:00Z"),
            ("2h", "2026-11-21T08:00:00Z"),
            ("2h ago", "2026-11-21T08:00:00Z"),
            ("-2h", "2026-11-21T08:00:00Z"),
            ("1d 30m ago", "2026-11-20T09:30:00Z"),
            ("-PT90S", "2026-11-21T09:58:30Z"),
        ] {
            let found = before(text, now).map(|time| time.to_string());
            assert_eq!(found, Ok(expected.into()), "{text}");
        }
    }

    #[test]
    fn invalid_times_are_refused() {
        for text in ["", "soon", "2026-11-21", "-2", "999999y"] {
            let refused = parse(text).unwrap_err();
            assert!(
                refused.starts_with(&format!("{text:?} is not a time")),
                "{refused}"
            );
        }
    }
}
