//! Tumbling windows of one sensor by event time.

use crate::config::WindowsConfig;
use crate::model::WindowSummary;

/// How windows are cut, in milliseconds of event time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WindowRules {
    pub(crate) size: i64,
    pub(crate) lateness: i64,
    /// How long a sealed window is kept, from the Kafka time of the record that
    /// sealed it.
    pub(crate) retention: i64,
}

impl WindowRules {
    pub(crate) fn new(config: &WindowsConfig) -> Self {
        let millis = |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        Self {
            size: millis(*config.size).max(1),
            lateness: millis(*config.allowed_lateness),
            retention: millis(*config.retention),
        }
    }

    /// Begin of the window that `timestamp` belongs to.
    fn start(&self, timestamp: i64) -> i64 {
        timestamp.div_euclid(self.size).saturating_mul(self.size)
    }

    /// Begins of the windows that are sealed at `watermark` and not older than the
    /// retention, newest first, at most `most`.
    pub(crate) fn sealed_starts(
        &self,
        watermark: i64,
        most: usize,
    ) -> impl Iterator<Item = i64> + use<> {
        let (size, retention) = (self.size, self.retention);
        let newest = self.start(watermark.saturating_sub(self.lateness.saturating_add(size)));
        let steps = (0..most as i64).map(move |step| step.saturating_mul(size));
        let kept = steps.take_while(move |age| *age <= retention);
        kept.map(move |age| newest.saturating_sub(age))
    }

    /// The watermark at which a window that ends at `end` is sealed.
    fn seals_at(&self, end: i64) -> i64 {
        end.saturating_add(self.lateness)
    }
}

/// Count, extremes, mean and variance of what came so far.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) count: u64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
    /// Sum of squared distances to the mean, kept by Welford's recurrence
    /// (Technometrics 4, 1962), which loses no digits where a sum of squares does.
    pub(crate) squares: f64,
    pub(crate) first: f64,
    pub(crate) first_at: i64,
    pub(crate) last: f64,
    pub(crate) last_at: i64,
}

impl Window {
    fn new(start: i64, end: i64, timestamp: i64, value: f64) -> Self {
        Self {
            start,
            end,
            count: 1,
            min: value,
            max: value,
            mean: value,
            squares: 0.0,
            first: value,
            first_at: timestamp,
            last: value,
            last_at: timestamp,
        }
    }

    fn add(&mut self, timestamp: i64, value: f64) {
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        let distance = value - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (value - self.mean);
        if timestamp < self.first_at {
            (self.first_at, self.first) = (timestamp, value);
        }
        if timestamp >= self.last_at {
            (self.last_at, self.last) = (timestamp, value);
        }
    }

    /// What clients see of it.
    pub(crate) fn summary(&self, sealed: bool) -> WindowSummary {
        WindowSummary {
            start: self.start,
            end: self.end,
            count: self.count,
            min: self.min,
            max: self.max,
            mean: self.mean,
            deviation: (self.squares / self.count as f64).sqrt(),
            first: self.first,
            last: self.last,
            sealed,
        }
    }
}

/// The open windows of a sensor, by begin. Sealed ones are the store's.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SensorWindows {
    pub(crate) open: Vec<Window>,
}

impl SensorWindows {
    /// Counts a value in; `false` when its window is sealed at `watermark`.
    pub(crate) fn add(
        &mut self,
        rules: &WindowRules,
        watermark: i64,
        timestamp: i64,
        value: f64,
    ) -> bool {
        let start = rules.start(timestamp);
        let end = start.saturating_add(rules.size);
        if rules.seals_at(end) <= watermark {
            return false;
        }
        match self
            .open
            .binary_search_by_key(&start, |window| window.start)
        {
            Ok(at) => self.open[at].add(timestamp, value),
            Err(at) => self
                .open
                .insert(at, Window::new(start, end, timestamp, value)),
        }
        true
    }

    /// Takes out every window whose time is over at `watermark`, oldest first.
    pub(crate) fn seal(
        &mut self,
        rules: &WindowRules,
        watermark: i64,
    ) -> impl Iterator<Item = Window> {
        let over = |window: &Window| rules.seals_at(window.end) <= watermark;
        let count = self.open.iter().take_while(|window| over(window)).count();
        self.open.drain(..count)
    }

    /// The watermark at which the next window is sealed.
    pub(crate) fn next_seal(&self, rules: &WindowRules) -> Option<i64> {
        self.open.first().map(|window| rules.seals_at(window.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: WindowRules = WindowRules {
        size: 60,
        lateness: 30,
        retention: 180,
    };

    #[test]
    fn summarises_what_falls_between_start_and_end() {
        let mut windows = SensorWindows::default();
        for (timestamp, value) in [(70, 2.0), (60, 4.0), (119, 9.0), (119, 5.0)] {
            assert!(windows.add(&RULES, 119, timestamp, value));
        }
        let [window] = &windows.open[..] else {
            panic!("{windows:?}")
        };
        let summary = window.summary(false);
        assert_eq!((summary.start, summary.end, summary.count), (60, 120, 4));
        assert_eq!((summary.min, summary.max, summary.mean), (2.0, 9.0, 5.0));
        assert_eq!((summary.first, summary.last), (4.0, 5.0));
        assert!((summary.deviation - 6.5_f64.sqrt()).abs() < 1e-12);
        assert!(!summary.sealed);
    }

    #[test]
    fn seals_after_the_lateness() {
        let mut windows = SensorWindows::default();
        let seal = |windows: &mut SensorWindows, watermark| {
            let sealed = windows.seal(&RULES, watermark);
            sealed.map(|window| window.start).collect::<Vec<_>>()
        };
        for start in [0, 60, 120] {
            assert!(windows.add(&RULES, start, start, 1.0));
        }
        assert_eq!(seal(&mut windows, 89), [0_i64; 0]);
        assert!(windows.add(&RULES, 89, 59, 1.0), "late, but allowed");
        assert_eq!(seal(&mut windows, 150), [0, 60]);
        assert!(!windows.add(&RULES, 150, 119, 1.0), "too late");
        assert_eq!(windows.next_seal(&RULES), Some(210));
    }

    #[test]
    fn sealed_windows_are_looked_for_within_the_retention() {
        let starts = |watermark, most| {
            let starts = RULES.sealed_starts(watermark, most);
            starts.collect::<Vec<_>>()
        };
        // The window of 300 to 360 is sealed at 390.
        assert_eq!(starts(389, 10), [240, 180, 120, 60]);
        assert_eq!(starts(390, 10), [300, 240, 180, 120]);
        assert_eq!(starts(390, 1), [300]);
        assert_eq!(
            starts(i64::MIN, 1),
            [i64::MIN.div_euclid(60).saturating_mul(60)]
        );
    }

    #[test]
    fn times_before_the_epoch_and_at_the_ends_of_time_fall_into_a_window() {
        let mut windows = SensorWindows::default();
        assert!(windows.add(&RULES, -1, -1, 1.0));
        assert_eq!(windows.open[0].start, -60);
        windows.add(&RULES, i64::MAX, i64::MAX, 1.0);
        windows.add(&RULES, i64::MIN, i64::MIN, 1.0);
    }
}
