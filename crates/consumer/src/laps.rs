//! Processing time of messages, measured for 50 at a time: reading the clock for each would
//! cost more than some messages do.

use std::time::Duration;

use prometheus::Histogram;
use tokio::time::Instant;

/// Messages in a measurement.
const LAP: u32 = 50;

/// Observes how long each 50 messages of a partition take. A measurement continues over the
/// ends of batches, without the time between them.
#[derive(Debug)]
pub(crate) struct Laps {
    observed: Histogram,
    messages: u32,
    /// In this measurement, up to the last pause.
    spent: Duration,
    since: Instant,
}

impl Laps {
    /// A stopped one.
    pub(crate) fn new(observed: Histogram) -> Self {
        Self {
            observed,
            messages: 0,
            spent: Duration::ZERO,
            since: Instant::now(),
        }
    }

    /// Processing starts or continues.
    pub(crate) fn go(&mut self, now: Instant) {
        self.since = now;
    }

    /// Counts a message. The clock is read only for the last one of a measurement.
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

    /// Processing stops, until it continues.
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
            // The time between batches.
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
