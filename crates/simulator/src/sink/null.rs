//! Sink `null`: everything is thrown away, so that only the fleet is measured.

use super::{SendError, Sent, Sink};
use crate::lane::Batch;

/// Takes everything at once.
#[derive(Debug)]
pub(crate) struct Null;

impl Sink for Null {
    async fn attempt(&mut self, _batch: &Batch) -> Result<Sent, SendError> {
        Ok(Sent::default())
    }
}
