//! Readiness of the store, which all its users report.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iot_service::health::Component;

use super::Unavailable;

/// Component `store`: ready while no operation waits for it.
#[derive(Debug, Clone)]
pub(super) struct Outages(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    component: Component,
    /// Held while readiness is reported, so that the last report is the last state.
    waiting: Mutex<usize>,
}

/// An operation waits for the store until this is dropped.
#[derive(Debug)]
pub(super) struct Outage(Arc<Inner>);

impl Outages {
    pub(super) fn new(component: Component) -> Self {
        let waiting = Mutex::new(0);
        Self(Arc::new(Inner { component, waiting }))
    }

    pub(super) fn begin(&self) -> Outage {
        *self.0.waiting() += 1;
        Outage(self.0.clone())
    }
}

impl Outage {
    pub(super) fn say(&self, error: &Unavailable) {
        let reason = format!("{error}; what needs the store waits for it");
        let _waiting = self.0.waiting();
        self.0.component.not_ready(reason);
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        *waiting -= 1;
        if *waiting == 0 {
            self.0.component.ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_service::health::Health;

    use super::*;
    use crate::store::Trouble;

    fn starts() -> Unavailable {
        Unavailable {
            trouble: Trouble::Busy,
            message: "it starts".into(),
        }
    }

    fn said(health: &Health) -> String {
        loop {
            let said = format!("{health:?}");
            // While somebody says something it can't be read.
            if !said.contains("<locked>") {
                return said;
            }
        }
    }

    #[test]
    fn it_is_ready_when_the_last_one_has_stopped_waiting() {
        let health = Health::default();
        let outages = Outages::new(health.component("store"));
        let said = |what: &str| format!("{health:?}").contains(what);
        let (first, second) = (outages.begin(), outages.begin());
        first.say(&starts());
        drop(first);
        assert!(said("it starts; what needs the store waits for it"));
        drop(second);
        assert!(said("Ready") && !said("NotReady"));
    }

    #[test]
    fn it_is_not_ready_while_anybody_waits_who_has_said_so() {
        let health = Health::default();
        let outages = Outages::new(health.component("store"));
        let wait_often = || {
            for _ in 0..2_000 {
                let outage = outages.begin();
                outage.say(&starts());
                assert!(said(&health).contains("NotReady"));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(wait_often);
            }
        });
        assert!(!said(&health).contains("NotReady"));
    }
}
