//! The time from when a message was due until the sink confirmed it.
//!
//! It includes the wait in the buffer, which the latency of a batch leaves out: while a
//! sink stalls, one batch is slow, but every message that falls due waits.
//! Leaving them out is known as coordinated omission (Tene, "How NOT to Measure Latency").

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::local::LocalHistogram;
use prometheus::proto::{self, MetricFamily};
use prometheus::{Histogram, HistogramOpts, Opts};

/// Histogram buckets, in seconds: up to an hour, because messages wait for as long as an
/// outage lasts.
const BUCKETS: &[f64] = &[
    0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15,
    0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
    3600.0,
];

/// A histogram of confirmed messages that also counts those that are never confirmed: above
/// every bound, because omitting them would lower every quantile.
#[derive(Debug, Clone)]
pub(crate) struct Deliveries {
    confirmed: Histogram,
    never: Arc<AtomicU64>,
}

impl Deliveries {
    pub(crate) fn new(opts: Opts) -> prometheus::Result<Self> {
        let opts = HistogramOpts::from(opts).buckets(BUCKETS.to_vec());
        Ok(Self {
            confirmed: Histogram::with_opts(opts)?,
            never: Arc::default(),
        })
    }

    /// Collects the times of confirmed messages, in seconds, until it is flushed.
    pub(crate) fn local(&self) -> LocalHistogram {
        self.confirmed.local()
    }

    /// Counts messages that will never be confirmed.
    pub(crate) fn never(&self, messages: u64) {
        self.never.fetch_add(messages, Ordering::Relaxed);
    }

    /// The histogram of all messages.
    pub(crate) fn histogram(&self) -> proto::Histogram {
        let families = self.collect();
        let mut metrics = families.iter().flat_map(MetricFamily::get_metric);
        metrics
            .next()
            .map(|metric| metric.get_histogram().clone())
            .unwrap_or_default()
    }
}

impl Collector for Deliveries {
    fn desc(&self) -> Vec<&Desc> {
        self.confirmed.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let never = self.never.load(Ordering::Relaxed);
        let mut families = self.confirmed.collect();
        for metric in families.iter_mut().flat_map(MetricFamily::mut_metric) {
            let mut histogram = metric.get_histogram().clone();
            histogram.set_sample_count(histogram.get_sample_count() + never);
            metric.set_histogram(histogram);
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_are_never_confirmed_are_beyond_every_bound() {
        let deliveries = Deliveries::new(Opts::new("delivery", "Time.")).unwrap();
        let local = deliveries.local();
        local.observe(0.0005);
        local.flush();
        deliveries.never(3);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&deliveries.collect())
            .unwrap();
        for line in [
            "delivery_bucket{le=\"0.001\"} 1",
            "delivery_bucket{le=\"3600\"} 1",
            "delivery_bucket{le=\"+Inf\"} 4",
            "delivery_count 4",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
