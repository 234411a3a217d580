//! Names a Kafka topic within one session.

/// Index of a topic in a session's [`Topics`](crate::topics::Topics).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TopicId(pub(crate) usize);
