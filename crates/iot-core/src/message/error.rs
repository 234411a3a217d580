//! Why a payload is not a device message.

use std::fmt;

/// Why a payload is not a device message.
///
/// The text never repeats the payload: it ends in logs and record headers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// No bytes, or only white space.
    #[error("the payload is empty")]
    Empty,
    /// Not UTF-8, and JSON must be (RFC 8259, 8.1).
    #[error("the payload is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// First byte that is wrong, from 0.
        at: usize,
    },
    /// Not JSON. NaN and Infinity literals are not JSON either.
    #[error("the payload is not JSON: {detail}")]
    NotJson {
        /// What the JSON parser found, with line and column.
        detail: String,
    },
    /// Not a `DeviceMessage` of the `.proto`.
    #[error("the payload is not Protobuf: {detail}")]
    NotProtobuf {
        /// What the parser found.
        detail: String,
    },
    /// A value is infinite or not a number, which only Protobuf can say.
    #[error("the value of a reading is not finite")]
    NotFinite,
    /// A number that no 64-bit float can hold, such as `1e999`.
    #[error("a number is out of range: {detail}")]
    NumberOutOfRange {
        /// What the JSON parser found, with line and column.
        detail: String,
    },
    /// A field is there, but of another type.
    #[error("{field} must be {expected}, not {found}")]
    WrongType {
        /// Path of the field, such as `location.floor`.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: JsonKind,
    },
    /// The value of a reading is not a number: null, or text such as `"NaN"`.
    #[error("the value of a reading must be a number, not {found}")]
    NotANumber {
        /// What it is.
        found: JsonKind,
    },
    /// A field without which the message means nothing is absent or null.
    #[error("{field} is missing")]
    MissingField {
        /// Name of the field in the newer format.
        field: &'static str,
    },
    /// A field that must not be empty is.
    #[error("{field} is empty")]
    EmptyField {
        /// Name of the field in the newer format.
        field: &'static str,
    },
    /// A field is there twice, so that readers could disagree on its value.
    #[error("{field} is there more than once")]
    DuplicateField {
        /// Name of the field.
        field: &'static str,
    },
    /// Fields of both formats, so that it is unclear which one is meant.
    #[error("deviceId belongs to the older format, {field} to the newer one")]
    MixedFormats {
        /// The field of the newer format.
        field: &'static str,
    },
    /// The time is beyond what milliseconds in 64 bits can say.
    #[error("the timestamp is out of range")]
    TimestampOutOfRange,
    /// The quality is not one of good, uncertain, bad.
    #[error("quality must be good, uncertain or bad")]
    UnknownQuality,
    /// Nothing was measured.
    #[error("there are no readings")]
    NoReadings,
}

impl ParseError {
    /// Everything [`reason`](Self::reason) may answer, so that a counter for
    /// each can start at zero.
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

/// Type of a JSON value, as a message to people names it.
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
