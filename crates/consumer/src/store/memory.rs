//! The store `memory://`, which lives as long as the process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iot_core::partition::TopicPartition;

use super::{Conflict, LogId, Replaced, Sealed, Step, Stored};

type Partitions = HashMap<TopicPartition, Kept>;

#[derive(Debug)]
pub(crate) struct Memory {
    partitions: Mutex<Partitions>,
    /// Longest time that a window is kept, in milliseconds.
    longest: i64,
}

#[derive(Debug, Default)]
struct Kept {
    offset: Option<i64>,
    log: LogId,
    live: BTreeMap<String, Vec<u8>>,
    windows: HashMap<Arc<str>, Window>,
    /// Times at which windows expire, with their keys.
    expiries: BTreeSet<(i64, Arc<str>)>,
}

#[derive(Debug)]
struct Window {
    value: Vec<u8>,
    expires: i64,
}

impl Memory {
    pub(super) fn new(longest: i64) -> Self {
        Self {
            partitions: Mutex::default(),
            longest,
        }
    }

    pub(super) fn load(&self, partition: &TopicPartition) -> Stored {
        match self.lock().get(partition) {
            None => Stored::default(),
            Some(kept) => Stored {
                entries: kept
                    .live
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
                ..kept.head()
            },
        }
    }

    pub(super) fn head(&self, partition: &TopicPartition) -> Stored {
        let partitions = self.lock();
        partitions
            .get(partition)
            .map(Kept::head)
            .unwrap_or_default()
    }

    pub(super) fn keep(&self, partition: &TopicPartition, windows: &[Sealed], now: i64) {
        let mut partitions = self.lock();
        let kept = partitions.entry(partition.clone()).or_default();
        kept.seal_all(windows, now, self.longest);
    }

    pub(super) fn apply(&self, step: &Step<'_>, now: i64) -> Result<(), Conflict> {
        let mut partitions = self.lock();
        let kept = partitions.entry(step.partition.clone()).or_default();
        if kept.offset == Some(step.to) && step.from != Some(step.to) {
            // The same step again, after an answer that got lost.
            return Ok(());
        }
        if kept.offset != step.from {
            return Err(Conflict {
                stored: kept.offset,
                expected: step.from,
            });
        }
        for key in &step.changes.removed {
            kept.live.remove(key);
        }
        kept.live.extend(step.changes.live.iter().cloned());
        kept.seal_all(&step.changes.windows, now, self.longest);
        (kept.offset, kept.log) = (Some(step.to), step.log);
        Ok(())
    }

    pub(super) fn set_aside(&self, replaced: &Replaced<'_>) -> Result<(), Conflict> {
        let mut partitions = self.lock();
        let kept = partitions.entry(replaced.partition.clone()).or_default();
        if kept.offset != Some(replaced.from) {
            return Err(Conflict {
                stored: kept.offset,
                expected: Some(replaced.from),
            });
        }
        kept.live.clear();
        (kept.offset, kept.log) = (Some(replaced.to), replaced.log);
        Ok(())
    }

    pub(super) fn reset(&self, partition: &TopicPartition, offset: i64) {
        let mut partitions = self.lock();
        let kept = partitions.entry(partition.clone()).or_default();
        kept.live.clear();
        (kept.offset, kept.log) = (Some(offset), LogId::default());
    }

    pub(super) fn windows(
        &self,
        partition: &TopicPartition,
        keys: &[String],
        now: i64,
    ) -> Vec<Vec<u8>> {
        let mut partitions = self.lock();
        let Some(kept) = partitions.get_mut(partition) else {
            return Vec::new();
        };
        kept.expire(now);
        let found = keys.iter().filter_map(|key| kept.windows.get(key.as_str()));
        found.map(|window| window.value.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Partitions> {
        self.partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn head(&self) -> Stored {
        Stored {
            offset: self.offset,
            log: self.log,
            ..Stored::default()
        }
    }

    /// Keeps windows for their time, and for `longest` at most.
    fn seal_all(&mut self, windows: &[Sealed], now: i64, longest: i64) {
        for sealed in windows {
            let expires = sealed.expires.min(now.saturating_add(longest));
            self.seal(sealed.store_key().into(), sealed.encode(), expires);
        }
        self.expire(now);
    }

    fn seal(&mut self, key: Arc<str>, value: Vec<u8>, expires: i64) {
        let window = Window { value, expires };
        if let Some(before) = self.windows.insert(key.clone(), window) {
            self.expiries.remove(&(before.expires, key.clone()));
        }
        self.expiries.insert((expires, key));
    }

    fn expire(&mut self, now: i64) {
        while let Some((expires, _)) = self.expiries.first()
            && *expires <= now
        {
            if let Some((_, key)) = self.expiries.pop_first() {
                self.windows.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_fold::Changes;

    use super::*;
    use crate::store::tests::sealed;

    fn here() -> TopicPartition {
        TopicPartition::new("device-data", 3)
    }

    fn live<const N: usize>(devices: [(&str, u8); N]) -> Changes {
        let devices = devices.map(|(key, value)| (key.to_owned(), vec![value]));
        Changes {
            live: devices.into(),
            ..Changes::default()
        }
    }

    fn windows<const N: usize>(windows: [(&str, i64); N]) -> Changes {
        let windows = windows.map(|(device, expires)| sealed(device, expires));
        Changes {
            windows: windows.into(),
            ..Changes::default()
        }
    }

    fn apply(
        store: &Memory,
        from: Option<i64>,
        to: i64,
        changes: &Changes,
    ) -> Result<(), Conflict> {
        let step = Step {
            partition: &here(),
            from,
            to,
            log: LogId::default(),
            changes,
        };
        store.apply(&step, 1_000)
    }

    #[test]
    fn values_and_offset_change_together() {
        let store = Memory::new(10_000);
        assert_eq!(store.load(&here()), Stored::default());
        apply(&store, None, 10, &live([("a", 1)])).unwrap();
        apply(&store, Some(10), 12, &live([("a", 2)])).unwrap();
        let stored = store.load(&here());
        assert_eq!(
            (stored.offset, stored.entries),
            (Some(12), vec![("a".into(), vec![2])])
        );
        assert_eq!(
            store.load(&TopicPartition::new("device-data", 4)),
            Stored::default(),
            "another partition"
        );
    }

    #[test]
    fn removed_values_are_deleted() {
        let store = Memory::new(10_000);
        apply(&store, None, 10, &live([("a", 1), ("b", 1)])).unwrap();
        let changes = Changes {
            removed: vec!["a".into(), "never".into()],
            ..live([("b", 2)])
        };
        apply(&store, Some(10), 11, &changes).unwrap();
        assert_eq!(store.load(&here()).entries, [("b".into(), vec![2])]);
    }

    #[test]
    fn an_unexpected_offset_changes_nothing() {
        let store = Memory::new(10_000);
        apply(&store, None, 10, &live([("a", 1)])).unwrap();
        for from in [None, Some(9), Some(11)] {
            let conflict = Conflict {
                stored: Some(10),
                expected: from,
            };
            let changes = Changes {
                windows: windows([("w", 2_000)]).windows,
                ..live([("a", 2)])
            };
            assert_eq!(apply(&store, from, 20, &changes), Err(conflict));
        }
        assert_eq!(store.load(&here()).entries, [("a".into(), vec![1])]);
        assert!(
            store
                .windows(&here(), &[sealed("w", 0).store_key()], 1_000)
                .is_empty()
        );
    }

    #[test]
    fn the_same_step_twice_is_one() {
        let store = Memory::new(10_000);
        apply(&store, None, 10, &live([("a", 1)])).unwrap();
        apply(&store, None, 10, &live([("a", 1)])).unwrap();
        assert_eq!(store.load(&here()).offset, Some(10));
    }

    #[test]
    fn the_log_is_stored_with_the_offset_and_replaced_with_the_state() {
        let store = Memory::new(10_000);
        let log = |epoch| LogId {
            topic_id: kafka_fetch::TopicId::from_bytes([7; 16]),
            leader_epoch: Some(epoch),
        };
        let (partition, changes) = (here(), live([("a", 1)]));
        let step = |from, to, epoch| Step {
            partition: &partition,
            from,
            to,
            log: log(epoch),
            changes: &changes,
        };
        store.apply(&step(None, 10, 1), 0).unwrap();
        assert_eq!(store.load(&here()).log, log(1));
        store.apply(&step(Some(10), 10, 2), 0).unwrap();
        assert_eq!(store.load(&here()).log, log(2), "only the log");
        let mut replaced = Replaced {
            partition: &here(),
            from: 9,
            before: log(2),
            to: 3,
            log: LogId::default(),
        };
        let conflict = Conflict {
            stored: Some(10),
            expected: Some(9),
        };
        assert_eq!(store.set_aside(&replaced), Err(conflict));
        assert_eq!(store.load(&here()).entries.len(), 1);
        replaced.from = 10;
        store.set_aside(&replaced).unwrap();
        let empty = Stored {
            offset: Some(3),
            ..Stored::default()
        };
        assert_eq!(store.load(&here()), empty);
    }

    #[test]
    fn windows_are_kept_until_they_expire_and_are_no_live_state() {
        let store = Memory::new(10_000);
        let changes = windows([("a", 2_000), ("b", 3_000), ("old", 1_000)]);
        apply(&store, None, 10, &changes).unwrap();
        assert!(store.load(&here()).entries.is_empty());
        let keys = ["a", "b", "old", "never"].map(|device| sealed(device, 0).store_key());
        let value = sealed("a", 0).encode();
        assert_eq!(
            store.windows(&here(), &keys, 1_999),
            [value.clone(), sealed("b", 0).encode()]
        );
        // A window that is stored again is kept longer.
        apply(&store, Some(10), 11, &windows([("a", 4_000)])).unwrap();
        assert_eq!(
            store.windows(&here(), &keys, 3_000),
            std::slice::from_ref(&value)
        );
        assert!(store.windows(&here(), &keys, 4_000).is_empty());
        // A record time that is far ahead.
        apply(&store, Some(11), 12, &windows([("a", i64::MAX)])).unwrap();
        assert_eq!(store.windows(&here(), &keys, 10_999), [value]);
        assert!(store.windows(&here(), &keys, 11_000).is_empty());
        assert!(store.lock()[&here()].expiries.is_empty());
    }
}
