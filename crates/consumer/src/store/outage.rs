//! Readiness of the store, said by all who use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use iot_service::health::Component;

use super::Unavailable;

/// Component `store`: ready while nobody waits for it.
#[derive(Debug, Clone)]
pub(super) struct Outages(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    component: Component,
    waiting: AtomicUsize,
}

/// Somebody waits for the store until this is dropped.
#[derive(Debug)]
pub(super) struct Outage(Arc<Inner>);

impl Outages {
    pub(super) fn new(component: Component) -> Self {
        let waiting = AtomicUsize::new(0);
        Self(Arc::new(Inner { component, waiting }))
    }

    pub(super) fn begin(&self) -> Outage {
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        Outage(self.0.clone())
    }
}

impl Outage {
    pub(super) fn say(&self, error: &Unavailable) {
        let reason = format!("{error}; what needs the store waits for it");
        self.0.component.not_ready(reason);
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.component.ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_service::health::Health;

    use super::*;
    use crate::store::Trouble;

    #[test]
    fn it_is_ready_when_the_last_one_has_stopped_waiting() {
        let health = Health::default();
        let outages = Outages::new(health.component("store"));
        let said = |what: &str| format!("{health:?}").contains(what);
        let (first, second) = (outages.begin(), outages.begin());
        first.say(&Unavailable {
            trouble: Trouble::Busy,
            message: "it starts".into(),
        });
        drop(first);
        assert!(said("it starts; what needs the store waits for it"));
        drop(second);
        assert!(said("Ready") && !said("NotReady"));
    }
}
