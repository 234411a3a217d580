//! The errors of parsing a device message.

use std::fmt;

/// Why a payload is not a device message.
///
/// The text is written to logs and record headers. It names the field, what was expected and
/// what was found; of the payload it has at most a short [`quoted`] value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The payload has no bytes, or only white space.
    #[error("the payload is empty")]
    Empty,
    /// The payload is not UTF-8, which JSON requires (RFC 8259, 8.1).
    #[error("the payload is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Position of the first invalid byte, from 0.
        at: usize,
    },
    /// The payload is not JSON. The literals NaN and Infinity are not JSON either.
    #[error("the payload is not JSON: {detail}")]
    NotJson {
        /// Message of the JSON parser, with line and column.
        detail: String,
    },
    /// The payload is not a `DeviceMessage` of the `.proto`.
    #[error("the payload is not Protobuf: {detail}")]
    NotProtobuf {
        /// Message of the Protobuf parser.
        detail: String,
    },
    /// A value is infinite or NaN, which only Protobuf and text that is not quite JSON can express.
    #[error("value must be finite")]
    NotFinite,
    /// A reading has that defect.
    #[error("readings[{index}]: {defect}")]
    InReading {
        /// Position of the reading in the message, from 0.
        index: usize,
        /// What is wrong with it.
        defect: Box<ParseError>,
    },
    /// A number exceeds the range of a 64-bit float, such as `1e999`.
    #[error("a number is out of range: {detail}")]
    NumberOutOfRange {
        /// Message of the JSON parser, with line and column.
        detail: String,
    },
    /// A field has the wrong type.
    #[error("{field} must be {expected}, not {found}")]
    WrongType {
        /// Path of the field, such as `location.floor`.
        field: &'static str,
        /// Expected type or range.
        expected: &'static str,
        /// Type in the payload.
        found: JsonKind,
    },
    /// The value of a reading is not a number: null, or text such as `"NaN"`.
    #[error("{field} must be a number, not {found}")]
    NotANumber {
        /// `value`, or the sensor in the older format.
        field: &'static str,
        /// Type in the payload.
        found: JsonKind,
    },
    /// A required field is absent or null.
    #[error("{field} is missing")]
    MissingField {
        /// Name of the field in the current format.
        field: &'static str,
    },
    /// A required field is empty.
    #[error("{field} is empty")]
    EmptyField {
        /// Name of the field in the current format.
        field: &'static str,
    },
    /// A field occurs twice, so parsers could disagree on its value.
    #[error("{field} occurs more than once")]
    DuplicateField {
        /// Name of the field.
        field: &'static str,
    },
    /// The message has fields of both formats, so its format is ambiguous.
    #[error("deviceId belongs to the older format, {field} to the current one")]
    MixedFormats {
        /// The field of the current format.
        field: &'static str,
    },
    /// The time does not fit into a signed 64-bit number of milliseconds.
    #[error("timestamp must fit into a signed 64-bit number of milliseconds")]
    TimestampOutOfRange,
    /// The time of a third-party format is there and is not a time.
    #[error(
        "{field} must be a time of RFC 3339 with its offset, or a number of seconds or \
         milliseconds, not {found}"
    )]
    InvalidTimestamp {
        /// Where it is, by the mapping: a JSON pointer (RFC 6901).
        field: String,
        /// The text as [`quoted`], or the type in the payload.
        found: String,
    },
    /// The quality is not one of good, uncertain, bad.
    #[error("quality must be good, uncertain or bad, not {found}")]
    UnknownQuality {
        /// The text as [`quoted`], or the number in Protobuf.
        found: String,
    },
    /// The list of readings is absent or empty.
    #[error("there are no readings")]
    NoReadings,
}

impl ParseError {
    /// All values that [`reason`](Self::reason) returns, so that the counter of
    /// each can be created at zero.
    pub const REASONS: &'static [&'static str] = &[
        "empty",
        "not_utf8",
        "not_json",
        "not_protobuf",
        "number_out_of_range",
        "wrong_type",
        "not_a_number",
        "missing_device_id",
        "missing_timestamp",
        "invalid_timestamp",
        "missing_sensor",
        "missing_value",
        "empty_device_id",
        "empty_sensor",
        "duplicate_field",
        "mixed_formats",
        "timestamp_out_of_range",
        "unknown_quality",
        "no_readings",
    ];

    /// Short reason for metrics labels and the `dlq-reason` header.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotUtf8 { .. } => "not_utf8",
            Self::NotJson { .. } => "not_json",
            Self::NotProtobuf { .. } => "not_protobuf",
            Self::NumberOutOfRange { .. } => "number_out_of_range",
            Self::WrongType { .. } => "wrong_type",
            Self::NotANumber { .. } | Self::NotFinite => "not_a_number",
            Self::MissingField { field } => match *field {
                "device_id" => "missing_device_id",
                "timestamp" => "missing_timestamp",
                "sensor" => "missing_sensor",
                _ => "missing_value",
            },
            Self::EmptyField { field } => match *field {
                "device_id" => "empty_device_id",
                _ => "empty_sensor",
            },
            Self::DuplicateField { .. } => "duplicate_field",
            Self::MixedFormats { .. } => "mixed_formats",
            Self::InReading { defect, .. } => defect.reason(),
            Self::TimestampOutOfRange => "timestamp_out_of_range",
            Self::InvalidTimestamp { .. } => "invalid_timestamp",
            Self::UnknownQuality { .. } => "unknown_quality",
            Self::NoReadings => "no_readings",
        }
    }

    /// The same as the error of a reading.
    pub(super) fn in_reading(self, index: usize) -> Self {
        Self::InReading {
            index,
            defect: Box::new(self),
        }
    }
}

/// Most characters of a [`quoted`] text.
const QUOTED: usize = 32;

/// The first 32 characters of a text in quotes, control characters escaped.
#[must_use]
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Type of a JSON value; `Display` gives its name with an article.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonKind {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean,
    /// A number of any kind.
    Number,
    /// A string.
    Text,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl fmt::Display for JsonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::Text => "text",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}
