//! A histogram of latencies in fixed memory: each power of two has 32 buckets, so
//! that a percentile is at most 1/32 (3 %) above the true value.

use std::fmt;

use serde::Serialize;

const STEPS: u64 = 32;
const BUCKETS: usize = (64 - 5 + 1) * STEPS as usize;

/// Number of latencies, in microseconds, by bucket.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            p50, p95, p99, max, ..
        } = self;
        write!(f, "p50 {p50:.1}  p95 {p95:.1}  p99 {p99:.1}  max {max:.1}")
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            max: 0,
        }
    }
}

/// The bucket of a value: below 32 each value has its own, above it the five bits after
/// the leading one select the bucket.
fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - 5;
    (u64::from(shift) * STEPS + (value >> shift)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let step = bucket % STEPS + STEPS;
    (u128::from(step + 1) << shift)
        .saturating_sub(1)
        .min(u128::from(u64::MAX)) as u64
}

impl Histogram {
    pub(crate) fn record(&mut self, micros: u64) {
        self.counts[bucket(micros)] += 1;
        self.total += 1;
        self.max = self.max.max(micros);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The value in microseconds that the share `q` of all values does not exceed.
    fn quantile(&self, q: f64) -> u64 {
        let rank = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(bucket).min(self.max);
            }
        }
        self.max
    }

    /// The percentiles; `None` if nothing was recorded.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let millis = |micros: u64| micros as f64 / 1000.0;
        (self.total > 0).then(|| Percentiles {
            count: self.total,
            p50: millis(self.quantile(0.50)),
            p95: millis(self.quantile(0.95)),
            p99: millis(self.quantile(0.99)),
            max: millis(self.max),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_histogram_has_no_percentiles() {
        assert_eq!(Histogram::default().percentiles(), None);
    }

    #[test]
    fn percentiles_are_within_a_bucket_of_the_value() {
        let mut low = Histogram::default();
        let mut high = Histogram::default();
        (1..=5000).for_each(|v| low.record(v));
        (5001..=10_000).for_each(|v| high.record(v));
        low.merge(&high);
        let found = low.percentiles().unwrap();
        assert_eq!(found.count, 10_000);
        assert!((5.0..5.2).contains(&found.p50), "{found:?}");
        assert!((9.9..=10.0).contains(&found.p99), "{found:?}");
        assert_eq!(found.max, 10.0);
    }

    proptest! {
        #[test]
        fn the_upper_bound_is_at_most_a_32nd_above_the_value(value: u64) {
            let upper = upper(bucket(value));
            prop_assert!(upper >= value);
            prop_assert!(upper - value <= value / STEPS);
        }
    }
}
