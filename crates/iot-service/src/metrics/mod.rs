//! Metrics, registered as they are made.

pub mod reference;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

/// Makes metrics in a registry.
#[derive(Debug, Clone, Copy)]
pub struct Registrar<'a>(pub &'a Registry);

impl Registrar<'_> {
    /// Registers a metric.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn register<C: Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// A counter.
    ///
    /// # Errors
    /// As [`Self::register`]; the same for the others.
    pub fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(name, help)?)
    }

    /// A gauge of whole numbers.
    #[expect(clippy::missing_errors_doc, reason = "as `counter`")]
    pub fn int_gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::new(name, help)?)
    }

    /// Counters by label.
    #[expect(clippy::missing_errors_doc, reason = "as `counter`")]
    pub fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// Gauges of whole numbers by label.
    #[expect(clippy::missing_errors_doc, reason = "as `counter`")]
    pub fn int_gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// Gauges by label.
    #[expect(clippy::missing_errors_doc, reason = "as `counter`")]
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.register(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// A gauge.
    #[expect(clippy::missing_errors_doc, reason = "as `counter`")]
    pub fn gauge(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.register(Gauge::new(name, help)?)
    }

    /// A histogram with these upper bounds of its buckets.
    #[expect(clippy::missing_errors_doc, reason = "as `counter`")]
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> prometheus::Result<Histogram> {
        // A vector without labels is exported from the start, as the others are.
        let family = self.histograms(name, help, &[], buckets)?;
        family.get_metric_with_label_values::<&str>(&[])
    }

    /// Histograms by label, with these upper bounds of their buckets.
    #[expect(clippy::missing_errors_doc, reason = "as `counter`")]
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels)?)
    }
}
