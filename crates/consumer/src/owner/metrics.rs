//! Metrics of processing: what owners and their pipelines do with messages.

use iot_core::message::ParseError;
use iot_core::partition::TopicPartition;
use iot_fold::{AlertKind, Folded};
use iot_service::config::HumanDuration;
use iot_service::metrics::Registrar;
use prometheus::{Histogram, IntCounter, IntCounterVec};

use crate::config::WindowsConfig;
use crate::refusal::Refusal;

/// What owners count and measure. Clones share the metrics.
#[derive(Debug, Clone)]
pub(crate) struct OwnerMetrics {
    pub(crate) consumed: IntCounter,
    pub(crate) readings: IntCounter,
    pub(crate) processing: Histogram,
    pub(crate) lost_records: IntCounter,
    pub(crate) rebuilds: IntCounter,
    pub(crate) replaced_logs: IntCounter,
    unreadable_windows: IntCounter,
    stale: IntCounter,
    duplicates: IntCounter,
    removed: IntCounter,
    late: IntCounterVec,
    alerts_raised: IntCounterVec,
    alerts_cleared: IntCounterVec,
    refusals: IntCounterVec,
    refused_readings: IntCounterVec,
}

impl OwnerMetrics {
    /// Registers them; labels of a fixed set start at zero.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        let metrics = Self {
            consumed: registrar.counter(
                "kafka_consumer_messages_consumed_total",
                "Messages processed, invalid ones included",
            )?,
            readings: registrar.counter("iot_readings_total", "Readings taken into the state")?,
            processing: registrar.histogram(
                "kafka_consumer_processing_duration_seconds",
                "Time to process 50 messages of a partition, without waiting for Kafka or the store",
                &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0],
            )?,
            lost_records: registrar.counter(
                "kafka_consumer_lost_records_total",
                "Records that Kafka deleted before they were read",
            )?,
            rebuilds: registrar.counter(
                "iot_store_rebuilds_total",
                "Partitions read again because their state was gone from the store, or their log truncated",
            )?,
            replaced_logs: registrar.counter(
                "iot_store_logs_replaced_total",
                "Partitions begun again because their topic was deleted and created again",
            )?,
            unreadable_windows: registrar.counter(
                "iot_store_unreadable_windows_total",
                "Stored windows left out of an answer because they can't be read",
            )?,
            stale: registrar.counter(
                "iot_readings_stale_total",
                "Readings older than the newest known, counted into windows only",
            )?,
            duplicates: registrar.counter(
                "iot_messages_duplicate_total",
                "Messages that repeat the one before and were skipped",
            )?,
            removed: registrar.counter(
                "iot_devices_removed_total",
                "Devices removed because they sent nothing for longer than retention.devices",
            )?,
            late: registrar.counters(
                "iot_readings_late_total",
                "Readings too late for their window, by its length",
                &["window"],
            )?,
            alerts_raised: registrar.counters(
                "kafka_consumer_alerts_raised_total",
                "Alerts raised",
                &["kind"],
            )?,
            alerts_cleared: registrar.counters(
                "kafka_consumer_alerts_cleared_total",
                "Alerts cleared",
                &["kind"],
            )?,
            refusals: registrar.counters(
                "kafka_consumer_processing_errors_total",
                "Messages refused whole",
                &["reason"],
            )?,
            refused_readings: registrar.counters(
                "iot_readings_refused_total",
                "Readings refused while others of their message were accepted",
                &["reason"],
            )?,
        };
        for reason in Refusal::OF_READINGS {
            metrics.refused_readings.with_label_values(&[reason]);
        }
        let reasons = ParseError::REASONS.iter().chain(Refusal::REASONS);
        for reason in reasons.chain(iot_fold::Refusal::REASONS) {
            metrics.refusals.with_label_values(&[reason]);
        }
        for kind in AlertKind::ALL {
            metrics.alerts_raised.with_label_values(&[kind.label()]);
            metrics.alerts_cleared.with_label_values(&[kind.label()]);
        }
        Ok(metrics)
    }

    pub(crate) fn unreadable_window(&self, at: &TopicPartition, error: &impl std::fmt::Display) {
        if self.unreadable_windows.get() == 0 {
            let (topic, partition) = at.parts();
            tracing::warn!(
                topic,
                partition,
                %error,
                "a stored window can't be read and is left out; others are only counted"
            );
        }
        self.unreadable_windows.inc();
    }

    /// Counts a reading that is refused while others of its message are accepted.
    pub(crate) fn refused_reading(&self, refusal: &Refusal) {
        let counter = self.refused_readings.with_label_values(&[refusal.reason()]);
        counter.inc();
    }

    /// Counts a message that goes whole to the dead-letter topic.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.refusals.with_label_values(&[refusal.reason()]).inc();
    }

    /// Counts so many messages, and what they changed. `late` counts late readings by length
    /// of the window, as [`late`](Self::late) has them.
    pub(crate) fn folded(&self, messages: u64, folded: &Folded, late: &[IntCounter]) {
        self.consumed.inc_by(messages);
        self.readings.inc_by(folded.readings);
        self.stale.inc_by(folded.stale);
        self.duplicates.inc_by(folded.duplicates);
        self.removed.inc_by(folded.removed);
        for (late, count) in late.iter().zip(folded.late) {
            late.inc_by(count);
        }
        for (counters, counts) in [
            (&self.alerts_raised, &folded.raised),
            (&self.alerts_cleared, &folded.cleared),
        ] {
            // Most batches have no alerts: finding a counter costs more than the check.
            let counts = AlertKind::ALL.into_iter().zip(counts);
            for (kind, count) in counts.filter(|(_, count)| **count > 0) {
                counters.with_label_values(&[kind.label()]).inc_by(*count);
            }
        }
    }

    /// Counters of late readings by length of the window, shortest first, at zero.
    pub(crate) fn late(&self, windows: &WindowsConfig) -> Vec<IntCounter> {
        let mut sizes = windows.sizes.clone();
        sizes.sort_unstable();
        let counter = |size: HumanDuration| self.late_of(&size.to_string());
        sizes.into_iter().map(counter).collect()
    }

    pub(crate) fn late_of(&self, size: &str) -> IntCounter {
        self.late.with_label_values(&[size])
    }
}
