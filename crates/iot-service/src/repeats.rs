//! A limit for log lines that traffic can trigger.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often such a line is logged, at most.
const EVERY: Duration = Duration::from_secs(30);

/// Lets a log line through once in 30 s, and counts how often it was left out.
///
/// ```
/// # let repeats = iot_service::Repeats::default();
/// if let Some(left_out) = repeats.admit() {
///     tracing::warn!(left_out, "the broker rejected a message");
/// }
/// ```
#[derive(Debug, Default)]
pub struct Repeats(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    logged: Option<Instant>,
    left_out: u64,
}

impl Repeats {
    /// Whether to log the line now: how often it was left out since the last time; `None`
    /// to leave it out.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |logged| now.saturating_duration_since(logged) >= EVERY;
        if state.logged.is_none_or(is_due) {
            state.logged = Some(now);
            return Some(std::mem::take(&mut state.left_out));
        }
        state.left_out += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_logged_once_in_a_while_with_the_number_left_out() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let admitted = [0, 1, 29, 30, 59, 61, 200].map(|second| {
            let now = start + Duration::from_secs(second);
            repeats.admit_at(now)
        });
        let expected = [Some(0), None, None, Some(2), None, Some(1), Some(0)];
        assert_eq!(admitted, expected);
    }
}
