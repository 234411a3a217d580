//! Why the consumer refuses a message: the reasons of parsing, identification, validation and
//! the fold.

use iot_core::message::ParseError;

/// Why a message goes to the dead-letter topic. [`reason`](Self::reason) is the label of
/// metrics and the header `dlq-reason`; the text is for logs and the header `dlq-detail`. It
/// names the field, what was expected and what was found, and quotes short values only.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Unreadable(#[from] ParseError),
    #[error("{field} must be {expected} as in the name of the topic, not {found}")]
    ContradictsTopic {
        /// `tenant` or `project`.
        field: &'static str,
        expected: String,
        /// As [`quoted`](iot_core::message::quoted).
        found: String,
    },
    #[error("{field} must be 1 to 249 letters, digits, _ and -, not {found}")]
    InvalidTenantOrProject {
        field: &'static str,
        /// As [`quoted`](iot_core::message::quoted).
        found: String,
    },
    #[error("device_id {0}")]
    InvalidDeviceId(BadText),
    #[error("readings[{index}]: sensor {defect}")]
    InvalidSensor { index: usize, defect: BadText },
    #[error("location.{part} {defect}")]
    InvalidLocation { part: &'static str, defect: BadText },
    #[error("the value of {sensor} must be from {least:?} to {greatest:?}, not {found:?}")]
    ImpossibleValue {
        sensor: String,
        least: f64,
        greatest: f64,
        found: f64,
    },
    #[error("the unit of {sensor} must be {expected}, not {found}")]
    UnexpectedUnit {
        sensor: String,
        expected: String,
        /// As [`quoted`](iot_core::message::quoted).
        found: String,
    },
    #[error(
        "timestamp must be at most {latest}, which is validate.max_future after the record's or \
         in the year 2099, not {found}"
    )]
    TimestampInFuture { latest: i64, found: i64 },
    #[error("timestamp must be at least {earliest}, in the year 2000, not {found}")]
    TimestampImplausible { earliest: i64, found: i64 },
    #[error(transparent)]
    Full(#[from] iot_fold::Refusal),
}

impl Refusal {
    /// Reasons besides those of [`ParseError`] and of the fold, so that counters start at zero.
    pub(crate) const REASONS: &'static [&'static str] = &[
        "contradicts_topic",
        "invalid_tenant_or_project",
        "invalid_device_id",
        "invalid_sensor",
        "invalid_location",
        "impossible_value",
        "unexpected_unit",
        "timestamp_in_future",
        "timestamp_implausible",
    ];

    /// Reasons to refuse a reading alone, so that counters start at zero.
    pub(crate) const OF_READINGS: &'static [&'static str] = &[
        "wrong_type",
        "not_a_number",
        "missing_sensor",
        "missing_value",
        "empty_sensor",
        "duplicate_field",
        "unknown_quality",
        "invalid_sensor",
        "impossible_value",
        "unexpected_unit",
        "too_many_sensors",
    ];

    /// Value of the label `reason` and of the header `dlq-reason`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(error) => error.reason(),
            Self::ContradictsTopic { .. } => "contradicts_topic",
            Self::InvalidTenantOrProject { .. } => "invalid_tenant_or_project",
            Self::InvalidDeviceId(_) => "invalid_device_id",
            Self::InvalidSensor { .. } => "invalid_sensor",
            Self::InvalidLocation { .. } => "invalid_location",
            Self::ImpossibleValue { .. } => "impossible_value",
            Self::UnexpectedUnit { .. } => "unexpected_unit",
            Self::TimestampInFuture { .. } => "timestamp_in_future",
            Self::TimestampImplausible { .. } => "timestamp_implausible",
            Self::Full(full) => full.reason(),
        }
    }

    /// The sensor that caused it, for the header `dlq-sensor`.
    pub(crate) fn sensor(&self) -> Option<&str> {
        match self {
            Self::ImpossibleValue { sensor, .. } | Self::UnexpectedUnit { sensor, .. } => {
                Some(sensor)
            }
            _ => None,
        }
    }
}

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadText {
    #[error("is empty")]
    Empty,
    #[error("has {bytes} bytes, more than {longest}")]
    TooLong { bytes: usize, longest: usize },
    #[error("has a control character at byte {at}")]
    Control { at: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_start_at_zero_for_every_reason() {
        let [field, part] = [""; 2];
        let [sensor, expected, found] = [const { String::new() }; 3];
        let defect = BadText::Empty;
        let own = [
            Refusal::ContradictsTopic {
                field,
                expected: expected.clone(),
                found: found.clone(),
            },
            Refusal::InvalidTenantOrProject {
                field,
                found: found.clone(),
            },
            Refusal::InvalidDeviceId(defect),
            Refusal::InvalidSensor { index: 0, defect },
            Refusal::InvalidLocation { part, defect },
            Refusal::ImpossibleValue {
                sensor: sensor.clone(),
                least: 0.0,
                greatest: 1.0,
                found: 2.0,
            },
            Refusal::UnexpectedUnit {
                sensor,
                expected,
                found,
            },
            Refusal::TimestampInFuture {
                latest: 0,
                found: 1,
            },
            Refusal::TimestampImplausible {
                earliest: 1,
                found: 0,
            },
        ];
        assert_eq!(Refusal::REASONS, own.map(|refusal| refusal.reason()));
        for reason in Refusal::OF_READINGS {
            let known = [
                ParseError::REASONS,
                Refusal::REASONS,
                iot_fold::Refusal::REASONS,
            ];
            assert!(known.iter().any(|known| known.contains(reason)), "{reason}");
        }
    }
}
