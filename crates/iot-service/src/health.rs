//! Health by component. A service is live unless a component has failed for
//! good, and ready while every component is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// The health of one service: a list of named components.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    stopping: bool,
    components: Vec<(Arc<str>, State)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
enum State {
    Ready,
    Degraded(String),
    NotReady(String),
    Failed(String),
}

/// What `/livez` and `/readyz` answer.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    ok: bool,
    /// Present while an ordered shutdown is under way.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stopping: bool,
    components: serde_json::Map<String, serde_json::Value>,
}

impl Report {
    pub(crate) fn ok(&self) -> bool {
        self.ok
    }
}

impl Health {
    /// Adds a component, not ready until it says so.
    pub fn component(&self, name: impl Into<Arc<str>>) -> Component {
        let name = name.into();
        let mut inner = self.lock();
        let index = inner.components.len();
        inner
            .components
            .push((name.clone(), State::NotReady("starting".into())));
        Component {
            health: self.clone(),
            name,
            index,
        }
    }

    /// Makes the service not ready for the rest of its life, so that a load
    /// balancer looks elsewhere while it drains.
    pub fn stopping(&self) {
        self.lock().stopping = true;
    }

    pub(crate) fn live(&self) -> Report {
        self.report(|inner| {
            !inner
                .components
                .iter()
                .any(|(_, s)| matches!(s, State::Failed(_)))
        })
    }

    pub(crate) fn ready(&self) -> Report {
        self.report(|inner| {
            let works = |state: &State| matches!(state, State::Ready | State::Degraded(_));
            !inner.stopping && inner.components.iter().all(|(_, s)| works(s))
        })
    }

    fn report(&self, ok: impl FnOnce(&Inner) -> bool) -> Report {
        let inner = self.lock();
        let components = inner.components.iter().map(|(name, state)| {
            let state = serde_json::to_value(state).unwrap_or_default();
            (name.to_string(), state)
        });
        Report {
            ok: ok(&inner),
            stopping: inner.stopping,
            components: components.collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle by which one part of a service says how it is. Every change is
/// logged once, here, so that callers may report as often as they like.
#[derive(Debug, Clone)]
pub struct Component {
    health: Health,
    name: Arc<str>,
    index: usize,
}

impl Component {
    /// The component does its work.
    pub fn ready(&self) {
        if self.set(State::Ready) {
            tracing::info!(component = &*self.name, "ready");
        }
    }

    /// The component does not do all of its work, but the service does its own without
    /// it: it stays ready, and says what is wrong.
    pub fn degraded(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.set(State::Degraded(reason.clone())) {
            tracing::warn!(component = &*self.name, reason, "degraded");
        }
    }

    /// The component can't work now, and keeps trying.
    pub fn not_ready(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.set(State::NotReady(reason.clone())) {
            tracing::warn!(component = &*self.name, reason, "not ready");
        }
    }

    /// The component has given up: only a restart helps, so `/livez` fails.
    pub fn failed(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.set(State::Failed(reason.clone())) {
            tracing::error!(component = &*self.name, reason, "failed");
        }
    }

    fn set(&self, state: State) -> bool {
        let mut inner = self.health.lock();
        let Some((_, current)) = inner.components.get_mut(self.index) else {
            return false;
        };
        let changed = *current != state;
        *current = state;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_component_is() {
        let health = Health::default();
        let (kafka, mqtt) = (health.component("kafka"), health.component("mqtt"));
        assert!(!health.ready().ok());
        kafka.ready();
        assert!(!health.ready().ok());
        mqtt.ready();
        assert!(health.ready().ok());
        mqtt.degraded("slow");
        let report = serde_json::to_value(health.ready()).unwrap();
        assert_eq!(report["components"]["mqtt"]["reason"], "slow");
        assert!(health.ready().ok() && health.live().ok());
        kafka.not_ready("no broker answers");
        assert!(!health.ready().ok() && health.live().ok());
        let report = serde_json::to_value(health.ready()).unwrap();
        assert_eq!(report["components"]["kafka"]["reason"], "no broker answers");
        kafka.failed("gone");
        assert!(!health.live().ok());
    }

    #[test]
    fn a_stopping_service_is_live_but_not_ready() {
        let health = Health::default();
        health.component("kafka").ready();
        health.stopping();
        assert!(health.live().ok() && !health.ready().ok());
    }
}
