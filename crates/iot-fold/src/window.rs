//! Tumbling windows of one sensor over event time, of several lengths at once.

use crate::model::WindowSummary;

/// Milliseconds in an hour.
const HOUR: f64 = 3_600_000.0;

/// Lengths and allowed lateness of windows, in milliseconds of event time, and how many sealed
/// ones are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowRules {
    /// Lengths, shortest first; each is below 2^32.
    pub(crate) sizes: Vec<i64>,
    pub(crate) lateness: i64,
    /// How many sealed windows of each length are kept.
    pub(crate) keep: i64,
}

impl WindowRules {
    /// Windows of these lengths (each above 0 and below 2^32), which take values for
    /// `lateness` after their end and are kept for `keep` times their length.
    #[must_use]
    pub fn new(mut sizes: Vec<i64>, lateness: i64, keep: i64) -> Self {
        sizes.sort_unstable();
        Self {
            sizes,
            lateness,
            keep,
        }
    }

    /// How long a sealed window is kept, from the record time of the record that sealed it.
    pub(crate) fn retention(&self, size: i64) -> i64 {
        size.saturating_mul(self.keep)
    }

    /// Starts of the windows that are sealed at `watermark` and within the retention, newest
    /// first.
    pub(crate) fn sealed_starts(
        &self,
        size: i64,
        watermark: i64,
    ) -> impl Iterator<Item = i64> + use<> {
        let newest = start(
            size,
            watermark.saturating_sub(self.lateness.saturating_add(size)),
        );
        let steps = (0..=self.keep).map(move |step| step.saturating_mul(size));
        steps.map(move |age| newest.saturating_sub(age))
    }

    /// The watermark at which a window that ends at `end` is sealed.
    fn seals_at(&self, end: i64) -> i64 {
        end.saturating_add(self.lateness)
    }
}

/// Start of the window of that size that contains `timestamp`.
fn start(size: i64, timestamp: i64) -> i64 {
    timestamp.div_euclid(size).saturating_mul(size)
}

/// Running count, extremes, mean, variance and slope of the values in a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Length, in milliseconds.
    pub(crate) size: u32,
    pub(crate) start: i64,
    pub(crate) count: u64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
    /// Sum of squared distances to the mean, by Welford's recurrence (Technometrics 4,
    /// 1962), which keeps the digits that a sum of squares loses.
    pub(crate) squares: f64,
    pub(crate) first: f64,
    pub(crate) last: f64,
    /// Times of `first` and `last`, in milliseconds since `start`.
    pub(crate) first_at: u32,
    pub(crate) last_at: u32,
    /// Mean of the times, in milliseconds since `start`: small numbers lose no digits.
    pub(crate) time_mean: f64,
    /// The same recurrence for times, and for the products of both distances (Pébay,
    /// SAND2008-6212, 2008).
    pub(crate) time_squares: f64,
    pub(crate) products: f64,
}

impl Window {
    fn new(size: u32, start: i64, timestamp: i64, value: f64) -> Self {
        let at = since(start, timestamp);
        Self {
            size,
            start,
            count: 1,
            min: value,
            max: value,
            mean: value,
            squares: 0.0,
            first: value,
            last: value,
            first_at: at,
            last_at: at,
            time_mean: f64::from(at),
            time_squares: 0.0,
            products: 0.0,
        }
    }

    fn add(&mut self, timestamp: i64, value: f64) {
        let at = since(self.start, timestamp);
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        let count = self.count as f64;
        let time = f64::from(at);
        let earlier = time - self.time_mean;
        self.time_mean += earlier / count;
        self.time_squares += earlier * (time - self.time_mean);
        let distance = value - self.mean;
        self.mean += distance / count;
        self.squares += distance * (value - self.mean);
        self.products += earlier * (value - self.mean);
        if at < self.first_at {
            (self.first_at, self.first) = (at, value);
        }
        if at >= self.last_at {
            (self.last_at, self.last) = (at, value);
        }
    }

    pub(crate) fn end(&self) -> i64 {
        self.start.saturating_add(i64::from(self.size))
    }

    /// Slope of the least-squares line through the values over event time, in units per
    /// hour; `None` if all have the same time.
    pub(crate) fn slope(&self) -> Option<f64> {
        (self.time_squares > 0.0).then(|| self.products / self.time_squares * HOUR)
    }

    /// What clients see of it.
    #[must_use]
    pub fn summary(&self, sealed: bool) -> WindowSummary {
        WindowSummary {
            start: self.start,
            end: self.end(),
            count: self.count,
            min: self.min,
            max: self.max,
            mean: self.mean,
            deviation: deviation(self.count, self.squares),
            first: self.first,
            last: self.last,
            slope: self.slope(),
            sealed,
        }
    }
}

/// Standard deviation of all values, from the sum of squared distances to the mean.
pub(crate) fn deviation(count: u64, squares: f64) -> f64 {
    (squares / count as f64).sqrt()
}

/// Milliseconds since the start of a window, which is shorter than 2^32 ms.
fn since(start: i64, timestamp: i64) -> u32 {
    u32::try_from(timestamp.saturating_sub(start)).unwrap_or(u32::MAX)
}

/// The open windows of a sensor, ordered by length and start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SensorWindows {
    pub(crate) open: Vec<Window>,
}

/// What happened to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// It was counted into an open window.
    Counted,
    /// It opened a window, which is sealed at this watermark.
    Opened(i64),
    /// Its window is already sealed.
    Late,
}

impl SensorWindows {
    /// Counts a value into its window of length `size`.
    pub(crate) fn add(
        &mut self,
        rules: &WindowRules,
        size: i64,
        watermark: i64,
        timestamp: i64,
        value: f64,
    ) -> Added {
        let start = start(size, timestamp);
        let seals_at = rules.seals_at(start.saturating_add(size));
        if seals_at <= watermark {
            return Added::Late;
        }
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let known = |window: &Window| (window.size, window.start);
        match self.open.binary_search_by_key(&(size, start), known) {
            Ok(at) => {
                self.open[at].add(timestamp, value);
                Added::Counted
            }
            Err(at) => {
                let window = Window::new(size, start, timestamp, value);
                // Without this the list would reserve room for four, and for eight from the fifth
                // window on.
                self.open.reserve_exact(1);
                self.open.insert(at, window);
                Added::Opened(seals_at)
            }
        }
    }

    /// Removes the windows that are sealed at `watermark`, ordered by length, then by start.
    pub(crate) fn seal(
        &mut self,
        rules: &WindowRules,
        watermark: i64,
    ) -> impl Iterator<Item = Window> {
        let over = move |window: &mut Window| rules.seals_at(window.end()) <= watermark;
        self.open.extract_if(.., over)
    }

    /// The watermark at which the next window is sealed.
    pub(crate) fn next_seal(&self, rules: &WindowRules) -> Option<i64> {
        let seals = self.open.iter().map(|window| rules.seals_at(window.end()));
        seals.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> WindowRules {
        WindowRules {
            sizes: vec![60],
            lateness: 30,
            keep: 3,
        }
    }

    fn add(windows: &mut SensorWindows, watermark: i64, timestamp: i64, value: f64) -> Added {
        windows.add(&rules(), 60, watermark, timestamp, value)
    }

    #[test]
    fn summarises_what_falls_between_start_and_end() {
        let mut windows = SensorWindows::default();
        for (timestamp, value) in [(70, 2.0), (60, 4.0), (119, 9.0), (119, 5.0)] {
            assert_ne!(add(&mut windows, 119, timestamp, value), Added::Late);
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
        // By hand: the mean of the times 10, 0, 59 and 59 is 32.
        let slope = summary.slope.unwrap() / HOUR;
        assert!((slope - 206.0 / 2_966.0).abs() < 1e-12, "{slope}");
    }

    #[test]
    fn seals_after_the_lateness() {
        let (mut windows, rules) = (SensorWindows::default(), rules());
        let seal = |windows: &mut SensorWindows, watermark| {
            let sealed = windows.seal(&rules, watermark);
            sealed.map(|window| window.start).collect::<Vec<_>>()
        };
        for start in [0, 60, 120] {
            assert_eq!(
                add(&mut windows, start, start, 1.0),
                Added::Opened(start + 90)
            );
        }
        assert_eq!(seal(&mut windows, 89), [0_i64; 0]);
        assert_eq!(
            add(&mut windows, 89, 59, 1.0),
            Added::Counted,
            "late, but allowed"
        );
        assert_eq!(seal(&mut windows, 150), [0, 60]);
        assert_eq!(add(&mut windows, 150, 119, 1.0), Added::Late);
        assert_eq!(windows.next_seal(&rules), Some(210));
    }

    #[test]
    fn sealed_windows_are_looked_for_within_the_retention() {
        let starts = |watermark| rules().sealed_starts(60, watermark).collect::<Vec<_>>();
        // The window of 300 to 360 is sealed at 390.
        assert_eq!(starts(389), [240, 180, 120, 60]);
        assert_eq!(starts(390), [300, 240, 180, 120]);
        let first = i64::MIN.div_euclid(60).saturating_mul(60);
        assert_eq!(starts(i64::MIN), [first; 4]);
    }

    #[test]
    fn times_before_the_epoch_and_at_the_ends_of_time_fall_into_a_window() {
        let mut windows = SensorWindows::default();
        assert_eq!(add(&mut windows, -1, -1, 1.0), Added::Opened(30));
        assert_eq!(windows.open[0].start, -60);
        add(&mut windows, i64::MAX - 1, i64::MAX, 1.0);
        add(&mut windows, i64::MIN, i64::MIN, 1.0);
    }

    #[test]
    fn the_slope_is_found_far_from_the_epoch_and_around_large_values() {
        let rules = WindowRules {
            sizes: vec![3_600_000],
            ..rules()
        };
        let mut windows = SensorWindows::default();
        let begin = 1_800_000_000_000 / 3_600_000 * 3_600_000;
        for second in 0..3_600 {
            let value = 1e9 + f64::from(second) / 3_600.0 * 5.0;
            let at = begin + i64::from(second) * 1_000;
            windows.add(&rules, 3_600_000, at, at, value);
        }
        let slope = windows.open[0].slope().unwrap();
        assert!((slope - 5.0).abs() < 1e-3, "{slope}");
    }

    #[test]
    fn one_moment_has_no_slope() {
        let mut windows = SensorWindows::default();
        add(&mut windows, 5, 5, 1.0);
        add(&mut windows, 5, 5, 2.0);
        assert_eq!(windows.open[0].slope(), None);
    }
}
