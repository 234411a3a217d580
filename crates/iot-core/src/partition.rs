//! Partitions of Kafka topics: their names, and which one a device belongs to.

use std::fmt;
use std::sync::Arc;

/// One partition of one topic. Clones share the name of the topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition, from 0, with the sign that Kafka's protocol gives it.
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }

    /// Topic and number, for log fields and for clients that take them apart.
    #[must_use]
    pub fn parts(&self) -> (&str, i32) {
        (&self.topic, self.partition)
    }
}

/// As Kafka's own tools write it: `device-data-7`.
impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

const OFFSET_BASIS: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

/// FNV-1a, 32 bits (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>).
#[must_use]
pub fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(OFFSET_BASIS, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(PRIME)
    })
}

/// Partition of a device: FNV-1a of its id modulo the number of partitions.
///
/// The arithmetic is unsigned: a signed remainder is negative for half of all
/// hashes. Without any partition the answer is 0, the first one there will be.
#[must_use]
pub fn partition_for(device_id: &str, partitions: u32) -> u32 {
    fnv1a_32(device_id.as_bytes())
        .checked_rem(partitions)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn topic_partitions_are_written_as_kafka_writes_them() {
        let partition = TopicPartition::new("acme.plant", 7);
        assert_eq!(partition.to_string(), "acme.plant-7");
    }

    #[test]
    fn topic_partitions_sort_by_topic_then_number() {
        let [a2, a10, b1] = [("a", 2), ("a", 10), ("b", 1)].map(|(t, p)| TopicPartition::new(t, p));
        let mut sorted = [b1.clone(), a10.clone(), a2.clone()];
        sorted.sort();
        assert_eq!(sorted, [a2, a10, b1]);
    }

    #[test]
    fn hashes_the_published_vectors() {
        for (text, hash) in [
            ("", 0x811c_9dc5),
            ("a", 0xe40c_292c),
            ("b", 0xe70c_2de5),
            ("foobar", 0xbf9c_f968),
        ] {
            assert_eq!(fnv1a_32(text.as_bytes()), hash, "{text:?}");
        }
    }

    #[test]
    fn a_hash_with_the_top_bit_set_stays_in_range() {
        assert!(fnv1a_32(b"a") > i32::MAX as u32);
        assert_eq!(partition_for("a", 10), 0xe40c_292c % 10);
    }

    #[test]
    fn no_partition_is_not_a_division_by_zero() {
        assert_eq!(partition_for("a", 0), 0);
    }

    #[test]
    fn devices_spread_over_all_partitions() {
        let mut counts = [0_u32; 10];
        for device in 0..10_000 {
            counts[partition_for(&format!("device-{device:05}"), 10) as usize] += 1;
        }
        assert!(
            counts.iter().all(|n| (700..=1_300).contains(n)),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn is_always_a_partition(id in ".*", partitions in 1_u32..) {
            prop_assert!(partition_for(&id, partitions) < partitions);
        }
    }
}
