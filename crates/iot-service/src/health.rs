//! Health by component. A service is live unless a component has failed
//! permanently, and ready while all its components are ready or degraded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// The health of one service: a list of named components. Clones share it.
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

/// The response body of `/livez` and `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    ok: bool,
    /// Present during an ordered shutdown.
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
    /// Adds a component. It is not ready until [`Component::ready`] is called.
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

    /// Makes the service permanently not ready, so that load balancers stop using it
    /// during the shutdown.
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

/// A handle with which one part of a service reports its state. Each change is
/// logged once, here, so callers may report the same state repeatedly.
#[derive(Debug, Clone)]
pub struct Component {
    health: Health,
    name: Arc<str>,
    index: usize,
}

impl Component {
    /// Reports that the component works.
    pub fn ready(&self) {
        if self.set(State::Ready) {
            tracing::info!(component = &*self.name, "ready");
        }
    }

    /// Reports a problem that does not affect the service's main job: the service stays
    /// ready and shows the reason.
    pub fn degraded(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.set(State::Degraded(reason.clone())) {
            tracing::warn!(component = &*self.name, reason, "degraded");
        }
    }

    /// Reports that the component does not work and is retrying.
    pub fn not_ready(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.set(State::NotReady(reason.clone())) {
            tracing::warn!(component = &*self.name, reason, "not ready");
        }
    }

    /// Reports that the component has failed permanently. `/livez` fails, so that the
    /// process is restarted.
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
    fn a_service_is_ready_when_all_components_are() {
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
