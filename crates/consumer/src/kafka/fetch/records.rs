//! Batches of records as they lie in the log, message format 2
//! (<https://kafka.apache.org/documentation/#recordbatch>): checked, unpacked, and
//! without what was aborted.

use std::io::Read;
use std::sync::Arc;

use bytes::Buf;

use crate::kafka::progress::{Progress, Waiting};
use crate::record::{Base, Batch, MalformedRecord};

/// Bytes of a batch up to its length, and up to its records.
const LENGTH_END: usize = 12;
const HEAD: usize = 61;
/// What the checksum covers begins here.
const CHECKED: usize = 21;
/// The message format that is read, and where a batch says which it is in.
const FORMAT: u8 = 2;
const FORMAT_AT: usize = 16;
/// A batch that unpacks to more is taken for damage, or an attack.
const MOST_UNPACKED: u64 = 128 << 20;
/// Small batches are handed on together, up to so many records and bytes.
const TOGETHER: usize = 500;
const TOGETHER_BYTES: usize = 1 << 20;

/// A transaction that was aborted: records of the producer from an offset on, up to the
/// mark that ends it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aborted {
    pub(super) producer: i64,
    pub(super) first: i64,
}

/// A batch that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the batch at offset {offset} can't be read: {reason}")]
pub(crate) struct BadBatch {
    offset: i64,
    reason: Bad,
}

#[derive(Debug, thiserror::Error)]
enum Bad {
    #[error("it is in message format {0}, and only 2 is read (Kafka 0.11 and newer)")]
    Format(u8),
    #[error("its checksum is another")]
    Checksum,
    #[error("its length is impossible")]
    Length,
    #[error("its compression has the unknown number {0}")]
    Codec(i16),
    #[error("it unpacks to more than {} MiB", MOST_UNPACKED >> 20)]
    Size,
    #[error("it can't be unpacked: {0}")]
    Packed(#[from] std::io::Error),
    #[error(transparent)]
    Record(#[from] MalformedRecord),
}

/// The head of a batch.
#[derive(Debug)]
struct Head {
    offset: i64,
    /// Bytes of the whole batch.
    length: usize,
    checksum: u32,
    attributes: i16,
    /// Offset after it.
    next: i64,
    first_time: i64,
    last_time: i64,
    producer: i64,
    records: i32,
}

impl Head {
    /// Of the batch that `bytes` begin with, if all of it is there.
    fn read(bytes: &[u8]) -> Option<Result<Self, BadBatch>> {
        let mut start = bytes.get(..LENGTH_END)?;
        let offset = start.get_i64();
        let length = LENGTH_END + usize::try_from(start.get_i32()).unwrap_or(0);
        let bad = |reason| Some(Err(BadBatch { offset, reason }));
        if length <= FORMAT_AT {
            return bad(Bad::Length);
        }
        let format = *bytes.get(FORMAT_AT)?;
        if format != FORMAT {
            return bad(Bad::Format(format));
        }
        if length < HEAD {
            return bad(Bad::Length);
        }
        let mut rest = bytes.get(..length)?.get(FORMAT_AT + 1..HEAD)?;
        let (checksum, attributes) = (rest.get_u32(), rest.get_i16());
        // Not checked yet, so it may be anything.
        let next = offset.saturating_add(i64::from(rest.get_i32()) + 1);
        let (first_time, last_time) = (rest.get_i64(), rest.get_i64());
        let producer = rest.get_i64();
        // The producer's epoch, and where it is in its sequence.
        rest.advance(2 + 4);
        let records = rest.get_i32();
        Some(Ok(Self {
            offset,
            length,
            checksum,
            attributes,
            next,
            first_time,
            last_time,
            producer,
            records,
        }))
    }

    fn codec(&self) -> i16 {
        self.attributes & 0b111
    }

    fn is_of_transaction(&self) -> bool {
        self.attributes & 1 << 4 != 0
    }

    /// The mark that ends a transaction, rather than records.
    fn is_mark(&self) -> bool {
        self.attributes & 1 << 5 != 0
    }

    fn base(&self) -> Base {
        let appended = self.attributes & 1 << 3 != 0;
        Base {
            offset: self.offset,
            time: self.first_time,
            appended: appended.then_some(self.last_time),
        }
    }
}

/// What a fetch brought of a partition: whole batches, still packed.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    /// Where the next batch begins.
    at: usize,
    /// The first offset that is wanted, then the next one.
    offset: i64,
    /// Aborted transactions, the last first.
    aborted: Vec<Aborted>,
    /// Whose records are being left out.
    out: Vec<i64>,
    _waiting: Waiting,
}

impl Chunk {
    /// Copies the whole batches, for one that is cut is fetched again; with the offset
    /// after them. None if there is no whole one.
    pub(super) fn new(
        records: &[u8],
        offset: i64,
        mut aborted: Vec<Aborted>,
        progress: &Arc<Progress>,
    ) -> Option<(Self, i64)> {
        let (mut length, mut next, mut count) = (0, offset, 0);
        while let Some(head) = Head::read(&records[length..]) {
            let Ok(head) = head else {
                // Said when its turn comes; until then something waits.
                length = records.len();
                count += 1;
                break;
            };
            length += head.length;
            next = next.max(head.next);
            count += usize::try_from(head.records).unwrap_or(0);
        }
        aborted.sort_by_key(|aborted| std::cmp::Reverse(aborted.first));
        let chunk = Self {
            bytes: records[..length].to_vec(),
            at: 0,
            offset,
            aborted,
            out: Vec::new(),
            _waiting: Waiting::new(progress.clone(), count),
        };
        (length > 0).then_some((chunk, next))
    }

    pub(super) fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Unpacks the next batch, or several small ones.
    ///
    /// # Errors
    /// The next batch is damaged, or of a kind that is not known.
    pub(super) fn unpack(&mut self, into: &mut Batch) -> Result<(), BadBatch> {
        into.clear();
        self.unpack_one(into)?;
        // One that is bad is found again, with nothing before it.
        while !self.is_done()
            && into.len() < TOGETHER
            && into.buffer().len() < TOGETHER_BYTES
            && self.unpack_one(into).is_ok()
        {}
        into.end_at(self.offset);
        Ok(())
    }

    fn unpack_one(&mut self, into: &mut Batch) -> Result<(), BadBatch> {
        let (offset, reason) = (self.offset, Bad::Length);
        let rest = &self.bytes[self.at..];
        let head = Head::read(rest).unwrap_or(Err(BadBatch { offset, reason }))?;
        let length = head.length;
        let offset = head.offset;
        self.unpack_whole(&head, into)
            .map_err(|reason| BadBatch { offset, reason })?;
        self.at += length;
        self.offset = self.offset.max(head.next);
        Ok(())
    }

    fn unpack_whole(&mut self, head: &Head, into: &mut Batch) -> Result<(), Bad> {
        let batch = &self.bytes[self.at..self.at + head.length];
        if crc32c::crc32c(&batch[CHECKED..]) != head.checksum {
            return Err(Bad::Checksum);
        }
        while let Some(aborted) = self.aborted.pop_if(|aborted| aborted.first < head.next) {
            self.out.push(aborted.producer);
        }
        if head.is_mark() {
            if is_abort(head, &batch[HEAD..])? {
                self.out.retain(|producer| *producer != head.producer);
            }
        } else if !head.is_of_transaction() || !self.out.contains(&head.producer) {
            take_in(head, &batch[HEAD..], self.offset, into)?;
        }
        Ok(())
    }
}

/// Whether a mark ends a transaction that was aborted: its key is a version and 0 for
/// that, both in 16 bits.
fn is_abort(head: &Head, records: &[u8]) -> Result<bool, Bad> {
    let mut mark = Batch::default();
    take_in(head, records, head.offset, &mut mark)?;
    let key = mark.records().next().and_then(|record| record.key());
    Ok(key.is_some_and(|key| key.get(2..4) == Some(&[0, 0])))
}

fn take_in(head: &Head, packed: &[u8], from: i64, into: &mut Batch) -> Result<(), Bad> {
    let start = into.buffer().len();
    unpack(head.codec(), packed, into.buffer())?;
    into.take_in(start, head.records, &head.base(), from)?;
    Ok(())
}

/// Appends what was packed.
fn unpack(codec: i16, packed: &[u8], to: &mut Vec<u8>) -> Result<(), Bad> {
    match codec {
        0 => to.extend_from_slice(packed),
        1 => copy(flate2::read::GzDecoder::new(packed), to)?,
        2 => unsnap(packed, to)?,
        3 => copy(lz4::Decoder::new(packed)?, to)?,
        4 => copy(zstd::Decoder::with_buffer(packed)?, to)?,
        other => return Err(Bad::Codec(other)),
    }
    Ok(())
}

fn copy(from: impl Read, to: &mut Vec<u8>) -> Result<(), Bad> {
    match from.take(MOST_UNPACKED + 1).read_to_end(to)? as u64 {
        0..=MOST_UNPACKED => Ok(()),
        _ => Err(Bad::Size),
    }
}

/// What Java's clients begin with: a name, and a version twice.
const XERIAL: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// Snappy is one block, or by Java's clients blocks with a length before each.
fn unsnap(mut packed: &[u8], to: &mut Vec<u8>) -> Result<(), Bad> {
    let Some(mut blocks) = packed.strip_prefix(XERIAL) else {
        return unsnap_block(&mut packed, to);
    };
    while !blocks.is_empty() {
        let length = blocks.try_get_u32().map_err(|_| Bad::Length)? as usize;
        let (mut block, rest) = blocks.split_at_checked(length).ok_or(Bad::Length)?;
        unsnap_block(&mut block, to)?;
        blocks = rest;
    }
    Ok(())
}

fn unsnap_block(packed: &mut &[u8], to: &mut Vec<u8>) -> Result<(), Bad> {
    let start = to.len();
    let length = snap::raw::decompress_len(packed).map_err(std::io::Error::from)?;
    if (start + length) as u64 > MOST_UNPACKED {
        return Err(Bad::Size);
    }
    to.resize(start + length, 0);
    let done = snap::raw::Decoder::new().decompress(packed, &mut to[start..]);
    done.map_err(std::io::Error::from)?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
