//! Which records of a fetch belong to aborted transactions.
//!
//! The response lists the aborted transactions by producer and first offset. From that
//! offset on the producer's transactional batches are aborted, up to its control record.

use crate::protocol::fetch::AbortedTransaction;

#[derive(Debug)]
pub(super) struct AbortedTransactions {
    /// Those that start later, the last first.
    pending: Vec<AbortedTransaction>,
    /// Producers whose batches are aborted at the moment.
    active: Vec<i64>,
}

impl AbortedTransactions {
    pub(super) fn new(mut all: Vec<AbortedTransaction>) -> Self {
        all.sort_by_key(|one| std::cmp::Reverse(one.first_offset));
        Self {
            pending: all,
            active: Vec::new(),
        }
    }

    /// Notes those that start before an offset.
    pub(super) fn advance_to(&mut self, offset: i64) {
        while let Some(one) = self.pending.pop_if(|one| one.first_offset < offset) {
            self.active.push(one.producer_id);
        }
    }

    /// Whether transactional batches of the producer are aborted at the moment.
    pub(super) fn contains(&self, producer_id: i64) -> bool {
        self.active.contains(&producer_id)
    }

    /// The producer's aborted transaction ends.
    pub(super) fn end(&mut self, producer_id: i64) {
        self.active.retain(|active| *active != producer_id);
    }
}
