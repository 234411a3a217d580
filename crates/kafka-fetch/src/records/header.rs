//! The header of a record batch (<https://kafka.apache.org/documentation/#recordbatch>).
//!
//! | bytes | field | type | meaning |
//! |---|---|---|---|
//! | 0..8 | `base_offset` | INT64 | offset that those of the records count from |
//! | 8..12 | `batch_length` | INT32 | bytes of the batch after this field |
//! | 12..16 | `partition_leader_epoch` | INT32 | of the leader that appended the batch; -1 for unknown |
//! | 16 | `magic` | INT8 | message format: 2 |
//! | 17..21 | `crc` | UINT32 | CRC-32C of everything after this field |
//! | 21..23 | `attributes` | INT16 | bits 0 to 2: compression; 3: the time is that of appending; 4: part of a transaction; 5: control records |
//! | 23..27 | `last_offset_delta` | INT32 | offset of the last record, from `base_offset`; kept when compaction removes that record |
//! | 27..35 | `base_timestamp` | INT64 | milliseconds that the times of the records count from |
//! | 35..43 | `max_timestamp` | INT64 | the latest time of the records, or the time of appending |
//! | 43..51 | `producer_id` | INT64 | of the producer; -1 for none |
//! | 51..53 | `producer_epoch` | INT16 | ignored |
//! | 53..57 | `base_sequence` | INT32 | ignored |
//! | 57..61 | `records_count` | INT32 | number of the records that follow, compressed together |

use bytes::Buf;

use super::{CorruptBatch, Corruption};

/// Bytes of a batch up to its length, and up to its records.
pub(super) const LENGTH_END: usize = 12;
pub(super) const HEADER: usize = 61;
/// The first byte that the checksum covers.
pub(super) const CHECKED: usize = 21;
/// The message format that is read, and the byte that has it.
pub(super) const MAGIC: u8 = 2;
pub(super) const MAGIC_AT: usize = 16;

#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) base_offset: i64,
    /// Bytes of the whole batch, at least those of the header.
    pub(super) length: usize,
    /// Not covered by the checksum: brokers write it.
    pub(super) leader_epoch: i32,
    pub(super) crc: u32,
    attributes: i16,
    /// Offset after the batch.
    pub(super) next_offset: i64,
    pub(super) base_timestamp: i64,
    max_timestamp: i64,
    pub(super) producer_id: i64,
    pub(super) records_count: i32,
}

impl Header {
    /// Reads the header of the batch that `bytes` start with; `None` unless all of the batch
    /// is there. Nothing in it is checked yet but its length and format.
    pub(super) fn read(bytes: &[u8]) -> Option<Result<Self, CorruptBatch>> {
        let mut start = bytes.get(..LENGTH_END)?;
        let offset = start.get_i64();
        let length = LENGTH_END + usize::try_from(start.get_i32()).unwrap_or(0);
        let corrupt = |reason| Some(Err(CorruptBatch { offset, reason }));
        if length <= MAGIC_AT {
            return corrupt(Corruption::Length);
        }
        let magic = *bytes.get(MAGIC_AT)?;
        if magic != MAGIC {
            return corrupt(Corruption::Format(magic));
        }
        if length < HEADER {
            return corrupt(Corruption::Length);
        }
        let mut rest = bytes.get(..length)?.get(LENGTH_END..HEADER)?;
        let leader_epoch = rest.get_i32();
        rest.advance(1);
        let (crc, attributes) = (rest.get_u32(), rest.get_i16());
        let next_offset = offset.saturating_add(i64::from(rest.get_i32()) + 1);
        let (base_timestamp, max_timestamp) = (rest.get_i64(), rest.get_i64());
        let producer_id = rest.get_i64();
        rest.advance(2 + 4);
        Some(Ok(Self {
            base_offset: offset,
            length,
            leader_epoch,
            crc,
            attributes,
            next_offset,
            base_timestamp,
            max_timestamp,
            producer_id,
            records_count: rest.get_i32(),
        }))
    }

    pub(super) fn codec(&self) -> i16 {
        self.attributes & 0b111
    }

    pub(super) fn is_transactional(&self) -> bool {
        self.attributes & 1 << 4 != 0
    }

    /// Whether it ends a transaction, rather than having records.
    pub(super) fn is_control(&self) -> bool {
        self.attributes & 1 << 5 != 0
    }

    /// When Kafka appended the batch, where the topic keeps that time instead of the
    /// producer's (`message.timestamp.type`).
    pub(super) fn append_time(&self) -> Option<i64> {
        (self.attributes & 1 << 3 != 0).then_some(self.max_timestamp)
    }
}
