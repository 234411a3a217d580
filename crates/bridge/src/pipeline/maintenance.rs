//! What a session does once a second, and when the configuration changes.

use std::time::Duration;

use super::{Now, Pipeline};
use crate::config::BridgeConfig;

/// How much one session may have in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Limits {
    /// A session's share of `in_flight`.
    pub(super) fn of(config: &BridgeConfig) -> Self {
        let sessions = config.mqtt.sessions().len().max(1);
        Self {
            messages: config.in_flight.messages,
            bytes: config.in_flight.bytes.bytes() / sessions,
        }
    }
}

impl Pipeline {
    /// Once a second.
    pub(super) fn tick(&mut self) {
        self.now = Now::get();
        self.report_health();
        if self.ring.len() == 0 {
            self.dedupe.clear_lookups();
        }
        self.kafka.serve();
        self.dedupe.tick();
        self.probe_when_empty();
    }

    fn report_health(&mut self) {
        let oldest = self.ring.oldest().map(|oldest| oldest.since);
        let age = oldest.map_or(Duration::ZERO, |since| since.elapsed());
        let stalled = age > *self.config.kafka.stalled_after;
        self.gauges.oldest.set(age.as_secs_f64());
        self.gauges.stalled.set(stalled.into());
        self.gauges.topics.set(self.topics.len() as i64);
        if stalled {
            let oldest = self.ring.oldest().map(|oldest| oldest.target.topic());
            let trouble = oldest.and_then(|topic| self.topics.trouble(topic));
            let failure = self.last_failure.as_ref().map(|(_, reason)| reason.clone());
            let reason = trouble.or(failure);
            let reason = reason.as_deref().unwrap_or("no answer from Kafka");
            // Without the age: the reason is logged whenever it changes.
            self.health.delivery.not_ready(format!(
                "stalled: the oldest message waits for Kafka ({reason})"
            ));
        } else if self.dedupe.is_restoring() {
            // It is not ready, and says so since the start.
        } else if let Some(trouble) = self.topics.waiting_trouble(self.checkpoints) {
            let delivery = &self.health.delivery;
            delivery.not_ready(format!("messages wait for their topic: {trouble}"));
        } else if let Some(trouble) = self.own_topics_trouble() {
            self.health.delivery.degraded(trouble);
        } else {
            self.health.delivery.ready();
        }
    }

    /// Why a topic of the bridge itself does not exist yet. No message needs it now.
    fn own_topics_trouble(&self) -> Option<String> {
        let mut own = [self.dead_letters, self.checkpoints].into_iter();
        own.find_map(|topic| self.topics.trouble(topic))
    }

    /// Applies the settings that may change while the bridge runs.
    pub(super) fn reload(&mut self) {
        self.config = self.live.current();
        self.limits = Limits::of(&self.config);
        self.topics
            .set_max_per_tenant(self.config.topics.max_per_tenant);
        let plans = self.config.mqtt.sessions();
        let plan = plans
            .into_iter()
            .find(|plan| *plan.client_id == *self.client_id);
        match plan {
            Some(plan) => self.link.set_filters(plan.filters),
            None => tracing::warn!(
                client_id = &*self.client_id,
                "the new filters change the set of sessions; restart the bridge to apply them"
            ),
        }
    }
}
