//! The store of one process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use super::{Change, Conflict, Partition, Stored};

#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<HashMap<(String, i32), Kept>>);

#[derive(Debug, Default)]
struct Kept {
    offset: Option<i64>,
    values: BTreeMap<String, Vec<u8>>,
}

impl Memory {
    pub(super) fn load(&self, (topic, partition): Partition<'_>) -> Stored {
        let partitions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match partitions.get(&(topic.to_owned(), partition)) {
            None => Stored::default(),
            Some(kept) => Stored {
                offset: kept.offset,
                entries: kept
                    .values
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            },
        }
    }

    pub(super) fn apply(
        &self,
        (topic, partition): Partition<'_>,
        from: Option<i64>,
        to: i64,
        changes: Vec<Change>,
    ) -> Result<(), Conflict> {
        let mut partitions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = partitions.entry((topic.to_owned(), partition)).or_default();
        if kept.offset == Some(to) && from != Some(to) {
            // The same step a second time, after an answer that got lost.
            return Ok(());
        }
        if kept.offset != from {
            return Err(Conflict {
                stored: kept.offset,
                expected: from,
            });
        }
        for Change { key, value } in changes {
            match value {
                Some(value) => drop(kept.values.insert(key, value)),
                None => drop(kept.values.remove(&key)),
            }
        }
        kept.offset = Some(to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Partition<'static> = ("device-data", 3);

    fn put(key: &str, value: u8) -> Change {
        Change {
            key: key.into(),
            value: Some(vec![value]),
        }
    }

    #[test]
    fn values_and_offset_change_together() {
        let store = Memory::default();
        assert_eq!(store.load(HERE), Stored::default());
        store
            .apply(HERE, None, 10, vec![put("a", 1), put("b", 1)])
            .unwrap();
        let delete = Change {
            key: "a".into(),
            value: None,
        };
        store
            .apply(HERE, Some(10), 12, vec![put("b", 2), delete])
            .unwrap();
        let stored = store.load(HERE);
        assert_eq!(
            (stored.offset, stored.entries),
            (Some(12), vec![("b".into(), vec![2])])
        );
        assert_eq!(
            store.load(("device-data", 4)),
            Stored::default(),
            "another partition"
        );
    }

    #[test]
    fn an_unexpected_offset_changes_nothing() {
        let store = Memory::default();
        store.apply(HERE, None, 10, vec![put("a", 1)]).unwrap();
        for from in [None, Some(9), Some(11)] {
            let conflict = Conflict {
                stored: Some(10),
                expected: from,
            };
            assert_eq!(
                store.apply(HERE, from, 20, vec![put("a", 2)]),
                Err(conflict)
            );
        }
        assert_eq!(store.load(HERE).entries, [("a".into(), vec![1])]);
    }

    #[test]
    fn the_same_step_twice_is_one() {
        let store = Memory::default();
        store.apply(HERE, None, 10, vec![put("a", 1)]).unwrap();
        store.apply(HERE, None, 10, vec![put("a", 1)]).unwrap();
        assert_eq!(store.load(HERE).offset, Some(10));
    }
}
