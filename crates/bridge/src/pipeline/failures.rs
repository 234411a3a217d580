//! What happens to messages that Kafka does not accept.

use std::time::Duration;

use super::Pipeline;
use crate::creator::{Created, Outcome};
use crate::dedupe::RefusedCheckpoint;
use crate::kafka::{Failure, Restart};
use crate::message::Target;
use crate::refusal::Refusal;
use crate::ring::Seq;

/// The delay before a retry.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Pipeline {
    /// The producer gave up a message, and Kafka does not have it.
    pub(super) fn failed(&mut self, seq: Seq, failure: Failure) -> anyhow::Result<()> {
        let Some(message) = self.ring.unconfirmed(seq) else {
            return Ok(());
        };
        let topic = message.target.topic();
        self.topics.reported(topic);
        self.last_failure = Some((seq, format!("{}: {failure}", self.topics.name(topic))));
        match failure {
            Failure::Retry(_) => {
                self.metrics.retries.inc();
                self.topics
                    .requeue(topic, seq, self.now.instant + RETRY_AFTER);
            }
            Failure::TopicGone => {
                // Messages do not wait for a checkpoint that nobody may allow.
                let optional = message.is_checkpoint() && self.topics.is_denied(topic);
                if self.topics.recreate(topic) && !optional {
                    self.metrics.retries.inc();
                    // Kafka can't create a topic while it is being deleted.
                    let retry_at = self.now.instant + self.topics.missing_delay(topic);
                    self.topics.requeue(topic, seq, retry_at);
                } else {
                    self.dead_letter(seq, Refusal::UnknownTopic);
                }
            }
            Failure::Suspect(_) => return self.send_alone(seq),
            Failure::Refused(refusal) => self.dead_letter(seq, refusal),
            Failure::Fatal => self.producer_failed = true,
        }
        Ok(())
    }

    /// Sends a message in a batch of its own, so that the delivery report is about
    /// it alone.
    fn send_alone(&mut self, seq: Seq) -> anyhow::Result<()> {
        let Some(message) = self.ring.unconfirmed(seq) else {
            return Ok(());
        };
        self.metrics.retries.inc();
        let topic = message.target.topic();
        self.topics.sent(topic);
        match self
            .kafka
            .send_alone(self.topics.name(topic), seq, message)?
        {
            Ok(()) => Ok(()),
            Err(failure) => self.failed(seq, failure),
        }
    }

    /// Makes a dead letter of a message that Kafka permanently rejects. A dead
    /// letter that is too large is truncated; one that is rejected for another
    /// reason is retried, because there is nowhere else to put it.
    fn dead_letter(&mut self, seq: Seq, refusal: Refusal) {
        let Some(message) = self.ring.unconfirmed(seq) else {
            return;
        };
        let retry_at = self.now.instant + RETRY_AFTER;
        match &message.target {
            Target::Topic { topic, .. } => {
                self.metrics.refused(refusal);
                let detail = self.topics.name(*topic).to_string();
                message.target = Target::dead_letter(self.dead_letters, refusal, detail);
                // In order of arrival among the dead letters.
                self.topics
                    .requeue(self.dead_letters, seq, self.now.instant);
            }
            Target::DeadLetter { topic, .. } => {
                let topic = *topic;
                let truncated = refusal == Refusal::TooLarge && message.cut();
                let due = if truncated {
                    self.now.instant
                } else {
                    retry_at
                };
                self.topics.requeue(topic, seq, due);
            }
            Target::Checkpoint { topic, .. } => match self.dedupe.checkpoint_refused(refusal) {
                RefusedCheckpoint::Skip => self.ring.confirm(seq),
                RefusedCheckpoint::Retry => self.topics.requeue(*topic, seq, retry_at),
            },
        }
    }

    /// Replaces the producer: everything unconfirmed is sent again, in order, after the backoff.
    pub(super) fn restart_producer(&mut self) {
        self.producer_failed = false;
        let Restart { delay, reason } = self.kafka.restart(self.now.instant);
        let resume_at = self.now.instant + delay;
        self.topics.producer_restarted(resume_at);
        let mut oldest = None;
        for (seq, message) in self.ring.all_unconfirmed() {
            self.metrics.retries.inc();
            let topic = message.target.topic();
            self.topics.requeue(topic, seq, resume_at);
            oldest = oldest.or(Some(seq));
        }
        if let Some(oldest) = oldest {
            self.last_failure = Some((oldest, format!("the producer failed: {reason}")));
        }
    }

    /// Takes the state of a topic's creation.
    pub(super) fn created(&mut self, created: &Created) -> anyhow::Result<()> {
        let refused = self.topics.created(created);
        debug_assert!(refused.is_empty() || created.outcome == Outcome::Refused);
        for seq in refused {
            self.dead_letter(seq, Refusal::TopicRefused);
        }
        Ok(())
    }
}
