//! Metrics of events for other programs.

use iot_service::metrics::Registrar;
use prometheus::IntCounterVec;

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    AlertCreated,
    AlertCleared,
    WindowSealed,
}

impl Published {
    /// The `type` of such an event.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::AlertCreated => "alert.created",
            Self::AlertCleared => "alert.cleared",
            Self::WindowSealed => "window.sealed",
        }
    }
}

/// What is counted of events. Clones share the metrics.
#[derive(Debug, Clone)]
pub(crate) struct OutputsMetrics {
    published: IntCounterVec,
}

impl OutputsMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            published: registrar.counters(
                "kafka_events_published_total",
                "Events for other programs that Kafka has confirmed",
                &["topic", "event_type"],
            )?,
        })
    }

    /// Counts an event that Kafka has confirmed.
    pub(crate) fn published(&self, topic: &str, kind: Published) {
        let published = self.published.with_label_values(&[topic, kind.label()]);
        published.inc();
    }
}
