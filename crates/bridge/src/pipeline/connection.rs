//! What arrives on a session's connection, and what happens to it.

use std::fmt::Display;
use std::sync::Arc;

use iot_core::dead_letter::Truncated;
use iot_mqtt::{Defective, Granted, Oversize};

use super::Pipeline;
use crate::message::DeadLetterCause;
use crate::mqtt::{LinkEvent, Refused};
use crate::preflight;
use crate::refusal::Refusal;

/// More refused filters than these are counted, not named.
const NAMED: usize = 3;

impl Pipeline {
    pub(super) fn on_link(&mut self, event: LinkEvent) -> anyhow::Result<()> {
        match event {
            LinkEvent::Publish(publish) => {
                let size = publish.payload.len() as u64;
                self.receive(publish, size, None, None)?;
            }
            LinkEvent::Defective(defective) => {
                let Defective { publish, defect } = *defective;
                let size = publish.payload.len() as u64;
                let cause = DeadLetterCause {
                    reason: Refusal::InvalidProperties,
                    detail: defect,
                };
                self.receive(publish, size, None, Some(cause))?;
            }
            LinkEvent::Oversize(oversize) => {
                let Oversize {
                    publish,
                    size,
                    sha256,
                } = *oversize;
                let cut = Box::new(Truncated { size, sha256 });
                self.receive(publish, size, Some(cut), None)?;
            }
            LinkEvent::Connected {
                broker,
                resumed,
                granted,
            } => self.connected(broker, resumed, &granted),
            LinkEvent::Subscribed => self.subscribed(),
            LinkEvent::Unsubscribed => self.unsubscribed(),
            LinkEvent::Released(packet_id) => self.dedupe.released(packet_id),
            LinkEvent::Pong => self.ponged(),
            LinkEvent::PreferredBack => self.preferred_back(),
            LinkEvent::Lost {
                broker,
                error,
                written,
            } => self.disconnected(&broker, &error, written),
        }
        Ok(())
    }

    /// The broker accepted the connection; `resumed`: it kept the session.
    pub(super) fn connected(&mut self, broker: Arc<str>, resumed: bool, granted: &Granted) {
        // At a new broker there was no session to lose.
        let known = self.known_brokers.contains(&broker);
        if !known {
            preflight::warn(&preflight::mqtt_checks(granted, &self.config.mqtt));
        }
        tracing::info!(%broker, resumed, client_id = &*self.client_id, "connected to the MQTT broker");
        self.metrics.connections.inc();
        self.dedupe.connected(&broker, resumed);
        if !resumed && known {
            self.metrics.sessions_lost.inc();
            tracing::error!(
                %broker,
                "the broker lost the session, and the messages that it had queued for the bridge"
            );
        }
        self.known_brokers.insert(broker);
    }

    /// The broker has granted the subscriptions, except those that it refuses. One that it
    /// refuses stops no other.
    pub(super) fn subscribed(&self) {
        let (refused, subscribed) = (self.link.refused(), self.link.is_subscribed());
        let missing = refused.iter().filter(|refused| refused.is_subscription());
        self.gauges.refused_filters.set(missing.count() as i64);
        self.gauges.connected.set(subscribed.into());
        match (reason(refused), subscribed) {
            (None, _) => self.health.mqtt.ready(),
            (Some(reason), true) => self.health.mqtt.degraded(reason),
            // Nothing arrives, or a drain can't end.
            (Some(reason), false) => self.health.mqtt.not_ready(reason),
        }
    }

    /// There is no connection; the last one wrote `written` bytes.
    pub(super) fn disconnected(&mut self, broker: &str, error: &impl Display, written: u64) {
        self.dedupe.disconnected(written);
        self.gauges.connected.set(0);
        self.gauges.refused_filters.set(0);
        self.health.mqtt.not_ready(format!("{broker}: {error}"));
        self.failing_back = false;
        self.restart_drain();
    }

    /// A preferred broker accepts connections again.
    pub(super) fn preferred_back(&mut self) {
        // A drain is completed at this broker first.
        if self.drain.is_none() {
            tracing::info!("a preferred MQTT broker accepts connections again; failing back to it");
            self.failing_back = true;
        }
    }

    /// Connects to the preferred broker once everything is acknowledged.
    pub(super) fn fail_back_when_empty(&mut self) {
        if self.failing_back && self.ring.len() == 0 {
            self.failing_back = false;
            self.link.switch_back();
        }
    }
}

/// The reason to report, if anything is refused.
fn reason(refused: &[Refused]) -> Option<String> {
    if refused.is_empty() {
        return None;
    }
    let named = refused.iter().take(NAMED).map(ToString::to_string);
    let mut parts: Vec<String> = named.collect();
    let others = refused.len() - parts.len();
    if others > 0 {
        parts.push(format!("and {others} more"));
    }
    Some(format!("{}; retrying", parts.join(", ")))
}
