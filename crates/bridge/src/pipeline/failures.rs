//! What becomes of a message that Kafka did not take.

use std::time::Duration;

use super::Pipeline;
use crate::creator::{Created, Outcome};
use crate::kafka::Failure;
use crate::message::Target;
use crate::metrics::Refusal;
use crate::ring::Seq;

/// What failed for now is tried again so much later.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Pipeline {
    /// The producer does not have the message any more, and Kafka neither.
    pub(super) fn failed(&mut self, seq: Seq, failure: Failure) -> anyhow::Result<()> {
        let Some(message) = self.ring.waiting(seq) else {
            return Ok(());
        };
        let topic = message.target.topic();
        self.topics.settled(topic);
        self.last_failure = Some((seq, format!("{}: {failure}", self.topics.name(topic))));
        match failure {
            Failure::Retry(_) => {
                self.metrics.retries.inc();
                self.topics
                    .put_back(topic, seq, self.now.instant + RETRY_AFTER);
            }
            Failure::TopicGone if self.topics.gone(topic) => {
                self.metrics.retries.inc();
                // A deletion takes a moment, in which it can't be created.
                let due = self.now.instant + RETRY_AFTER;
                self.topics.put_back(topic, seq, due);
            }
            Failure::TopicGone => self.dead_letter(seq, Refusal::UnknownTopic),
            Failure::Suspect(_) => return self.send_alone(seq),
            Failure::Refused(refusal) => self.dead_letter(seq, refusal),
            Failure::Fatal => self.ended = true,
        }
        Ok(())
    }

    /// Puts a message into a batch of its own, so that the verdict is on it.
    fn send_alone(&mut self, seq: Seq) -> anyhow::Result<()> {
        let Some(message) = self.ring.waiting(seq) else {
            return Ok(());
        };
        self.metrics.retries.inc();
        let topic = message.target.topic();
        self.topics.given(topic);
        match self
            .kafka
            .send_alone(self.topics.name(topic), seq, message)?
        {
            Ok(()) => Ok(()),
            Err(failure) => self.failed(seq, failure),
        }
    }

    /// Turns a message that Kafka refuses for good into a dead letter. A dead
    /// letter that is refused as too large loses most of its payload; refused
    /// for another reason it is tried again, for nobody else can keep it.
    fn dead_letter(&mut self, seq: Seq, refusal: Refusal) {
        let Some(message) = self.ring.waiting(seq) else {
            return;
        };
        let retry_at = self.now.instant + RETRY_AFTER;
        match &message.target {
            Target::Topic { topic, .. } => {
                self.metrics.refused(refusal);
                let detail = self.topics.name(*topic).to_string();
                message.target = Target::dead_letter(self.dead_letters, refusal, detail);
                // Behind other dead letters, which it may have come before.
                self.topics
                    .put_back(self.dead_letters, seq, self.now.instant);
            }
            Target::DeadLetter { topic, .. } => {
                let topic = *topic;
                let smaller = refusal == Refusal::TooLarge && message.cut();
                let due = if smaller { self.now.instant } else { retry_at };
                self.topics.put_back(topic, seq, due);
            }
            Target::Checkpoint { topic, .. } => {
                if self.redelivery.give_up(refusal) {
                    self.ring.confirm(seq);
                } else {
                    self.topics.put_back(*topic, seq, retry_at);
                }
            }
        }
    }

    /// A new producer: everything unconfirmed goes out again, in order.
    pub(super) fn restart(&mut self) -> anyhow::Result<()> {
        self.ended = false;
        self.kafka.restart()?;
        self.topics.producer_restarted(self.now.instant);
        for (seq, message) in self.ring.all_waiting() {
            self.metrics.retries.inc();
            let topic = message.target.topic();
            self.topics.put_back(topic, seq, self.now.instant);
        }
        Ok(())
    }

    pub(super) fn created(&mut self, created: &Created) -> anyhow::Result<()> {
        let homeless = self.topics.created(created);
        debug_assert!(homeless.is_empty() || created.outcome == Outcome::Refused);
        for seq in homeless {
            self.dead_letter(seq, Refusal::TopicRefused);
        }
        Ok(())
    }
}
