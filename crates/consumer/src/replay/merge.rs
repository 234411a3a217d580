//! Records of several partitions in the order of their times.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use rdkafka::message::{Message as _, OwnedMessage};

/// A partition with this many records waiting is paused until half of them are left.
const AHEAD: usize = 4_096;
/// The same limit in bytes of payload.
const AHEAD_BYTES: usize = 8 << 20;
/// A partition ends after this many records in a row beyond the range.
const BEYOND: u32 = 1_000;

/// A record.
#[derive(Debug)]
pub(super) struct Taken {
    /// Kafka's time of the record, milliseconds since the epoch.
    pub(super) time: i64,
    pub(super) message: OwnedMessage,
}

/// The partitions of a topic that are being read.
#[derive(Debug, Default)]
pub(super) struct Merge(BTreeMap<i32, Queue>);

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Taken>,
    /// Offset behind the last record.
    end: i64,
    /// Bytes of the payloads that wait.
    bytes: usize,
    /// Records in a row beyond the range.
    beyond: u32,
    done: bool,
    paused: bool,
}

fn size(record: &Taken) -> usize {
    record.message.payload().map_or(0, <[u8]>::len)
}

impl Merge {
    /// One more partition, up to the offset `end`.
    pub(super) fn add(&mut self, partition: i32, end: i64) {
        let queue = Queue {
            waiting: VecDeque::new(),
            end,
            bytes: 0,
            beyond: 0,
            done: false,
            paused: false,
        };
        self.0.insert(partition, queue);
    }

    /// Whether the next record can't be known yet.
    pub(super) fn needs_more(&self) -> bool {
        let mut queues = self.0.values();
        queues.any(|queue| !queue.done && queue.waiting.is_empty())
    }

    /// Takes a record; keeps it if its time is in `range` (milliseconds). Clocks differ, so
    /// only many records in a row beyond the range end the partition.
    pub(super) fn take(&mut self, record: Taken, range: &Range<i64>) {
        let Some(queue) = self.0.get_mut(&record.message.partition()) else {
            return;
        };
        let offset = record.message.offset();
        if queue.done || offset >= queue.end {
            queue.done = true;
            return;
        }
        queue.beyond = if record.time >= range.end {
            queue.beyond + 1
        } else {
            0
        };
        queue.done = offset + 1 >= queue.end || queue.beyond >= BEYOND;
        if range.contains(&record.time) {
            queue.bytes += size(&record);
            queue.waiting.push_back(record);
        }
    }

    /// The partition has no further record.
    pub(super) fn finish(&mut self, partition: i32) {
        if let Some(queue) = self.0.get_mut(&partition) {
            queue.done = true;
        }
    }

    /// The record with the earliest time.
    pub(super) fn pop(&mut self) -> Option<Taken> {
        let waiting = self.0.values_mut();
        let waiting = waiting.filter(|queue| !queue.waiting.is_empty());
        let earliest = waiting.min_by_key(|queue| queue.waiting.front().map(|record| record.time));
        let queue = earliest?;
        let record = queue.waiting.pop_front()?;
        queue.bytes -= size(&record);
        Some(record)
    }

    /// Partitions to pause, and partitions to resume.
    pub(super) fn flow(&mut self) -> (Vec<i32>, Vec<i32>) {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for (partition, queue) in &mut self.0 {
            let waiting = queue.waiting.len();
            let full = waiting >= AHEAD || queue.bytes >= AHEAD_BYTES;
            if !queue.paused && (queue.done || full) {
                queue.paused = true;
                pause.push(*partition);
            } else if queue.paused && !queue.done && waiting <= AHEAD / 2 && !full {
                queue.paused = false;
                resume.push(*partition);
            }
        }
        (pause, resume)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;

    use super::*;

    fn record(partition: i32, offset: i64, time: i64) -> Taken {
        let created = Timestamp::CreateTime(time);
        let topic = "t".to_owned();
        let message = OwnedMessage::new(None, None, topic, created, partition, offset, None);
        Taken { time, message }
    }

    fn times(merge: &mut Merge) -> Vec<i64> {
        std::iter::from_fn(|| merge.pop().map(|record| record.time)).collect()
    }

    #[test]
    fn records_come_in_the_order_of_their_times() {
        let mut merge = Merge::default();
        merge.add(0, 3);
        merge.add(1, 10);
        merge.add(2, 5);
        for (partition, offset, time) in [(0, 0, 10), (0, 1, 40), (0, 2, 50), (1, 7, 20)] {
            merge.take(record(partition, offset, time), &(0..100));
        }
        assert!(merge.needs_more(), "nothing is known of partition 2");
        merge.finish(2);
        assert!(!merge.needs_more());
        assert_eq!(merge.pop().map(|record| record.time), Some(10));
        assert_eq!(merge.pop().map(|record| record.time), Some(20));
        assert!(merge.needs_more(), "partition 1 may have more");
        merge.take(record(1, 8, 100), &(0..100));
        // One with a clock that is fast, and one behind it.
        assert!(merge.needs_more());
        merge.take(record(1, 9, 30), &(0..100));
        assert_eq!(times(&mut merge), [30, 40, 50]);
        assert!(!merge.needs_more(), "that was the end");
    }

    #[test]
    fn records_after_the_end_are_skipped() {
        let mut merge = Merge::default();
        merge.add(0, 2);
        for offset in 0..4 {
            merge.take(record(0, offset, offset), &(0..100));
        }
        assert_eq!(times(&mut merge), [0, 1]);
    }

    #[test]
    fn many_records_beyond_the_range_end_a_partition() {
        let mut merge = Merge::default();
        merge.add(0, i64::MAX);
        for offset in 0..i64::from(BEYOND) {
            assert!(merge.needs_more());
            merge.take(record(0, offset, 100 + offset), &(50..100));
        }
        assert!(!merge.needs_more());
    }

    #[test]
    fn a_partition_that_is_far_ahead_is_paused() {
        let mut merge = Merge::default();
        merge.add(0, i64::MAX);
        merge.add(1, i64::MAX);
        for offset in 0..AHEAD as i64 {
            merge.take(record(0, offset, offset), &(0..i64::MAX));
        }
        assert_eq!(merge.flow(), (vec![0], vec![]));
        assert_eq!(merge.flow(), (vec![], vec![]));
        merge.finish(1);
        while merge.0[&0].waiting.len() > AHEAD / 2 {
            merge.pop();
        }
        assert_eq!(merge.flow(), (vec![1], vec![0]));
    }
}
