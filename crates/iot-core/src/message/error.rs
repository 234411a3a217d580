//! The errors of parsing a device message.

use std::fmt;

/// Why a payload is not a device message.
///
/// The text never contains the payload, because it is written to logs and
/// record headers.
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
    /// A value is infinite or NaN, which only Protobuf can express.
    #[error("the value of a reading is not finite")]
    NotFinite,
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
    #[error("the value of a reading must be a number, not {found}")]
    NotANumber {
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
    #[error("the timestamp is out of range")]
    TimestampOutOfRange,
    /// The quality is not one of good, uncertain, bad.
    #[error("quality must be good, uncertain or bad")]
    UnknownQuality,
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
            Self::TimestampOutOfRange => "timestamp_out_of_range",
            Self::UnknownQuality => "unknown_quality",
            Self::NoReadings => "no_readings",
        }
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
