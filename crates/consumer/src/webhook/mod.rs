//! Alerts for people, posted to an HTTP endpoint in groups, so that a storm makes few
//! requests. Delivery is best effort: alerts that a crash, a full queue or a long outage of
//! the endpoint loses are not sent again. The exact list is in Kafka (`outputs.alerts`).

mod groups;
mod metrics;
mod outcome;
mod post;

use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use iot_fold::{Alert, AlertStatus};
use iot_service::Repeats;
use iot_service::config::Live;
use iot_service::health::Component;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::{ConsumerConfig, WebhookConfig, millis};
use groups::{Groups, Notification, TooManyGroups};
pub(crate) use metrics::WebhookMetrics;
use outcome::{Notified, Told};
use post::{Poster, Sent, pauses};

/// How long one notification is retried, while the next ones gather.
const GIVE_UP: Duration = Duration::from_secs(600);
/// How long the notification in flight may take when the consumer stops.
const LAST: Duration = Duration::from_secs(1);

/// The log lines about notifications that are dropped, by reason.
#[derive(Debug, Default)]
struct Dropped {
    refused: Repeats,
    late: Repeats,
}

/// Passes alerts to the task that sends them, without waiting.
#[derive(Clone)]
pub(crate) struct Webhook {
    queue: mpsc::Sender<Alert>,
    config: Live<ConsumerConfig>,
    metrics: WebhookMetrics,
}

/// `None` while `webhook.url` is empty.
type Endpoint = Option<Arc<Poster>>;

struct Actor {
    alerts: mpsc::Receiver<Alert>,
    groups: Groups,
    endpoint: watch::Sender<Endpoint>,
    config: Live<ConsumerConfig>,
    /// The settings in use.
    used: WebhookConfig,
    metrics: WebhookMetrics,
    health: Component,
}

impl Webhook {
    /// Starts the task that sends alerts and follows changed settings. After `stop` it sends
    /// what waits, once, and ends.
    ///
    /// # Errors
    /// The URL is invalid, or the certificates to trust cannot be read.
    pub(crate) fn start(
        config: Live<ConsumerConfig>,
        metrics: WebhookMetrics,
        health: Component,
        stop: CancellationToken,
    ) -> anyhow::Result<(Self, JoinHandle<()>)> {
        health.ready();
        let used = config.current().webhook.clone();
        let (queue, alerts) = mpsc::channel(used.queue);
        let actor = Actor {
            alerts,
            groups: Groups::new(&used),
            endpoint: watch::Sender::new(endpoint(&used)?),
            config: config.clone(),
            used,
            metrics: metrics.clone(),
            health,
        };
        let webhook = Self {
            queue,
            config,
            metrics,
        };
        Ok((webhook, tokio::spawn(actor.run(stop))))
    }

    /// Queues an alert that was raised or cleared; one that only repeats is ignored.
    /// `recorded` is the approximate time of its record, and `begun` when reading of its
    /// partition started (both in ms since the epoch): much older alerts were sent before.
    pub(crate) fn send(&self, alert: &Alert, recorded: Option<i64>, begun: i64) {
        let config = &self.config.current().webhook;
        if config.url.is_empty() || alert.state == AlertStatus::Raised && alert.count > 1 {
            return;
        }
        let oldest = begun.saturating_sub(millis(*config.max_age));
        if recorded.unwrap_or(alert.timestamp) < oldest {
            self.metrics.told(Told::Old, 1);
        } else if self.queue.try_send(alert.clone()).is_err() {
            self.metrics.told(Told::QueueFull, 1);
        }
    }
}

impl Actor {
    async fn run(mut self, stop: CancellationToken) {
        self.work(&stop).await;
        self.finish().await;
    }

    /// Groups alerts, with one notification in flight at a time.
    async fn work(&mut self, stop: &CancellationToken) {
        let dropped = Dropped::default();
        let mut sending = None;
        loop {
            if sending.is_none() {
                let due = self.groups.take_due(Instant::now());
                let (endpoint, health) = (self.endpoint.subscribe(), self.health.clone());
                let metrics = self.metrics.clone();
                let deliver = |all| deliver(endpoint, metrics, health, stop, &dropped, all);
                sending = due.map(|all| Box::pin(deliver(all)));
            }
            let next = self.groups.due().filter(|_| sending.is_none());
            self.metrics.queue.set(self.alerts.len() as i64);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.config.changed() => self.adopt(),
                Some(()) = OptionFuture::from(sending.as_mut()) => sending = None,
                Some(alert) = self.alerts.recv() => add(&mut self.groups, &self.metrics, alert),
                Some(()) = OptionFuture::from(next.map(sleep_until)) => {}
            }
        }
        if let Some(sending) = sending {
            // One last attempt.
            let _ = timeout(LAST, sending).await;
        }
    }

    /// Adopts changed settings.
    fn adopt(&mut self) {
        let config = self.config.current().webhook.clone();
        if config == self.used {
            return;
        }
        match endpoint(&config) {
            Ok(endpoint) => {
                self.health.ready();
                self.endpoint.send_replace(endpoint);
                self.groups.adopt(&config);
                self.used = config;
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the webhook stays as it was");
            }
        }
    }

    /// Sends what waits, each notification once, until the deadline.
    async fn finish(&mut self) {
        while let Ok(alert) = self.alerts.try_recv() {
            add(&mut self.groups, &self.metrics, alert);
        }
        let poster = self.endpoint.borrow().clone();
        let end = Instant::now() + LAST;
        for notification in self.groups.take_all() {
            let body = body(&notification);
            let sent = OptionFuture::from(poster.as_ref().map(|poster| poster.send(&body)));
            let result = match timeout_at(end, sent).await.ok().flatten() {
                Some(Sent::Accepted) => Notified::Accepted,
                Some(Sent::Failed(_)) | None => Notified::Failed,
                Some(Sent::Refused(_)) => Notified::Refused,
            };
            count(&self.metrics, &notification, result);
        }
    }
}

fn endpoint(config: &WebhookConfig) -> anyhow::Result<Endpoint> {
    let has_endpoint = !config.url.is_empty();
    has_endpoint
        .then(|| Poster::new(config).map(Arc::new))
        .transpose()
}

fn add(groups: &mut Groups, metrics: &WebhookMetrics, alert: Alert) {
    if let Err(TooManyGroups) = groups.add(alert, Instant::now()) {
        metrics.told(Told::TooManyGroups, 1);
    }
}

/// Retries until the endpoint, which may change meanwhile, accepts or refuses it, or until
/// the time is up. When the consumer stops there is one more attempt.
async fn deliver(
    mut endpoint: watch::Receiver<Endpoint>,
    metrics: WebhookMetrics,
    health: Component,
    stop: &CancellationToken,
    dropped: &Dropped,
    all: Notification,
) {
    let (body, begun, mut pauses) = (body(&all), Instant::now(), pauses());
    let result = loop {
        let poster = endpoint.borrow_and_update().clone();
        let Some(poster) = poster else {
            break Notified::Failed;
        };
        match poster.send(&body).await {
            Sent::Accepted => {
                health.ready();
                break Notified::Accepted;
            }
            Sent::Refused(reason) => {
                health.degraded(format!("the webhook refuses alerts: {reason}"));
                if let Some(left_out) = dropped.refused.admit() {
                    tracing::error!(
                        reason,
                        left_out,
                        "a notification was refused and is dropped"
                    );
                }
                break Notified::Refused;
            }
            Sent::Failed(reason) => {
                health.degraded(format!("the webhook does not take alerts: {reason}"));
                if begun.elapsed() > GIVE_UP || stop.is_cancelled() {
                    if let Some(left_out) = dropped.late.admit() {
                        tracing::error!(
                            reason,
                            left_out,
                            "a notification was not delivered in time; dropping it"
                        );
                    }
                    break Notified::Failed;
                }
                metrics.retries.inc();
                tokio::select! {
                    () = tokio::time::sleep(pauses.next_delay()) => {}
                    () = stop.cancelled() => {}
                    _ = endpoint.changed() => {}
                }
            }
        }
    };
    count(&metrics, &all, result);
}

fn body(notification: &Notification) -> Vec<u8> {
    // Texts and numbers can always be written as JSON.
    serde_json::to_vec(notification).unwrap_or_default()
}

fn count(metrics: &WebhookMetrics, all: &Notification, result: Notified) {
    metrics.notified(result);
    let listed = all.alerts.len() as u64;
    if result == Notified::Accepted {
        metrics.told(Told::Listed, listed);
        metrics.told(Told::Truncated, all.truncated);
    } else {
        metrics.told(Told::Undelivered, listed + all.truncated);
    }
}

/// An alert of tests.
#[cfg(test)]
pub(crate) mod sample {
    use iot_fold::{Alert, AlertKind, AlertStatus, DeviceKey, Level};

    /// Of device `t/p/d`.
    pub(crate) fn alert(id: &str, raised_at: i64, state: AlertStatus) -> Alert {
        Alert {
            id: id.into(),
            key: DeviceKey {
                tenant: "t".into(),
                project: "p".into(),
                device: "d".into(),
            },
            location: None,
            sensor: "temperature".into(),
            kind: AlertKind::Threshold,
            level: Level::Warning,
            state,
            value: 51.0,
            limit: 50.0,
            message: String::new(),
            reason: None,
            timestamp: raised_at,
            raised_at,
            count: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_service::config::HumanDuration;
    use iot_service::metrics::Registrar;
    use prometheus::{IntGauge, Registry, TextEncoder};

    use super::*;
    use crate::webhook::sample::alert;

    #[test]
    fn what_is_old_or_does_not_fit_is_counted_and_repeats_are_nothing_new() {
        let registry = Registry::new();
        let (queue, mut alerts) = mpsc::channel(1);
        let queue_depth = IntGauge::new("depth", "depth").unwrap();
        let mut config = ConsumerConfig::default();
        config.webhook.url = "http://127.0.0.1:1".into();
        config.webhook.max_age = HumanDuration::from_millis(500);
        let webhook = Webhook {
            queue,
            config: Live::fixed(config),
            metrics: WebhookMetrics::new(&Registrar(&registry), queue_depth).unwrap(),
        };
        let new = alert("a", 5, AlertStatus::Raised);
        let mut repeated = new.clone();
        repeated.count = 2;
        webhook.send(&repeated, Some(1_000), 1_500);
        webhook.send(&new, Some(999), 1_500);
        webhook.send(&new, None, 1_500);
        webhook.send(&new, Some(1_000), 1_500);
        webhook.send(&alert("b", 2_000, AlertStatus::Cleared), Some(1_000), 1_500);
        assert_eq!(alerts.try_recv().as_ref(), Ok(&new));
        assert!(alerts.try_recv().is_err());
        let text = TextEncoder::new().encode_to_string(&registry.gather());
        let text = text.unwrap();
        for line in [
            "iot_webhook_alerts_total{result=\"old\"} 2",
            "iot_webhook_alerts_total{result=\"queue_full\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
