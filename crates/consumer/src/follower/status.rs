//! How a follower stands.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kafka::marks::MarkKeeper;
use crate::kafka::progress::Progress;

/// Written by a follower, read by the supervisor and by an owner that takes over.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) progress: Arc<Progress>,
    is_shown: AtomicBool,
    has_caught_up: AtomicBool,
    has_other_rules: AtomicBool,
    /// Why the store does not tell anything.
    store: Mutex<Option<String>>,
    /// When its records were fetched.
    marks: Mutex<Option<Arc<MarkKeeper>>>,
}

impl Status {
    /// It shows what comes from the records before this offset; `None` while it shows nothing.
    pub(super) fn shown(&self) -> Option<i64> {
        let is_shown = self.is_shown.load(Ordering::Acquire);
        is_shown.then(|| self.progress.position()).flatten()
    }

    /// It has processed something, or looked whether it can.
    pub(super) fn went_on(&self, is_shown: bool) {
        self.is_shown.store(is_shown, Ordering::Release);
        if self.progress.is_at_end() {
            self.has_caught_up.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was once at the end of the log.
    pub(super) fn has_caught_up(&self) -> bool {
        self.has_caught_up.load(Ordering::Relaxed)
    }

    pub(super) fn store_answers(&self, same_rules: bool) {
        self.has_other_rules.store(!same_rules, Ordering::Relaxed);
        *self.lock() = None;
    }

    pub(super) fn store_fails(&self, reason: String) {
        *self.lock() = Some(reason);
    }

    /// Whether the owner folds with other rules.
    pub(super) fn has_other_rules(&self) -> bool {
        self.has_other_rules.load(Ordering::Relaxed)
    }

    /// Why the store does not tell anything.
    pub(super) fn store(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Its records are fetched.
    pub(super) fn fetches(&self, marks: Arc<MarkKeeper>) {
        let mut kept = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(marks);
    }

    /// When they were.
    pub(super) fn marks(&self) -> Option<Arc<MarkKeeper>> {
        let kept = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
