//! Whether the broker waits for acknowledgements: it has as many messages on
//! their way as it may, and sends more only in answer to an acknowledgement.
//! Then it is in vain to wait for more before something is written to Kafka.

use std::time::Duration;

use tokio::time::Instant;

/// What comes so soon after an acknowledgement is taken for its answer.
const ANSWER: Duration = Duration::from_millis(2);
/// So many answers in a row are no coincidence ..
const ANSWERS: u64 = 3;
/// .. unless they are about as long as chance has it.
const MESSAGES: u64 = 8;

#[derive(Debug, Default)]
pub(crate) struct Lockstep {
    acknowledged_at: Option<Instant>,
    /// Answers in a row, and the messages in them.
    answers: u64,
    messages: u64,
}

impl Lockstep {
    /// Everything that had come is acknowledged.
    pub(crate) fn all_acknowledged(&mut self, now: Instant) {
        self.acknowledged_at = Some(now);
    }

    /// A message has come.
    pub(crate) fn received(&mut self, now: Instant) {
        self.messages += 1;
        let Some(at) = self.acknowledged_at.take() else {
            return;
        };
        self.answers += 1;
        if now.saturating_duration_since(at) >= ANSWER {
            (self.answers, self.messages) = (0, 0);
        }
    }

    pub(crate) fn is_likely(&self) -> bool {
        self.answers >= ANSWERS && self.messages >= MESSAGES * self.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After each round of messages everything is acknowledged.
    fn rounds(rounds: &[(u64, usize)]) -> Vec<bool> {
        let (mut lockstep, mut now) = (Lockstep::default(), Instant::now());
        let mut round = |(after_millis, messages): &(u64, usize)| {
            lockstep.all_acknowledged(now);
            now += Duration::from_millis(*after_millis);
            for _ in 0..*messages {
                lockstep.received(now);
            }
            lockstep.is_likely()
        };
        rounds.iter().map(&mut round).collect()
    }

    #[test]
    fn several_long_answers_in_a_row_make_it_likely() {
        let likely = rounds(&[(1, 50), (1, 50), (5, 50), (1, 99), (1, 1), (1, 99), (5, 1)]);
        assert_eq!(likely, [false, false, false, false, false, true, false]);
    }

    #[test]
    fn single_messages_come_by_chance() {
        assert_eq!(rounds(&[(1, 1); 100]), [false; 100]);
    }
}
