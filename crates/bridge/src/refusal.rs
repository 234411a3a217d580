//! Why a message goes to the dead-letter topic instead of its own.

use iot_core::route::RouteError;

/// A permanent reason not to write a message to the topic it was meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// The routing rules reject its MQTT topic, with this reason.
    Route(&'static str),
    /// Its MQTT topic is not UTF-8.
    TopicNotUtf8,
    /// Its MQTT 5 properties are not valid.
    InvalidProperties,
    /// Its Kafka topic differs from an existing one only in `.` and `_`.
    TopicCollision,
    /// Its tenant has opened as many topics as it may.
    TopicLimit,
    /// Kafka rejects the topic's name or settings.
    TopicRefused,
    /// The topic does not exist and the bridge may not create it.
    UnknownTopic,
    /// Kafka does not authorise the bridge to write to the topic.
    NotAuthorized,
    /// Larger than the configured limit, or than the topic accepts.
    TooLarge,
    /// Kafka rejects the record itself.
    InvalidRecord,
}

impl Refusal {
    /// The value of the `dlq-reason` header and of the `reason` label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Route(reason) => reason,
            Self::TopicNotUtf8 => "topic_not_utf8",
            Self::InvalidProperties => "invalid_properties",
            Self::TopicCollision => "topic_collision",
            Self::TopicLimit => "topic_limit",
            Self::TopicRefused => "topic_refused",
            Self::UnknownTopic => "unknown_topic",
            Self::NotAuthorized => "not_authorized",
            Self::TooLarge => "too_large",
            Self::InvalidRecord => "invalid_record",
        }
    }

    /// Every refusal, for the metrics that exist from the start.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let own = [
            Self::TopicNotUtf8,
            Self::InvalidProperties,
            Self::TopicCollision,
            Self::TopicLimit,
            Self::TopicRefused,
            Self::UnknownTopic,
            Self::NotAuthorized,
            Self::TooLarge,
            Self::InvalidRecord,
        ];
        RouteError::REASONS
            .iter()
            .map(|reason| Self::Route(reason))
            .chain(own)
    }
}
