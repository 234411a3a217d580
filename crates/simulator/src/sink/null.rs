//! Sink `null`: discards all messages, to measure the fleet alone.

use super::{SendError, Sent, Sink};
use crate::lane::Batch;

/// Confirms every batch at once.
#[derive(Debug)]
pub(crate) struct Null;

impl Sink for Null {
    async fn attempt(&mut self, _batch: &Batch) -> Result<Sent, SendError> {
        Ok(Sent::default())
    }
}
