//! Readiness of what many partitions wait for: the store, the outputs and the dead-letter topic.
//! One partition that can write again says nothing about another that still waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iot_service::health::Component;

/// A component that is not ready from the first reported error until no operation is retrying.
#[derive(Debug, Clone)]
pub(crate) struct SharedReadiness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    component: Component,
    /// Number of waiting operations. Locked while reporting, so that a late `not_ready` cannot
    /// overwrite `ready`.
    waiting: Mutex<usize>,
}

/// An operation that waits until this is dropped.
#[derive(Debug)]
pub(crate) struct WaitingOperation(Arc<Inner>);

impl SharedReadiness {
    pub(crate) fn new(component: Component) -> Self {
        let waiting = Mutex::new(0);
        Self(Arc::new(Inner { component, waiting }))
    }

    pub(crate) fn begin(&self) -> WaitingOperation {
        *self.0.lock() += 1;
        WaitingOperation(self.0.clone())
    }
}

impl WaitingOperation {
    pub(crate) fn report(&self, reason: String) {
        let _waiting = self.0.lock();
        self.0.component.not_ready(reason);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WaitingOperation {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
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

    const REASON: &str = "Redis is starting";

    fn printed(health: &Health) -> String {
        loop {
            let printed = format!("{health:?}");
            // `Debug` of a mutex does not wait for another thread that holds it.
            if !printed.contains("<locked>") {
                return printed;
            }
        }
    }

    #[test]
    fn the_last_operation_that_stops_waiting_makes_the_component_ready() {
        let health = Health::default();
        let readiness = SharedReadiness::new(health.component("store"));
        let printed = |state: &str| format!("{health:?}").contains(state);
        let (first, second) = (readiness.begin(), readiness.begin());
        first.report(REASON.to_owned());
        drop(first);
        assert!(printed(REASON));
        drop(second);
        assert!(printed("Ready") && !printed("NotReady"));
    }

    #[test]
    fn the_component_is_not_ready_while_an_operation_waits_after_its_report() {
        let health = Health::default();
        let readiness = SharedReadiness::new(health.component("store"));
        let wait_often = || {
            for _ in 0..2_000 {
                let operation = readiness.begin();
                operation.report(REASON.to_owned());
                assert!(printed(&health).contains("NotReady"));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(wait_often);
            }
        });
        assert!(!printed(&health).contains("NotReady"));
    }
}
