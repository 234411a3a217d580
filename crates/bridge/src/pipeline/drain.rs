//! Draining a session: no more subscriptions, everything that the broker has
//! queued for it written to Kafka, then the session ended.

use super::Pipeline;

/// The progress of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    /// The broker has not confirmed UNSUBSCRIBE: it may still queue messages.
    Unsubscribing,
    /// The broker sends what it has queued.
    Emptying,
    /// Everything received is acknowledged, and a PINGREQ was sent. Messages that
    /// the broker sends in response to acknowledgements arrive before PINGRESP.
    Probing,
    /// PINGRESP arrived before any message.
    Done,
}

impl Pipeline {
    /// Ends the subscriptions, and waits until the broker has nothing queued and
    /// Kafka has confirmed everything.
    pub(crate) async fn drain(&mut self) -> anyhow::Result<()> {
        self.drain = Some(Drain::Unsubscribing);
        self.failing_back = false;
        self.link.leave();
        while !self.is_drained() {
            self.step(true).await?;
        }
        Ok(())
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drain == Some(Drain::Done)
    }

    pub(super) fn unsubscribed(&mut self) {
        if self.drain == Some(Drain::Unsubscribing) {
            tracing::info!(
                client_id = &*self.client_id,
                "unsubscribed; receiving what the broker has queued"
            );
            self.drain = Some(Drain::Emptying);
        }
    }

    pub(super) fn received_while_draining(&mut self) {
        if self.drain == Some(Drain::Probing) {
            self.drain = Some(Drain::Emptying);
        }
    }

    pub(super) fn probe_when_empty(&mut self) {
        let empty = self.ring.len() == 0;
        if self.drain == Some(Drain::Emptying) && empty && self.link.probe() {
            self.drain = Some(Drain::Probing);
        }
    }

    pub(super) fn ponged(&mut self) {
        if self.drain == Some(Drain::Probing) {
            self.drain = Some(Drain::Done);
        }
    }

    /// The connection is lost: the next one unsubscribes again.
    pub(super) fn restart_drain(&mut self) {
        if self.drain.is_some() && !self.is_drained() {
            self.drain = Some(Drain::Unsubscribing);
        }
    }
}
