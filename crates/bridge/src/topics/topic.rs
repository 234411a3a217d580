//! One Kafka topic of a session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use iot_service::Backoff;
use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use crate::ring::Seq;

/// The delay before a record is sent again to a topic that is created again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest delay before a record is sent again to a topic that is missing and that Kafka
/// does not authorise the bridge to create.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    /// `None` for the bridge's own topics, which have no limits.
    pub(super) tenant: Option<String>,
    pub(super) state: State,
    /// Why it does not exist, as far as the bridge knows, although messages may need it.
    pub(super) trouble: Option<RDKafkaErrorCode>,
    /// Attempts to write to it although it is missing and may not be created.
    pub(super) attempts: Backoff,
    /// The delay before a record is sent again after the topic was missing.
    pub(super) missing_delay: Duration,
    pub(super) lookup: Lookup,
    /// Messages to be written, in the order of their arrival.
    pub(super) queue: VecDeque<Seq>,
    /// When the next batch may be sent after a failure.
    pub(super) retry_at: Instant,
    /// Until when the next batch lingers.
    pub(super) lingers_until: Instant,
    /// Records without a delivery report.
    pub(super) in_flight: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It exists.
    Ready,
    /// The bridge never creates it. It may exist; producing to it shows that.
    Assumed,
    /// The same, and the bridge asks for its creation again if it does not exist: Kafka did
    /// not authorise that.
    Denied(RDKafkaErrorCode),
    /// It is being created.
    Creating,
    /// Kafka rejects it permanently.
    Refused,
}

/// The lookup of what an earlier process wrote to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    NotStarted,
    Running,
    Done,
}

impl Topic {
    /// A topic that may exist.
    pub(super) fn new(name: Arc<str>, tenant: Option<String>, now: Instant) -> Self {
        Self {
            name,
            tenant,
            state: State::Assumed,
            trouble: None,
            attempts: Backoff::new(RETRY_AFTER, MAX_RETRY_AFTER),
            missing_delay: RETRY_AFTER,
            lookup: Lookup::NotStarted,
            queue: VecDeque::new(),
            retry_at: now,
            lingers_until: now,
            in_flight: 0,
        }
    }

    /// Whether the queue waits for nothing but time.
    fn is_free(&self) -> bool {
        self.state != State::Creating && self.lookup != Lookup::Running && self.in_flight == 0
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.is_free()
            .then(|| self.retry_at.max(self.lingers_until))
    }

    pub(super) fn is_due(&self, now: Instant, skip_linger: bool) -> bool {
        if skip_linger {
            self.is_free() && self.retry_at <= now
        } else {
            self.due().is_some_and(|due| due <= now)
        }
    }
}
