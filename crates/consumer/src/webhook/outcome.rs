//! Results of alerts and notifications, which are labels of metrics.

/// The result of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notified {
    Accepted,
    /// The endpoint refused it permanently.
    Refused,
    /// The endpoint failed for too long.
    Failed,
}

impl Notified {
    pub(crate) const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::Failed];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The result of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is in a notification that was accepted.
    Listed,
    /// It is counted in one that was accepted.
    Truncated,
    /// Its notification was not accepted.
    Undelivered,
    /// From before this process.
    Old,
    QueueFull,
    TooManyGroups,
}

impl Told {
    pub(crate) const ALL: [Self; 6] = [
        Self::Listed,
        Self::Truncated,
        Self::Undelivered,
        Self::Old,
        Self::QueueFull,
        Self::TooManyGroups,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Truncated => "truncated",
            Self::Undelivered => "undelivered",
            Self::Old => "old",
            Self::QueueFull => "queue_full",
            Self::TooManyGroups => "too_many_groups",
        }
    }
}
