//! Records as they are handed out: one buffer for the bytes of all of them, so that a record
//! costs no allocation.

use std::ops::Range;

use super::Corruption;
use super::compression::{MAX_DECOMPRESSED, decompress};
use super::header::Header;
use super::record::{Entry, HeaderEntry, Malformed, MalformedRecord, RecordDecoder};
use crate::protocol::metadata::TopicId;

/// Bytes and records that a batch keeps memory of when it is filled again.
const KEPT_BYTES: usize = 4 << 20;
const KEPT_RECORDS: usize = 20_000;

/// Records of one partition, in the order of their offsets. Several small batches of the
/// log are one `Batch`; all of them were appended by the same leader.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    records: Vec<Entry>,
    headers: Vec<HeaderEntry>,
    next_offset: i64,
    leader_epoch: Option<i32>,
    topic_id: Option<TopicId>,
}

/// One record of a [`Batch`].
#[derive(Debug, Clone, Copy)]
pub struct Record<'b> {
    batch: &'b Batch,
    entry: &'b Entry,
}

/// Bytes of so many records and headers, without their contents.
fn entries(records: usize, headers: usize) -> usize {
    records * size_of::<Entry>() + headers * size_of::<HeaderEntry>()
}

impl Batch {
    /// Removes all records, and keeps some of the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.records.clear();
        self.records.shrink_to(KEPT_RECORDS);
        self.headers.clear();
        self.headers.shrink_to(KEPT_RECORDS);
        (self.leader_epoch, self.topic_id) = (None, None);
    }

    /// Appends the records of a batch of the log, except those before the offset `from`. Returns
    /// `false` if it decompresses to more bytes than `most`.
    ///
    /// # Errors
    /// They can't be read. None is appended then, and none if they are too large.
    pub(super) fn decode(
        &mut self,
        header: &Header,
        compressed: &[u8],
        from: i64,
        most: usize,
    ) -> Result<bool, Corruption> {
        let start = self.bytes.len();
        let decompressed = decompress(header.codec(), compressed, &mut self.bytes, most);
        if !matches!(decompressed, Ok(true)) {
            self.bytes.truncate(start);
            return decompressed;
        }
        let (records, headers) = (self.records.len(), self.headers.len());
        let decoded = self.decode_records(header, start, from);
        if decoded.is_err() {
            self.records.truncate(records);
            self.headers.truncate(headers);
            self.bytes.truncate(start);
        }
        decoded.map(|()| true)
    }

    /// Appends the records in the bytes from `start` on.
    fn decode_records(
        &mut self,
        header: &Header,
        start: usize,
        from: i64,
    ) -> Result<(), Corruption> {
        let mut decoder = RecordDecoder::new(&self.bytes, start);
        for number in 0..header.records_count {
            match decoder.record(header, &mut self.headers) {
                Ok(entry) if entry.offset >= from => self.records.push(entry),
                Ok(_) => {}
                Err(Malformed) => return Err(MalformedRecord(number).into()),
            }
            // Records and headers of a few bytes take many times that.
            if entries(self.records.len(), self.headers.len()) > MAX_DECOMPRESSED {
                return Err(Corruption::Size);
            }
        }
        Ok(())
    }

    /// Bytes of memory that it has.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity() + entries(self.records.capacity(), self.headers.capacity())
    }

    /// Appends a record from elsewhere, such as a test or another client, by copying it.
    /// `timestamp` is in milliseconds since the epoch.
    pub fn push<'r>(
        &mut self,
        offset: i64,
        timestamp: Option<i64>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'r str, Option<&'r [u8]>)>,
    ) {
        let first = self.headers.len();
        for (name, value) in headers {
            let name = self.copy(name.as_bytes());
            let value = value.map(|value| self.copy(value));
            self.headers.push((name, value));
        }
        let entry = Entry {
            offset,
            timestamp,
            key: key.map(|key| self.copy(key)),
            value: value.map(|value| self.copy(value)),
            headers: first..self.headers.len(),
        };
        self.records.push(entry);
        self.next_offset = offset + 1;
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// The offset after the batch: that of the next one. It may be greater than the offset
    /// after the last record: aborted records and the control records of transactions have
    /// offsets too, and so had records that compaction removed.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    pub(super) fn set_next_offset(&mut self, offset: i64) {
        self.next_offset = offset;
    }

    /// `partition_leader_epoch` of the batches of the log that the records are from (KIP-320):
    /// it counts the leaders of the partition, and tells whether the log that was read was
    /// truncated since. `None` if the log has none, or the records are not from a log.
    #[must_use]
    pub fn partition_leader_epoch(&self) -> Option<i32> {
        self.leader_epoch
    }

    /// Id of the topic that the records are from; `None` where brokers do not tell it, or the
    /// records are not from a log.
    #[must_use]
    pub fn topic_id(&self) -> Option<TopicId> {
        self.topic_id
    }

    /// Takes both from the log; an epoch of -1 is unknown.
    pub(super) fn set_log(&mut self, topic_id: Option<TopicId>, epoch: i32) {
        self.topic_id = topic_id;
        self.leader_epoch = (epoch >= 0).then_some(epoch);
    }

    /// Number of records.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has no record: everything in it was aborted or removed, or it only
    /// moves the offset.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes that it holds.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The records in the order of their offsets.
    #[inline]
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.records
            .iter()
            .map(|entry| Record { batch: self, entry })
    }
}

impl<'b> Record<'b> {
    /// Offset in the partition.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> i64 {
        self.entry.offset
    }

    /// The time that Kafka keeps of the record, milliseconds since the epoch: the producer's,
    /// or that of appending, as the topic's `message.timestamp.type` says.
    #[must_use]
    #[inline]
    pub fn timestamp(&self) -> Option<i64> {
        self.entry.timestamp
    }

    /// The key, if it has one.
    #[must_use]
    #[inline]
    pub fn key(&self) -> Option<&'b [u8]> {
        let range = self.entry.key.clone()?;
        Some(&self.batch.bytes[range])
    }

    /// The value; `None` for a tombstone.
    #[must_use]
    #[inline]
    pub fn value(&self) -> Option<&'b [u8]> {
        let range = self.entry.value.clone()?;
        Some(&self.batch.bytes[range])
    }

    /// The first value of the header with that key, of those that have one.
    #[must_use]
    #[inline]
    pub fn header(&self, wanted: &str) -> Option<&'b [u8]> {
        let bytes = &self.batch.bytes;
        let mut headers = self.batch.headers[self.entry.headers.clone()].iter();
        headers.find_map(|(key, value)| {
            let value = value.clone().map(|range| &bytes[range]);
            value.filter(|_| &bytes[key.clone()] == wanted.as_bytes())
        })
    }

    /// Keys and values of the headers, in order; a key that is not UTF-8 is empty.
    pub fn headers(&self) -> impl Iterator<Item = (&'b str, Option<&'b [u8]>)> + use<'b> {
        let batch = self.batch;
        batch.headers[self.entry.headers.clone()]
            .iter()
            .map(|(key, value)| {
                let key = std::str::from_utf8(&batch.bytes[key.clone()]).unwrap_or_default();
                (key, value.clone().map(|range| &batch.bytes[range]))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushed_records_come_out_as_they_went_in() {
        let mut batch = Batch::default();
        let headers = || [("mqtt-topic", Some(&b"a/b"[..])), ("empty", None)];
        batch.push(10, Some(7), Some(b"key"), Some(b"one"), headers());
        batch.push(12, None, None, None, headers());
        let records: Vec<_> = batch.records().collect();
        assert_eq!((batch.len(), batch.next_offset()), (2, 13));
        assert_eq!(records[0].value(), Some(&b"one"[..]));
        assert_eq!(records[0].key(), Some(&b"key"[..]));
        assert_eq!(records[0].timestamp(), Some(7));
        assert_eq!((records[1].offset(), records[1].value()), (12, None));
        assert_eq!((records[1].key(), records[1].timestamp()), (None, None));
        for record in records {
            assert!(record.headers().eq(headers()));
            assert_eq!(record.header("mqtt-topic"), Some(&b"a/b"[..]));
            assert_eq!(record.header("empty"), None);
        }
        assert_eq!(batch.partition_leader_epoch(), None);
    }
}
