//! What becomes of alerts and notifications, as metrics tell it.

/// What became of a notification of the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notified {
    Accepted,
    /// The endpoint will never take it.
    Refused,
    /// The endpoint was away for too long.
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

/// What became of an alert that the webhook was to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is in a notification that was accepted.
    Listed,
    /// It is counted in one.
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
