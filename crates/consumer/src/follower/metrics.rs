//! Metrics of followers.

use iot_service::metrics::Registrar;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use crate::kafka::lag_metrics::LagMetrics;

/// Why a follower loads the state again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reload {
    /// The stored state was reset, deleted or restored from a backup.
    Reset,
    /// The topic was deleted and created again.
    AnotherLog,
    /// The log has no longer what was read.
    Truncated,
    /// The owner has had other rules, and has the same ones now.
    Rules,
    /// The log cannot be read at the follower's offset.
    Unreadable,
}

impl Reload {
    const ALL: [Self; 5] = [
        Self::Reset,
        Self::AnotherLog,
        Self::Truncated,
        Self::Rules,
        Self::Unreadable,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::AnotherLog => "another_log",
            Self::Truncated => "truncated",
            Self::Rules => "rules",
            Self::Unreadable => "unreadable",
        }
    }

    /// Whether what is shown is wrong from then on, and not merely old.
    pub(super) fn is_reset(self) -> bool {
        match self {
            Self::Reset | Self::AnotherLog | Self::Truncated => true,
            Self::Rules | Self::Unreadable => false,
        }
    }
}

/// What followers count and measure. Clones share the metrics.
#[derive(Debug, Clone)]
pub(crate) struct FollowerMetrics {
    pub(super) partitions: IntGauge,
    pub(crate) messages: IntCounter,
    pub(crate) readings: IntCounter,
    /// Messages of which the owner makes a dead letter.
    pub(crate) refused: IntCounter,
    pub(super) processing: Histogram,
    pub(crate) lag: LagMetrics,
    reloads: IntCounterVec,
}

impl FollowerMetrics {
    /// Registers them; labels of a fixed set start at zero.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        let metrics = Self {
            partitions: registrar.int_gauge(
                "iot_followed_partitions",
                "Partitions of other members that this replica follows",
            )?,
            messages: registrar.counter(
                "iot_follower_messages_total",
                "Messages of followed partitions processed, invalid ones included",
            )?,
            readings: registrar.counter(
                "iot_follower_readings_total",
                "Readings of followed partitions processed",
            )?,
            refused: registrar.counter(
                "iot_follower_refused_total",
                "Messages of followed partitions refused, in whole or in part",
            )?,
            processing: registrar.histogram(
                "iot_follower_processing_duration_seconds",
                "Time to process 50 messages of a followed partition",
                &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0],
            )?,
            lag: LagMetrics::new(
                registrar,
                (
                    "iot_follower_lag_messages",
                    "Messages in the log of a followed partition that are not processed yet",
                ),
                (
                    "iot_follower_lag_seconds",
                    "How long the oldest message of a followed partition that is not processed \
                     has been in Kafka",
                ),
            )?,
            reloads: registrar.counters(
                "iot_follower_reloads_total",
                "States of followed partitions loaded again",
                &["reason"],
            )?,
        };
        for reason in Reload::ALL {
            metrics.reloads.with_label_values(&[reason.label()]);
        }
        Ok(metrics)
    }

    pub(super) fn reloaded(&self, reason: Reload) {
        self.reloads.with_label_values(&[reason.label()]).inc();
    }
}
