//! Leaving a session for good: no more subscriptions, everything that the
//! broker still holds for it written, then the session ended.

use super::Pipeline;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// The broker has not confirmed that nothing is added any more.
    Unsubscribing,
    /// It sends what it has.
    Emptying,
    /// All of that is acknowledged, and a ping under way. What the broker sends
    /// in return for an acknowledgement comes before the answer to the ping.
    Asking,
    /// The answer came, and nothing before it.
    Left,
}

impl Pipeline {
    /// Ends the subscriptions and waits until the broker has nothing more for
    /// this session, and Kafka all of it.
    pub(crate) async fn leave(&mut self) -> anyhow::Result<()> {
        self.leaving = Some(Leaving::Unsubscribing);
        self.returning = false;
        self.link.leave();
        while !self.has_left() {
            self.step(true).await?;
        }
        Ok(())
    }

    pub(super) fn has_left(&self) -> bool {
        self.leaving == Some(Leaving::Left)
    }

    pub(super) fn unsubscribed(&mut self) {
        if self.leaving == Some(Leaving::Unsubscribing) {
            tracing::info!(
                client_id = &*self.client_id,
                "unsubscribed; emptying the session"
            );
            self.leaving = Some(Leaving::Emptying);
        }
    }

    pub(super) fn received_while_leaving(&mut self) {
        if self.leaving == Some(Leaving::Asking) {
            self.leaving = Some(Leaving::Emptying);
        }
    }

    pub(super) fn probe_when_empty(&mut self) {
        let empty = self.ring.len() == 0;
        if self.leaving == Some(Leaving::Emptying) && empty && self.link.probe() {
            self.leaving = Some(Leaving::Asking);
        }
    }

    pub(super) fn ponged(&mut self) {
        if self.leaving == Some(Leaving::Asking) {
            self.leaving = Some(Leaving::Left);
        }
    }

    pub(super) fn connection_lost(&mut self) {
        if self.leaving.is_some() && !self.has_left() {
            self.leaving = Some(Leaving::Unsubscribing);
        }
    }
}
