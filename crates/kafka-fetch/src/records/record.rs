//! One record in the decompressed part of a batch
//! (<https://kafka.apache.org/documentation/#record>).
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `length` | VARINT | bytes of the record after this field |
//! | `attributes` | INT8 | unused |
//! | `timestamp_delta` | VARLONG | time in milliseconds, from the batch's `base_timestamp` |
//! | `offset_delta` | VARINT | offset, from the batch's `base_offset` |
//! | `key` | VARINT length, bytes | length -1 is null |
//! | `value` | VARINT length, bytes | length -1 is null |
//! | `headers` | VARINT count | and for each: |
//! | - `key` | VARINT length, UTF-8 | its name |
//! | - `value` | VARINT length, bytes | length -1 is null |
//!
//! VARINT and VARLONG are zigzag-encoded: seven bits a byte, the lowest first; the lowest bit
//! of all is the sign.

use std::ops::Range;

use super::compression::MAX_DECOMPRESSED;
use super::header::Header;

/// The time of a record that has none.
const NO_TIMESTAMP: i64 = -1;

/// Where the key and the value of a header are.
pub(super) type HeaderEntry = (Range<usize>, Option<Range<usize>>);

/// Most headers of the records that are handed out together.
const MAX_HEADERS: usize = MAX_DECOMPRESSED / size_of::<HeaderEntry>();

/// A record, by where its parts are in the bytes of its [`Batch`](super::Batch).
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) offset: i64,
    /// Milliseconds since the epoch.
    pub(super) timestamp: Option<i64>,
    pub(super) key: Option<Range<usize>>,
    pub(super) value: Option<Range<usize>>,
    /// Its place in the headers of the batch.
    pub(super) headers: Range<usize>,
}

/// A record is not in message format 2.
#[derive(Debug, thiserror::Error)]
#[error("record {0} of the batch is malformed")]
pub(super) struct MalformedRecord(pub(super) i32);

/// The same, before it is known which record it is.
pub(super) struct Malformed;

/// Reads records where they are, without copying.
pub(super) struct RecordDecoder<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> RecordDecoder<'b> {
    pub(super) fn new(bytes: &'b [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// The next record; its headers are appended to `headers`.
    pub(super) fn record(
        &mut self,
        batch: &Header,
        headers: &mut Vec<HeaderEntry>,
    ) -> Result<Entry, Malformed> {
        let record = self.range()?.ok_or(Malformed)?;
        let end = std::mem::replace(&mut self.at, record.start);
        self.skip(1)?;
        let timestamp = batch.base_timestamp.wrapping_add(self.varint()?);
        let offset = batch.base_offset.wrapping_add(self.varint()?);
        let (key, value) = (self.range()?, self.range()?);
        let first = headers.len();
        for _ in 0..self.varint()? {
            // A header of two bytes takes twenty times that.
            if headers.len() >= MAX_HEADERS {
                return Err(Malformed);
            }
            headers.push((self.range()?.ok_or(Malformed)?, self.range()?));
        }
        if self.at != end {
            return Err(Malformed);
        }
        let timestamp = batch.append_time().unwrap_or(timestamp);
        Ok(Entry {
            offset,
            timestamp: (timestamp != NO_TIMESTAMP).then_some(timestamp),
            key,
            value,
            headers: first..headers.len(),
        })
    }

    fn skip(&mut self, length: usize) -> Result<(), Malformed> {
        self.at += length;
        (self.at <= self.bytes.len()).then_some(()).ok_or(Malformed)
    }

    /// Reads a length and skips as many bytes, if they are there; `None` for null.
    fn range(&mut self) -> Result<Option<Range<usize>>, Malformed> {
        let length = self.varint()?;
        if length == -1 {
            return Ok(None);
        }
        let start = self.at;
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        if length > self.bytes.len() - start {
            return Err(Malformed);
        }
        self.at += length;
        Ok(Some(start..self.at))
    }

    fn varint(&mut self) -> Result<i64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(Malformed)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(Malformed)
    }
}
