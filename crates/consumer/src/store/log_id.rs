//! Which log a stored offset belongs to.

use kafka_fetch::{Batch, TopicId};

/// The log up to a stored offset. What is unknown is not compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LogId {
    /// Id of the topic, another one if it was deleted and created again (KIP-516).
    pub(crate) topic_id: Option<TopicId>,
    /// Leader epoch of the last batch before the offset (KIP-320).
    pub(crate) leader_epoch: Option<i32>,
}

impl LogId {
    /// After another batch. What the batch does not tell stays as it is known.
    pub(crate) fn after(self, batch: &Batch) -> Self {
        Self {
            topic_id: batch.topic_id().or(self.topic_id),
            leader_epoch: batch.partition_leader_epoch().or(self.leader_epoch),
        }
    }

    /// The topic's id, or a word for an unknown one.
    pub(crate) fn topic_name(self) -> String {
        self.topic_id
            .map_or_else(|| "unknown".to_owned(), |id| id.to_string())
    }
}
