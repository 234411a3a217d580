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
    #[error("it is in message format {0}, from before Kafka 0.11")]
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
        let next = offset + i64::from(rest.get_i32()) + 1;
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
pub(super) mod tests {
    use std::io::Write;

    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    /// Time of the first record of a batch.
    const TIME: i64 = 1_767_225_600_000;

    fn put_varint(out: &mut Vec<u8>, value: i64) {
        let mut value = ((value << 1) ^ (value >> 63)) as u64;
        while value > 0x7f {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
        put_varint(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
        out.extend_from_slice(bytes.unwrap_or_default());
    }

    /// A record as Kafka has it, so many offsets and milliseconds after the first.
    fn record(delta: i64, key: Option<&[u8]>, payload: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![0];
        put_varint(&mut body, delta);
        put_varint(&mut body, delta);
        put_bytes(&mut body, key);
        put_bytes(&mut body, payload);
        put_varint(&mut body, 2);
        for value in [Some(&b"v"[..]), None] {
            put_bytes(&mut body, Some(b"name"));
            put_bytes(&mut body, value);
        }
        let mut out = Vec::new();
        put_varint(&mut out, body.len() as i64);
        out.extend_from_slice(&body);
        out
    }

    /// A batch of so many records with these bytes, as the log has it.
    pub(in super::super) fn batch(
        offset: i64,
        attributes: i16,
        producer: i64,
        count: i32,
        records: &[u8],
    ) -> Vec<u8> {
        let mut checked = Vec::new();
        checked.put_i16(attributes);
        checked.put_i32(count - 1);
        checked.put_i64(TIME);
        checked.put_i64(TIME + 7);
        checked.put_i64(producer);
        checked.put_i16(0);
        checked.put_i32(0);
        checked.put_i32(count);
        checked.extend_from_slice(records);
        let mut out = Vec::new();
        out.put_i64(offset);
        out.put_i32((4 + 1 + 4 + checked.len()) as i32);
        out.put_i32(0);
        out.put_u8(FORMAT);
        out.put_u32(crc32c::crc32c(&checked));
        out.extend_from_slice(&checked);
        out
    }

    /// A batch of plain records with these payloads.
    pub(in super::super) fn plain(offset: i64, payloads: &[&[u8]]) -> Vec<u8> {
        let records = payloads.iter().zip(0..);
        let records = records.flat_map(|(payload, at)| record(at, Some(b"k"), Some(payload)));
        let records: Vec<u8> = records.collect();
        batch(offset, 0, -1, payloads.len() as i32, &records)
    }

    fn mark(offset: i64, producer: i64, commits: bool) -> Vec<u8> {
        let key = [0, 0, 0, u8::from(commits)];
        batch(offset, 0b11_0000, producer, 1, &record(0, Some(&key), None))
    }

    fn chunk(log: &[u8], offset: i64, aborted: Vec<Aborted>) -> Option<(Chunk, i64)> {
        Chunk::new(log, offset, aborted, &Arc::default())
    }

    /// Offsets of the records that come out, and the offset after them.
    fn offsets(log: &[u8], from: i64, aborted: Vec<Aborted>) -> (Vec<i64>, i64) {
        let (mut chunk, next) = chunk(log, from, aborted).unwrap();
        let (mut offsets, mut batch) = (Vec::new(), Batch::default());
        while !chunk.is_done() {
            chunk.unpack(&mut batch).unwrap();
            offsets.extend(batch.records().map(|record| record.offset()));
        }
        assert_eq!(
            batch.next(),
            next,
            "where the next fetch begins is where this one ends"
        );
        (offsets, next)
    }

    fn packed(codec: i16, bytes: &[u8]) -> Vec<u8> {
        match codec {
            1 => {
                let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(bytes).unwrap();
                to.finish().unwrap()
            }
            2 => snap::raw::Encoder::new().compress_vec(bytes).unwrap(),
            3 => {
                let mut to = lz4::EncoderBuilder::new().build(Vec::new()).unwrap();
                to.write_all(bytes).unwrap();
                to.finish().0
            }
            4 => zstd::encode_all(bytes, 0).unwrap(),
            _ => bytes.to_vec(),
        }
    }

    #[test]
    fn records_come_out_as_they_went_in_whatever_packed_them() {
        let payload = [b'x'; 100_000];
        let records = [
            record(0, None, Some(&payload)),
            record(1, Some(b"key"), None),
        ]
        .concat();
        for codec in 0..=4 {
            let log = batch(10, codec, -1, 2, &packed(codec, &records));
            let (mut chunk, next) = chunk(&log, 10, Vec::new()).unwrap();
            let mut batch = Batch::default();
            chunk.unpack(&mut batch).unwrap();
            assert!(chunk.is_done());
            assert_eq!((next, batch.next()), (12, 12));
            let all: Vec<_> = batch.records().collect();
            assert_eq!(all[0].payload(), Some(&payload[..]), "codec {codec}");
            assert_eq!((all[0].key(), all[1].key()), (None, Some(&b"key"[..])));
            assert_eq!(all[1].payload(), None);
            assert_eq!((all[1].offset(), all[1].timestamp()), (11, Some(TIME + 1)));
            let headers: Vec<_> = all[1].headers().collect();
            assert_eq!(headers, [("name", Some(&b"v"[..])), ("name", None)]);
        }
    }

    #[test]
    fn snappy_may_come_in_blocks_as_from_java() {
        let records = record(0, None, Some(b"payload"));
        let mut packed = XERIAL.to_vec();
        for part in records.chunks(5) {
            let block = snap::raw::Encoder::new().compress_vec(part).unwrap();
            packed.put_u32(block.len() as u32);
            packed.extend_from_slice(&block);
        }
        assert_eq!(
            offsets(&batch(3, 2, -1, 1, &packed), 3, Vec::new()),
            (vec![3], 4)
        );
    }

    #[test]
    fn the_time_may_be_that_of_kafka_or_unknown() {
        let time = |log: &[u8]| {
            let (mut chunk, _) = chunk(log, 0, Vec::new()).unwrap();
            let mut batch = Batch::default();
            chunk.unpack(&mut batch).unwrap();
            batch.records().next().unwrap().timestamp()
        };
        let record = record(0, None, None);
        assert_eq!(time(&batch(0, 0b1000, -1, 1, &record)), Some(TIME + 7));
        let before_1970 = -1 - TIME;
        let mut body = vec![0];
        put_varint(&mut body, before_1970);
        put_varint(&mut body, 0);
        put_bytes(&mut body, None);
        put_bytes(&mut body, None);
        put_varint(&mut body, 0);
        body.insert(0, (body.len() * 2) as u8);
        assert_eq!(time(&batch(0, 0, -1, 1, &body)), None);
    }

    #[test]
    fn a_fetch_begins_where_it_was_asked_to_and_ends_with_a_whole_batch() {
        let (one, two) = (plain(10, &[b"a", b"b", b"c"]), plain(13, &[b"d"]));
        let log = [one.clone(), two.clone()].concat();
        assert_eq!(offsets(&log, 11, Vec::new()), (vec![11, 12, 13], 14));
        let cut = &log[..log.len() - 1];
        assert_eq!(offsets(cut, 11, Vec::new()), (vec![11, 12], 13));
        for length in 0..two.len() {
            assert!(chunk(&two[..length], 13, Vec::new()).is_none(), "{length}");
        }
    }

    #[test]
    fn what_was_aborted_is_left_out() {
        const TRANSACTION: i16 = 0b1_0000;
        let of = |offset, producer| batch(offset, TRANSACTION, producer, 1, &record(0, None, None));
        let log = [
            of(0, 7),
            of(1, 8),
            plain(2, &[b"no transaction"]),
            mark(3, 7, false),
            of(4, 7),
            mark(5, 8, true),
            mark(6, 7, true),
            of(7, 8),
            mark(8, 8, false),
        ];
        let aborted = |producer, first| Aborted { producer, first };
        let both = vec![aborted(8, 7), aborted(7, 0)];
        assert_eq!(offsets(&log.concat(), 0, both), (vec![1, 2, 4], 9));
        assert_eq!(offsets(&mark(9, 7, true), 9, Vec::new()), (vec![], 10));
    }

    #[test]
    fn small_batches_are_handed_on_together() {
        let log: Vec<u8> = (0..1_200).flat_map(|at| plain(at, &[b"x"])).collect();
        let (mut chunk, _) = chunk(&log, 0, Vec::new()).unwrap();
        let (mut sizes, mut batch) = (Vec::new(), Batch::default());
        while !chunk.is_done() {
            chunk.unpack(&mut batch).unwrap();
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [500, 500, 200]);
    }

    #[test]
    fn a_batch_that_is_bad_is_named_after_those_before_it() {
        let good = plain(0, &[b"x", b"y"]);
        let with = |change: fn(&mut Vec<u8>)| {
            let mut bad = plain(2, &[b"z"]);
            change(&mut bad);
            [good.clone(), bad].concat()
        };
        for (log, reason) in [
            (with(|bad| bad[70] ^= 1), "its checksum is another"),
            (with(|bad| bad[FORMAT_AT] = 1), "message format 1"),
            (with(|bad| bad[LENGTH_END - 1] = 20), "length is impossible"),
            (
                [good.clone(), batch(2, 5, -1, 1, b"?")].concat(),
                "unknown number 5",
            ),
            (
                [good.clone(), batch(2, 1, -1, 1, b"?")].concat(),
                "can't be unpacked",
            ),
            (
                [good.clone(), batch(2, 0, -1, 2, &record(0, None, None))].concat(),
                "its record 1 does not end",
            ),
        ] {
            let (mut chunk, _) = chunk(&log, 0, Vec::new()).unwrap();
            let mut batch = Batch::default();
            chunk.unpack(&mut batch).unwrap();
            assert_eq!((batch.len(), batch.next()), (2, 2), "{reason}");
            let error = chunk.unpack(&mut batch).unwrap_err().to_string();
            assert!(error.starts_with("the batch at offset 2 can't"), "{error}");
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_batch_does_not_unpack_to_everything() {
        let bomb = packed(4, &vec![0; MOST_UNPACKED as usize + 1]);
        let (mut chunk, _) = chunk(&batch(0, 4, -1, 1, &bomb), 0, Vec::new()).unwrap();
        let error = chunk.unpack(&mut Batch::default()).unwrap_err();
        assert!(error.to_string().contains("more than 128 MiB"), "{error}");
    }

    proptest! {
        #[test]
        fn nothing_in_the_log_is_trusted(
            at in HEAD..120usize, bytes in proptest::collection::vec(any::<u8>(), 1..20), codec in 0i16..6
        ) {
            let mut log = plain(0, &[b"some payload", b"another one"]);
            let end = log.len().min(at + bytes.len());
            let at = at.min(end);
            log[at..end].copy_from_slice(&bytes[..end - at]);
            let log = batch(0, codec, -1, 2, &log[HEAD..]);
            let (mut chunk, _) = chunk(&log, 0, Vec::new()).unwrap();
            let mut batch = Batch::default();
            if chunk.unpack(&mut batch).is_ok() {
                for record in batch.records() {
                    let _ = (record.key(), record.payload(), record.headers().count());
                }
            }
        }
    }
}
