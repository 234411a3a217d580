//! How long messages take, measured over 50 at a time: a clock that is read for each
//! would cost more than some of them do.

use std::time::Duration;

use prometheus::Histogram;
use tokio::time::Instant;

/// Messages in a lap.
const LAP: u32 = 50;

/// Observes how long each 50 messages of a partition took. A lap goes on over the ends
/// of batches, and what is waited for in between is not part of it.
#[derive(Debug)]
pub(crate) struct Laps {
    observed: Histogram,
    messages: u32,
    /// In this lap, up to the last pause.
    spent: Duration,
    since: Instant,
}

impl Laps {
    /// Standing still.
    pub(crate) fn new(observed: Histogram) -> Self {
        Self {
            observed,
            messages: 0,
            spent: Duration::ZERO,
            since: Instant::now(),
        }
    }

    /// Work begins or goes on.
    pub(crate) fn go(&mut self, now: Instant) {
        self.since = now;
    }

    /// A message is done; the clock is read for the last of a lap only.
    pub(crate) fn count(&mut self, clock: impl FnOnce() -> Instant) {
        self.messages += 1;
        if self.messages < LAP {
            return;
        }
        let now = clock();
        self.pause(now);
        self.observed.observe(self.spent.as_secs_f64());
        (self.messages, self.spent) = (0, Duration::ZERO);
        self.go(now);
    }

    /// Something else is waited for, until work goes on.
    pub(crate) fn pause(&mut self, now: Instant) {
        self.spent += now.duration_since(self.since);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    #[test]
    fn a_lap_is_50_messages_whatever_batches_they_come_in() {
        let histogram = Histogram::with_opts(HistogramOpts::new("h", "h")).unwrap();
        let (mut laps, mut now) = (Laps::new(histogram.clone()), Instant::now());
        let millisecond = Duration::from_millis(1);
        let mut batch = |messages: u32| {
            // Nobody works meanwhile.
            now += Duration::from_secs(100);
            laps.go(now);
            for _ in 0..messages {
                now += millisecond;
                laps.count(|| now);
            }
            laps.pause(now);
            let millis = (histogram.get_sample_sum() * 1e3).round();
            (histogram.get_sample_count(), millis)
        };
        assert_eq!(batch(30), (0, 0.0));
        assert_eq!(batch(19), (0, 0.0));
        assert_eq!(batch(1), (1, 50.0));
        assert_eq!(batch(99), (2, 100.0));
        assert_eq!(batch(1), (3, 150.0));
        assert_eq!(batch(100), (5, 250.0));
    }
}
