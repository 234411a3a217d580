//! Whether the broker waits for acknowledgements: it has as many messages on
//! their way as it may, and sends more only in answer to an acknowledgement.
//! Then it is in vain to wait for more before something is written to Kafka.

use std::time::Duration;

use tokio::time::Instant;

/// What comes so soon after an acknowledgement is taken for its answer.
const ANSWER: Duration = Duration::from_millis(2);
/// So many answers, with nothing else between them, are no coincidence ..
const ANSWERS: u32 = 3;
/// .. if each has so many messages: fewer can be there by chance where
/// messages come now and then.
const MESSAGES: u32 = 8;
/// Only the last answers count: with more, each counts half.
const REMEMBERED: u32 = 32;

#[derive(Debug, Default)]
pub(crate) struct Lockstep {
    acknowledged_at: Option<Instant>,
    /// Whether something has come since.
    answered: bool,
    /// Answers in a row, and the messages in them.
    answers: u32,
    messages: u32,
}

impl Lockstep {
    /// Something is acknowledged.
    pub(crate) fn acknowledged(&mut self, now: Instant) {
        self.acknowledged_at = Some(now);
        self.answered = false;
    }

    /// A message has come.
    pub(crate) fn received(&mut self, now: Instant) {
        let since = |at| now.saturating_duration_since(at);
        let is_answer = self.acknowledged_at.is_some_and(|at| since(at) < ANSWER);
        if !is_answer {
            (self.answers, self.messages) = (0, 0);
            return;
        }
        if !self.answered {
            self.answered = true;
            self.answers += 1;
            if self.answers > REMEMBERED {
                (self.answers, self.messages) = (self.answers / 2, self.messages / 2);
            }
        }
        self.messages = self.messages.saturating_add(1);
    }

    /// Whether what came last looks like an answer.
    pub(crate) fn is_possible(&self) -> bool {
        self.answers > 0 && self.messages / self.answers >= MESSAGES
    }

    pub(crate) fn is_likely(&self) -> bool {
        self.is_possible() && self.answers >= ANSWERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes so many milliseconds after each acknowledgement: whether it
    /// was likely at the end of each round.
    fn rounds(lockstep: &mut Lockstep, rounds: &[(u64, usize)]) -> Vec<bool> {
        let mut now = Instant::now();
        let mut round = |(after_millis, messages): &(u64, usize)| {
            lockstep.acknowledged(now);
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
        let comes = [(1, 50), (1, 50), (5, 50), (1, 99), (1, 1), (1, 99), (5, 1)];
        let likely = rounds(&mut Lockstep::default(), &comes);
        assert_eq!(likely, [false, false, false, false, false, true, false]);
    }

    #[test]
    fn single_messages_come_by_chance() {
        let mut lockstep = Lockstep::default();
        assert_eq!(rounds(&mut lockstep, &[(1, 1); 100]), [false; 100]);
    }

    #[test]
    fn long_answers_of_long_ago_do_not_count() {
        let mut lockstep = Lockstep::default();
        rounds(&mut lockstep, &[(1, 5_000); 100]);
        assert!(lockstep.is_likely());
        rounds(&mut lockstep, &[(1, 1); 400]);
        assert!(!lockstep.is_likely());
    }

    #[test]
    fn messages_that_go_on_coming_disprove_it() {
        let mut lockstep = Lockstep::default();
        rounds(&mut lockstep, &[(1, 50); 10]);
        lockstep.received(Instant::now() + Duration::from_secs(1));
        assert!(!lockstep.is_likely());
    }
}
