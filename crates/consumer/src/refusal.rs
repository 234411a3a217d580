//! Why the consumer refuses a message: the reasons of parsing, identification, validation and
//! the fold.

use iot_core::message::ParseError;

/// Why a message goes to the dead-letter topic. [`reason`](Self::reason) is the label of
/// metrics and the header `dlq-reason`; the text is for logs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Unreadable(#[from] ParseError),
    #[error("the payload names another tenant or project than its topic")]
    ContradictsTopic,
    #[error("tenant or project is too long or not made of letters, digits, _ and - only")]
    InvalidTenantOrProject,
    #[error("the device id is too long or has control characters")]
    InvalidDeviceId,
    #[error("a sensor's name is too long or has control characters")]
    InvalidSensor,
    #[error("the location is too long or has control characters")]
    InvalidLocation,
    #[error("the value of {sensor} is impossible")]
    ImpossibleValue { sensor: String },
    #[error("the unit of {sensor} is invalid, or not that of the sensor catalogue")]
    UnexpectedUnit { sensor: String },
    #[error("the timestamp is too far ahead of the record's, or after the year 2099")]
    TimestampInFuture,
    #[error("the timestamp is before the year 2000")]
    TimestampImplausible,
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

    /// Value of the label `reason` and of the header `dlq-reason`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(error) => error.reason(),
            Self::ContradictsTopic => "contradicts_topic",
            Self::InvalidTenantOrProject => "invalid_tenant_or_project",
            Self::InvalidDeviceId => "invalid_device_id",
            Self::InvalidSensor => "invalid_sensor",
            Self::InvalidLocation => "invalid_location",
            Self::ImpossibleValue { .. } => "impossible_value",
            Self::UnexpectedUnit { .. } => "unexpected_unit",
            Self::TimestampInFuture => "timestamp_in_future",
            Self::TimestampImplausible => "timestamp_implausible",
            Self::Full(full) => full.reason(),
        }
    }

    /// The sensor that caused it, for the header `dlq-sensor`.
    pub(crate) fn sensor(&self) -> Option<&str> {
        match self {
            Self::ImpossibleValue { sensor } | Self::UnexpectedUnit { sensor } => Some(sensor),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_start_at_zero_for_every_reason() {
        let sensor = String::new();
        let own = [
            Refusal::ContradictsTopic,
            Refusal::InvalidTenantOrProject,
            Refusal::InvalidDeviceId,
            Refusal::InvalidSensor,
            Refusal::InvalidLocation,
            Refusal::ImpossibleValue {
                sensor: sensor.clone(),
            },
            Refusal::UnexpectedUnit { sensor },
            Refusal::TimestampInFuture,
            Refusal::TimestampImplausible,
        ];
        assert_eq!(Refusal::REASONS, own.map(|refusal| refusal.reason()));
    }
}
