//! What happens to a session's connection.

use std::fmt::Display;
use std::sync::Arc;

use super::Pipeline;
use crate::preflight;
use iot_mqtt::Granted;

impl Pipeline {
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

    pub(super) fn subscribed(&self) {
        self.gauges.connected.set(1);
        self.health.mqtt.ready();
    }

    pub(super) fn disconnected(&mut self, broker: &str, error: &impl Display) {
        self.gauges.connected.set(0);
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
