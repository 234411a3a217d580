//! Points in time, in milliseconds since the Unix epoch.

use iot_service::moment;
use jiff::Timestamp;

/// [`moment::parse`] for the command line.
pub(super) fn parse_arg(text: &str) -> Result<i64, String> {
    moment::parse(text).map(Timestamp::as_millisecond)
}

/// RFC 3339 with milliseconds.
pub(super) fn show(millis: i64) -> String {
    match Timestamp::from_millisecond(millis) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => millis.to_string(),
    }
}
