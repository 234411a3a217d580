//! Readiness of the store, which all its users report.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iot_service::health::Component;

use super::Unavailable;

/// Component `store`: not ready from the first reported error until no operation is retrying.
#[derive(Debug, Clone)]
pub(super) struct StoreReadiness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    component: Component,
    /// Number of waiting operations. Locked while reporting, so that a late `not_ready` cannot
    /// overwrite `ready`.
    waiting: Mutex<usize>,
}

/// An operation that waits for the store until this is dropped.
#[derive(Debug)]
pub(super) struct WaitingOperation(Arc<Inner>);

impl StoreReadiness {
    pub(super) fn new(component: Component) -> Self {
        let waiting = Mutex::new(0);
        Self(Arc::new(Inner { component, waiting }))
    }

    pub(super) fn begin(&self) -> WaitingOperation {
        *self.0.lock() += 1;
        WaitingOperation(self.0.clone())
    }
}

impl WaitingOperation {
    pub(super) fn report(&self, error: &Unavailable) {
        let reason = format!("{error}; retrying, processing is paused");
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
    use crate::store::Trouble;

    fn busy() -> Unavailable {
        Unavailable {
            trouble: Trouble::Busy,
            message: "Redis is starting".into(),
        }
    }

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
    fn the_last_operation_that_stops_waiting_makes_the_store_ready() {
        let health = Health::default();
        let readiness = StoreReadiness::new(health.component("store"));
        let printed = |state: &str| format!("{health:?}").contains(state);
        let (first, second) = (readiness.begin(), readiness.begin());
        first.report(&busy());
        drop(first);
        assert!(printed("Redis is starting; retrying, processing is paused"));
        drop(second);
        assert!(printed("Ready") && !printed("NotReady"));
    }

    #[test]
    fn the_store_is_not_ready_while_an_operation_waits_after_its_report() {
        let health = Health::default();
        let readiness = StoreReadiness::new(health.component("store"));
        let wait_often = || {
            for _ in 0..2_000 {
                let operation = readiness.begin();
                operation.report(&busy());
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
