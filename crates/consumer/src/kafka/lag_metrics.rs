//! The lag of partitions, in messages and in seconds.

use iot_service::metrics::Registrar;
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec};

use super::progress::Lag;

/// The gauges of one kind of lag, by topic and partition. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct LagMetrics {
    messages: IntGaugeVec,
    seconds: GaugeVec,
}

impl LagMetrics {
    /// Registers them: each has a name and a help text.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn new(
        registrar: &Registrar<'_>,
        messages: (&str, &str),
        seconds: (&str, &str),
    ) -> prometheus::Result<Self> {
        let labels = ["topic", "partition"];
        Ok(Self {
            messages: registrar.int_gauges(messages.0, messages.1, &labels)?,
            seconds: registrar.gauges(seconds.0, seconds.1, &labels)?,
        })
    }

    pub(crate) fn set(&self, topic: &str, partition: i32, lag: Lag) {
        let (messages, seconds) = self.of(topic, &partition.to_string());
        messages.set(lag.messages);
        seconds.set(lag.seconds);
    }

    /// Those of a partition.
    pub(crate) fn of(&self, topic: &str, partition: &str) -> (IntGauge, Gauge) {
        let labels = [topic, partition];
        (
            self.messages.with_label_values(&labels),
            self.seconds.with_label_values(&labels),
        )
    }

    /// The partition has no lag here any more.
    pub(crate) fn forget(&self, topic: &str, partition: i32) {
        let labels = [topic, &partition.to_string()];
        // It may never have had one.
        let _ = self.messages.remove_label_values(&labels);
        let _ = self.seconds.remove_label_values(&labels);
    }
}
