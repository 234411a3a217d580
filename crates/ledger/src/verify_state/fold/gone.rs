//! The devices in the order of their last messages, and which of them are removed.

use std::collections::BTreeMap;

/// The most devices that one record removes.
const AT_ONCE: usize = 16;

/// Names of devices and the ages of the partition at their last messages, by offset.
#[derive(Debug, Default)]
pub(super) struct Last(BTreeMap<i64, (String, i64)>);

impl Last {
    /// Notes that a device sent a message at `offset`, and the one before it at `before`.
    pub(super) fn moved(&mut self, device: &str, before: Option<i64>, offset: i64, age: i64) {
        if let Some(before) = before {
            self.0.remove(&before);
        }
        self.0.insert(offset, (device.to_owned(), age));
    }

    /// Takes out the devices that a record at this age removes.
    pub(super) fn gone(&mut self, age: i64, retention: i64) -> Vec<String> {
        let mut gone = Vec::new();
        while let Some(first) = self.0.first_entry() {
            if gone.len() == AT_ONCE || age - first.get().1 <= retention {
                break;
            }
            gone.push(first.remove().0);
        }
        gone
    }

    /// Brings ages that are later than `age` down to it, as the first records of a partition
    /// can make it fall.
    pub(super) fn limit(&mut self, age: i64) {
        for (_, at) in self.0.values_mut() {
            *at = age.min(*at);
        }
    }
}
