//! The right to write.

use tokio_util::sync::CancellationToken;

/// The right to write for one partition: its state, its dead letters, its events and alerts, its
/// committed offset. Only the group hands it out, with the assignment; followers have none.
#[derive(Debug)]
pub(crate) struct WriteRight(CancellationToken);

impl WriteRight {
    /// `revoked` is cancelled when the partition is revoked.
    pub(super) fn new(revoked: CancellationToken) -> Self {
        Self(revoked)
    }

    /// Without a group.
    #[cfg(test)]
    pub(crate) fn of_test(revoked: CancellationToken) -> Self {
        Self(revoked)
    }

    /// Cancelled when the partition is revoked. One last step may follow: the store refuses it if
    /// another owner has stored one already.
    pub(crate) fn revoked(&self) -> &CancellationToken {
        &self.0
    }
}
