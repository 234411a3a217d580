//! Metrics of the API and of WebSocket connections.

use std::fmt::Display;

use iot_core::partition::TopicPartition;
use iot_service::metrics::Registrar;
use iot_service::server;
use prometheus::{IntCounter, IntCounterVec};

use crate::hub::clients::Leave;

/// What the handlers count. Clones share the metrics.
#[derive(Debug, Clone)]
pub(crate) struct HttpMetrics {
    unreadable_windows: IntCounter,
    leaves: IntCounterVec,
    /// Connections that the listener refused.
    pub(super) refused: IntCounter,
}

impl HttpMetrics {
    /// Registers them; labels of a fixed set start at zero.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        let metrics = Self {
            unreadable_windows: registrar.counter(
                "iot_store_unreadable_windows_total",
                "Stored windows left out of an answer because they can't be read",
            )?,
            leaves: registrar.counters(
                "iot_websocket_closed_total",
                "WebSocket clients that left",
                &["reason"],
            )?,
            refused: server::refused("http", registrar.0),
        };
        for leave in Leave::ALL {
            metrics.leaves.with_label_values(&[leave.label()]);
        }
        Ok(metrics)
    }

    /// Counts a stored window that can't be read; the first is logged, because requests
    /// can repeat it as often as they like.
    pub(crate) fn unreadable_window(&self, at: &TopicPartition, error: &impl Display) {
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

    pub(crate) fn left(&self, leave: Leave) {
        self.leaves.with_label_values(&[leave.label()]).inc();
    }
}
