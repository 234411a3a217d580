//! Detects a window-limited broker: one that has sent as many unacknowledged
//! messages as it may, and sends more only in response to acknowledgements, as a
//! stop-and-wait sender does. To let messages linger then only adds latency.

use std::time::Duration;

use tokio::time::Instant;

/// A message this soon after an acknowledgement counts as a response to it.
const RESPONSE_TIME: Duration = Duration::from_millis(2);
/// So many responses in a row, and no other messages, prove the limit ..
const MIN_RESPONSES: u32 = 3;
/// .. if they have so many messages on average. At a moderate rate fewer messages
/// follow an acknowledgement by chance.
const MIN_MESSAGES: u32 = 8;
/// Above this count, responses and messages are halved, so that the last ones
/// decide.
const MAX_RESPONSES: u32 = 32;

/// Counts the responses to acknowledgements.
#[derive(Debug, Default)]
pub(crate) struct WindowLimitDetector {
    acknowledged_at: Option<Instant>,
    /// Whether a message has arrived since.
    responded: bool,
    /// Responses in a row, and the messages in them.
    responses: u32,
    messages: u32,
}

impl WindowLimitDetector {
    /// A message is acknowledged.
    pub(crate) fn acknowledged(&mut self, now: Instant) {
        self.acknowledged_at = Some(now);
        self.responded = false;
    }

    /// A message has arrived.
    pub(crate) fn received(&mut self, now: Instant) {
        let since = |at| now.saturating_duration_since(at);
        let is_response = self
            .acknowledged_at
            .is_some_and(|at| since(at) < RESPONSE_TIME);
        if !is_response {
            (self.responses, self.messages) = (0, 0);
            return;
        }
        if !self.responded {
            self.responded = true;
            self.responses += 1;
            if self.responses > MAX_RESPONSES {
                (self.responses, self.messages) = (self.responses / 2, self.messages / 2);
            }
        }
        self.messages = self.messages.saturating_add(1);
    }

    /// Whether the last messages look like a response.
    pub(crate) fn is_suspected(&self) -> bool {
        self.responses > 0 && self.messages / self.responses >= MIN_MESSAGES
    }

    /// Whether the last responses prove the limit.
    pub(crate) fn is_detected(&self) -> bool {
        self.is_suspected() && self.responses >= MIN_RESPONSES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs rounds of an acknowledgement and, so many milliseconds later, so many
    /// messages. Returns for each whether the limit was detected.
    fn rounds(detector: &mut WindowLimitDetector, rounds: &[(u64, usize)]) -> Vec<bool> {
        let mut now = Instant::now();
        let mut round = |(after_millis, messages): &(u64, usize)| {
            detector.acknowledged(now);
            now += Duration::from_millis(*after_millis);
            for _ in 0..*messages {
                detector.received(now);
            }
            detector.is_detected()
        };
        rounds.iter().map(&mut round).collect()
    }

    #[test]
    fn several_long_responses_in_a_row_are_detected() {
        let messages = [(1, 50), (1, 50), (5, 50), (1, 99), (1, 1), (1, 99), (5, 1)];
        let detected = rounds(&mut WindowLimitDetector::default(), &messages);
        assert_eq!(detected, [false, false, false, false, false, true, false]);
    }

    #[test]
    fn single_messages_are_not_a_response() {
        let mut detector = WindowLimitDetector::default();
        assert_eq!(rounds(&mut detector, &[(1, 1); 100]), [false; 100]);
    }

    #[test]
    fn old_responses_do_not_count() {
        let mut detector = WindowLimitDetector::default();
        rounds(&mut detector, &[(1, 5_000); 100]);
        assert!(detector.is_detected());
        rounds(&mut detector, &[(1, 1); 400]);
        assert!(!detector.is_detected());
    }

    #[test]
    fn a_message_without_an_acknowledgement_resets_it() {
        let mut detector = WindowLimitDetector::default();
        rounds(&mut detector, &[(1, 50); 10]);
        detector.received(Instant::now() + Duration::from_secs(1));
        assert!(!detector.is_detected());
    }
}
