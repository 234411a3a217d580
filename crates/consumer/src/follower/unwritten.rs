//! What a follower does in place of writing: it keeps sealed windows until the owner has stored
//! them, and nothing else.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_fold::{Alert, DeviceWindows, Fold, Folded, Sealed, add_stored};
use iot_live::hub::Question;
use kafka_fetch::Record;
use prometheus::Histogram;
use tokio::time::Instant;

use crate::partial::Listed;
use crate::pipeline::{Effects, Progressed, ReloadReason};
use crate::refusal::Refusal;
use crate::shared::Shared;

/// How often sealed windows are taken from the fold, at least.
const SETTLE_EVERY: Duration = Duration::from_secs(1);
/// They are also taken after this many changes, which the fold lists until then.
const SETTLE_CHANGES: usize = 10_000;
/// More windows than this are searched for those whose time is over.
const MANY: usize = 10_000;

/// Has no right to write.
pub(super) struct Unwritten {
    shared: Arc<Shared>,
    windows: Windows,
    settle_at: Instant,
}

impl Unwritten {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            windows: Windows::default(),
            settle_at: Instant::now() + SETTLE_EVERY,
        }
    }

    /// The owner has stored everything before this offset.
    pub(super) fn stored(&mut self, offset: i64) {
        self.windows.drop_before(offset);
    }
}

impl Effects for Unwritten {
    fn processing(shared: &Shared) -> Histogram {
        shared.metrics.followers.processing.clone()
    }

    fn folded(&self, messages: u64, folded: &Folded) {
        let metrics = &self.shared.metrics.followers;
        metrics.messages.inc_by(messages);
        metrics.readings.inc_by(folded.readings);
    }

    fn refused(&mut self, _: &TopicPartition, _: &Record<'_>, _: &Refusal) {
        self.shared.metrics.followers.refused.inc();
    }

    fn readings_refused(&mut self, _: &TopicPartition, _: &Record<'_>, _: Listed<'_>) {
        self.shared.metrics.followers.refused.inc();
    }

    fn alert(&mut self, _: &TopicPartition, _: &Alert, _: Option<i64>) {}

    fn windows(&self, fold: &Fold, of: &Question) -> Option<DeviceWindows> {
        let mut windows = fold.windows(&of.key, of.size)?;
        self.windows.add_to(&mut windows);
        Some(windows)
    }

    fn is_full(&self, fold: &Fold) -> bool {
        fold.changed() >= SETTLE_CHANGES
    }

    fn due(&self) -> Instant {
        self.settle_at
    }

    async fn settle(&mut self, progressed: Progressed<'_>) -> Result<(), ReloadReason> {
        self.settle_at = Instant::now() + SETTLE_EVERY;
        let sealed = progressed.fold.take_sealed();
        if self.shared.store.is_durable() {
            self.windows.add(&sealed, progressed.next);
        } else {
            let store = &self.shared.store;
            store.keep_windows(progressed.partition, &sealed);
        }
        Ok(())
    }
}

/// Sealed windows that the store does not have yet.
#[derive(Debug, Default)]
struct Windows {
    /// As a store keeps them, by their keys.
    kept: HashMap<Arc<str>, Kept>,
    /// Their keys by the offsets up to which they were sealed.
    order: VecDeque<(i64, Arc<str>)>,
    /// The number at which those are searched for whose time is over.
    many: usize,
}

#[derive(Debug)]
struct Kept {
    offset: i64,
    expires: i64,
    value: Vec<u8>,
}

impl Windows {
    /// These were sealed by records before that offset.
    fn add(&mut self, sealed: &[Sealed], offset: i64) {
        for sealed in sealed {
            let key: Arc<str> = sealed.store_key().into();
            let kept = Kept {
                offset,
                expires: sealed.expires,
                value: sealed.encode(),
            };
            self.kept.insert(key.clone(), kept);
            self.order.push_back((offset, key));
        }
        if self.kept.len() > self.many.max(MANY) {
            self.expire(jiff::Timestamp::now().as_millisecond());
            self.many = 2 * self.kept.len();
        }
    }

    fn drop_before(&mut self, offset: i64) {
        while self
            .order
            .front()
            .is_some_and(|(sealed, _)| *sealed <= offset)
        {
            let Some((sealed, key)) = self.order.pop_front() else {
                return;
            };
            // Not if the same window was sealed again later.
            if self
                .kept
                .get(&key)
                .is_some_and(|kept| kept.offset <= sealed)
            {
                self.kept.remove(&key);
            }
        }
    }

    /// Drops those that a store would not have any more. Otherwise an owner that stores nothing
    /// for days would fill the memory.
    fn expire(&mut self, now: i64) {
        self.kept.retain(|_, kept| kept.expires > now);
        let kept = &self.kept;
        self.order.retain(|(_, key)| kept.contains_key(key));
    }

    /// Adds those of a device.
    fn add_to(&self, windows: &mut DeviceWindows) {
        for key in &windows.stored {
            if let Some(kept) = self.kept.get(key.as_str())
                && let Err(error) = add_stored(&mut windows.here, &kept.value)
            {
                tracing::error!(%error, "a window that was sealed here can't be read");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::sealed;

    fn keys(windows: &Windows) -> Vec<&str> {
        let mut keys: Vec<_> = windows.kept.keys().map(|key| &**key).collect();
        keys.sort_unstable();
        assert_eq!(keys.len(), windows.order.len());
        keys
    }

    #[test]
    fn windows_are_kept_until_the_stored_offset_has_passed_them() {
        let mut windows = Windows::default();
        let (a, b, c) = (sealed("a", 100), sealed("b", 200), sealed("c", 300));
        windows.add(&[a.clone(), b.clone()], 10);
        windows.add(std::slice::from_ref(&c), 20);
        windows.drop_before(9);
        assert_eq!(windows.kept.len(), 3);
        windows.drop_before(10);
        assert_eq!(keys(&windows), [c.store_key()]);
        windows.drop_before(25);
        assert!(keys(&windows).is_empty());
        windows.add(&[a.clone(), b.clone()], 30);
        windows.expire(150);
        assert_eq!(keys(&windows), [b.store_key()]);
    }

    #[test]
    fn a_window_that_is_sealed_again_is_kept_as_long_as_the_later_one() {
        let mut windows = Windows::default();
        let a = sealed("a", 100);
        windows.add(std::slice::from_ref(&a), 10);
        windows.add(std::slice::from_ref(&a), 20);
        windows.drop_before(10);
        assert_eq!(keys(&windows), [a.store_key()]);
        windows.drop_before(20);
        assert!(keys(&windows).is_empty());
    }
}
