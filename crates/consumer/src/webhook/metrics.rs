//! Metrics of the webhook.

use iot_service::metrics::Registrar;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::{Notified, Told};

/// What the webhook counts. Clones share the metrics.
#[derive(Debug, Clone)]
pub(crate) struct WebhookMetrics {
    pub(crate) retries: IntCounter,
    /// Alerts that wait to be grouped.
    pub(crate) queue: IntGauge,
    notifications: IntCounterVec,
    told: IntCounterVec,
}

impl WebhookMetrics {
    /// Registers them, except `queue`: that one is in a family of all queues.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn new(registrar: &Registrar<'_>, queue: IntGauge) -> prometheus::Result<Self> {
        let metrics = Self {
            retries: registrar.counter(
                "iot_webhook_retries_total",
                "Tries of the webhook that failed and were made again",
            )?,
            queue,
            notifications: registrar.counters(
                "iot_webhook_notifications_total",
                "Notifications of the webhook, by what became of them",
                &["result"],
            )?,
            told: registrar.counters(
                "iot_webhook_alerts_total",
                "Alerts that the webhook was to tell, by what became of them",
                &["result"],
            )?,
        };
        for result in Notified::ALL {
            metrics.notifications.with_label_values(&[result.label()]);
        }
        for result in Told::ALL {
            metrics.told.with_label_values(&[result.label()]);
        }
        Ok(metrics)
    }

    /// Counts a notification.
    pub(crate) fn notified(&self, result: Notified) {
        let notifications = self.notifications.with_label_values(&[result.label()]);
        notifications.inc();
    }

    /// Counts so many alerts.
    pub(crate) fn told(&self, result: Told, alerts: u64) {
        let told = self.told.with_label_values(&[result.label()]);
        told.inc_by(alerts);
    }
}
