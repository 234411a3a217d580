//! Why the fold refuses a message.

/// A message would make the state larger than the rules allow, or has nothing to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The partition has [`FoldRules::devices`](crate::FoldRules::devices), and this is one more.
    #[error("the partition has as many devices as limits.devices allows")]
    TooManyDevices,
    /// The device has [`FoldRules::sensors`](crate::FoldRules::sensors), and these are more.
    #[error("the device has as many sensors as limits.sensors allows")]
    TooManySensors,
    /// It has no readings, and the device has none of the sensors in
    /// [`Event::unmatched`](crate::Event::unmatched).
    #[error("the message has no readings")]
    NoReadings,
}

impl Refusal {
    /// All reasons that only the fold has, so that counters start at zero.
    pub const REASONS: &'static [&'static str] = &["too_many_devices", "too_many_sensors"];

    /// Short reason, for labels and headers.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooManyDevices => "too_many_devices",
            Self::TooManySensors => "too_many_sensors",
            Self::NoReadings => "no_readings",
        }
    }
}
