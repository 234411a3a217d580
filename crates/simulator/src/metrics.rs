//! The metrics of the simulator.

use prometheus::{
    Counter, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, exponential_buckets,
};

use crate::config::SinkKind;
use crate::deliveries::Deliveries;

/// Histogram buckets for network latencies, in seconds.
const LATENCIES: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Why a message was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// The buffer was full.
    BufferFull,
    /// The sink permanently rejected it.
    Refused,
    /// It still waited at the deadline of the shutdown.
    Shutdown,
    /// The reader of standard output is gone.
    OutputClosed,
    /// The buffer was nearly full.
    Throttled,
    /// All retries failed.
    Retries,
    /// It was due when a change of the settings replaced its schedule, and a late worker had not
    /// created it.
    Late,
}

impl Dropped {
    pub(crate) const ALL: [Self; 7] = [
        Self::BufferFull,
        Self::Refused,
        Self::Shutdown,
        Self::OutputClosed,
        Self::Throttled,
        Self::Retries,
        Self::Late,
    ];

    /// The value of the label `reason`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::Refused => "refused",
            Self::Shutdown => "shutdown",
            Self::OutputClosed => "output_closed",
            Self::Throttled => "throttled",
            Self::Retries => "retries_exhausted",
            Self::Late => "late",
        }
    }
}

/// State of a lane's circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Circuit {
    /// The lane sends.
    Closed,
    /// The lane has failed too often and waits.
    Open,
    /// A probe decides whether the lane sends again.
    HalfOpen,
}

impl Circuit {
    const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The metrics of one simulator. Their names begin with the sink: `kafka_producer_`,
/// `mqtt_producer_`, `stdout_producer_` and so on.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Messages that the sink confirmed.
    pub messages: IntCounter,
    /// Payload bytes that the sink confirmed.
    pub bytes: IntCounter,
    /// Batches that the sink confirmed.
    pub batches: IntCounter,
    /// Time from handing over a batch to its confirmation, including retries.
    pub send_latency: Histogram,
    /// Time from when a message was due until the sink confirmed it.
    pub deliveries: Deliveries,
    /// Time to create the values of one message and encode them.
    pub serialization_latency: Histogram,
    /// Failed attempts to send.
    pub send_errors: IntCounter,
    /// Attempts to send after the first.
    pub retries: IntCounter,
    /// Messages sent again although they may have arrived.
    pub possible_duplicates: IntCounter,
    /// Time from when a message was due until it was created.
    pub lateness: Histogram,
    /// Messages created late because the buffer was nearly full.
    pub throttled: IntCounter,
    /// Devices that send.
    pub devices: IntGauge,
    /// Workers, and tasks that send.
    pub tasks: IntGauge,
    /// Workers that have lanes.
    pub workers: IntGauge,
    /// Time for which workers were busy, in seconds.
    pub busy: Counter,
    /// Time to compress the payloads of a batch, for some batches.
    pub compression_latency: Histogram,
    /// Messages sent to another partition than their device's.
    pub rerouted: IntCounter,
    /// Messages that are created and not confirmed.
    pub queue_depth: IntGauge,
    /// Working partitions or connections.
    pub active_connections: IntGauge,
    dropped: IntCounterVec,
    circuits: IntGaugeVec,
}

impl Metrics {
    /// Registers all metrics; counters start at zero.
    ///
    /// # Errors
    /// The registry already has a metric of the same name.
    pub(crate) fn new(registry: &Registry, sink: SinkKind) -> prometheus::Result<Self> {
        let register = Register {
            registry,
            prefix: format!("{}_producer", sink.name()),
        };
        let dropped = register.counters(
            "dropped_messages_total",
            "Messages that were dropped, by reason.",
            "reason",
        )?;
        for reason in Dropped::ALL {
            dropped.with_label_values(&[reason.label()]);
        }
        let circuits = register.gauges(
            "circuits",
            "Lanes by the state of their circuit breaker.",
            "state",
        )?;
        for state in Circuit::ALL {
            circuits.with_label_values(&[state.label()]);
        }
        Ok(Self {
            messages: register.counter("messages_total", "Messages that the sink confirmed.")?,
            bytes: register.counter("bytes_total", "Payload bytes that the sink confirmed.")?,
            batches: register.counter("batches_total", "Batches that the sink confirmed.")?,
            send_latency: register.histogram(
                "send_latency_seconds",
                "Time from handing over a batch to its confirmation, including retries.",
                LATENCIES.to_vec(),
            )?,
            deliveries: register.deliveries(
                "delivery_latency_seconds",
                "Time from when a message was due until the sink confirmed it; \
                 messages that are never confirmed are only in the bucket +Inf and the count.",
            )?,
            serialization_latency: register.histogram(
                "serialization_latency_seconds",
                "Time to create the values of one message and encode them.",
                exponential_buckets(1e-6, 2.0, 12)?,
            )?,
            compression_latency: register.histogram(
                "compression_latency_seconds",
                "Time to compress the payloads of a batch, measured for every 64th batch.",
                exponential_buckets(1e-5, 2.0, 12)?,
            )?,
            rerouted: register.counter(
                "rerouted_messages_total",
                "Messages sent to another partition because their own was unavailable.",
            )?,
            send_errors: register.counter(
                "send_errors_total",
                "Failed attempts to connect or to send.",
            )?,
            retries: register.counter("retries_total", "Attempts to send after the first.")?,
            possible_duplicates: register.counter(
                "possible_duplicates_total",
                "Messages sent again although they may have arrived, after a missing answer.",
            )?,
            lateness: register.histogram(
                "schedule_lateness_seconds",
                "Time from when a message was due until it was created.",
                LATENCIES.to_vec(),
            )?,
            throttled: register.counter(
                "throttled_messages_total",
                "Messages that were created late because the buffer was nearly full.",
            )?,
            devices: register.gauge("devices", "Devices that send.")?,
            tasks: register.gauge("tasks", "Workers, and tasks that send.")?,
            workers: register.gauge("workers", "Workers that have lanes.")?,
            busy: register.seconds(
                "worker_busy_seconds_total",
                "Time for which workers were busy, summed over all workers.",
            )?,
            queue_depth: register.gauge("queue_depth", "Messages that are not confirmed yet.")?,
            active_connections: register
                .gauge("active_connections", "Working partitions or connections.")?,
            dropped,
            circuits,
        })
    }

    /// Counts dropped messages, which are never confirmed.
    pub(crate) fn dropped(&self, reason: Dropped, messages: u64) {
        let counter = self.dropped.with_label_values(&[reason.label()]);
        counter.inc_by(messages);
        self.deliveries.never(messages);
    }

    /// The number of lanes in a state.
    pub(crate) fn circuits(&self, state: Circuit) -> IntGauge {
        self.circuits.with_label_values(&[state.label()])
    }

    /// The number of messages dropped for a reason.
    pub(crate) fn drops(&self, reason: Dropped) -> u64 {
        self.dropped.with_label_values(&[reason.label()]).get()
    }
}

struct Register<'r> {
    registry: &'r Registry,
    prefix: String,
}

impl Register<'_> {
    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("{}_{name}", self.prefix), help)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        let counter = IntCounter::with_opts(self.opts(name, help))?;
        self.registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn seconds(&self, name: &str, help: &str) -> prometheus::Result<Counter> {
        let counter = Counter::with_opts(self.opts(name, help))?;
        self.registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
        let counters = IntCounterVec::new(self.opts(name, help), &[label])?;
        self.registry.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntGaugeVec> {
        let gauges = IntGaugeVec::new(self.opts(name, help), &[label])?;
        self.registry.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let gauge = IntGauge::with_opts(self.opts(name, help))?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn deliveries(&self, name: &str, help: &str) -> prometheus::Result<Deliveries> {
        let deliveries = Deliveries::new(self.opts(name, help))?;
        self.registry.register(Box::new(deliveries.clone()))?;
        Ok(deliveries)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> prometheus::Result<Histogram> {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(buckets);
        let histogram = Histogram::with_opts(opts)?;
        self.registry.register(Box::new(histogram.clone()))?;
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_every_reason_start_at_zero() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, SinkKind::Kafka).unwrap();
        metrics.dropped(Dropped::Refused, 3);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            r#"kafka_producer_dropped_messages_total{reason="buffer_full"} 0"#,
            r#"kafka_producer_dropped_messages_total{reason="refused"} 3"#,
            "kafka_producer_messages_total 0",
            "kafka_producer_queue_depth 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn every_metric_is_in_the_reference() {
        let registry = Registry::new();
        Metrics::new(&registry, SinkKind::Kafka).unwrap();
        iot_service::metrics::reference::check("simulator", &registry);
    }
}
