//! Metrics of the hub.

use iot_service::metrics::Registrar;
use prometheus::{Gauge, IntCounterVec, IntGauge};

use super::outbox::FrameKind;

/// What the hub counts and measures. Clones share the metrics.
#[derive(Debug, Clone)]
pub(crate) struct HubMetrics {
    pub(crate) devices: IntGauge,
    pub(crate) clients: IntGauge,
    pub(crate) rate: Gauge,
    /// Messages that wait for the hub.
    pub(crate) queue: IntGauge,
    /// Frames that wait for WebSocket clients.
    pub(crate) client_queue: IntGauge,
    frames: IntCounterVec,
}

impl HubMetrics {
    /// Registers them, except the queues: those are in a family of all queues.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn new(
        registrar: &Registrar<'_>,
        queue: IntGauge,
        client_queue: IntGauge,
    ) -> prometheus::Result<Self> {
        let metrics = Self {
            devices: registrar.int_gauge("iot_devices", "Devices in the assigned partitions")?,
            clients: registrar.int_gauge("iot_websocket_clients", "Connected WebSocket clients")?,
            rate: registrar.gauge(
                "iot_messages_per_second",
                "Messages processed in the last second",
            )?,
            queue,
            client_queue,
            frames: registrar.counters(
                "iot_websocket_frames_total",
                "Frames handed to WebSocket clients",
                &["type"],
            )?,
        };
        for kind in FrameKind::ALL {
            metrics.frames.with_label_values(&[kind.label()]);
        }
        Ok(metrics)
    }

    /// Counts a frame that so many clients get.
    pub(crate) fn framed(&self, kind: FrameKind, clients: usize) {
        self.frames
            .with_label_values(&[kind.label()])
            .inc_by(clients as u64);
    }
}
