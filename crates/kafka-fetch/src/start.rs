//! Where reading starts, and in which log.

use crate::protocol::metadata::TopicId;

/// Where a subscription starts, and what the program knows of the log up to there. What is
/// unknown is not compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Start {
    /// The first offset to read.
    pub offset: i64,
    /// Id of the topic that was read so far.
    pub topic_id: Option<TopicId>,
    /// Leader epoch of the last record before `offset`
    /// ([`Batch::partition_leader_epoch`](crate::Batch::partition_leader_epoch), KIP-320).
    pub last_epoch: Option<i32>,
    /// Epoch of the newest leader of the partition that is known
    /// ([`LogState::leader_epoch`](crate::LogState)).
    pub leader_epoch: Option<i32>,
}

impl Start {
    /// The newest leader epoch that is known; -1 for none. A broker that tells an older one has
    /// not heard of the leader's successor yet.
    pub(crate) fn newest_epoch(&self) -> i32 {
        self.last_epoch.max(self.leader_epoch).unwrap_or(-1)
    }
}

/// An offset of a log that nothing else is known of.
impl From<i64> for Start {
    fn from(offset: i64) -> Self {
        Self {
            offset,
            ..Self::default()
        }
    }
}
