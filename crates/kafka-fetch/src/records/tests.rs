//! Batches are made here byte by byte, as the log has them.

use std::io::Write;

use bytes::BufMut;
use proptest::prelude::*;

use super::compression::{MAX_DECOMPRESSED, XERIAL};
use super::header::{HEADER, LENGTH_END, MAGIC, MAGIC_AT};
use super::*;
use crate::protocol::fetch::AbortedTransaction;

/// Leader that appended the batches.
pub(crate) const EPOCH: i32 = 5;

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

/// A record as the log has it, with offset and time in milliseconds from those of the batch.
pub(crate) fn record(delta: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![0];
    put_varint(&mut body, delta);
    put_varint(&mut body, delta);
    put_bytes(&mut body, key);
    put_bytes(&mut body, value);
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

/// A batch as the log has it, of `count` records with these bytes.
pub(crate) fn batch(
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
    out.put_i32(EPOCH);
    out.put_u8(MAGIC);
    out.put_u32(crc32c::crc32c(&checked));
    out.extend_from_slice(&checked);
    out
}

/// A batch of records with these values, neither compressed nor transactional.
pub(crate) fn plain(offset: i64, values: &[&[u8]]) -> Vec<u8> {
    let records = values.iter().zip(0..);
    let records = records.flat_map(|(value, at)| record(at, Some(b"k"), Some(value)));
    let records: Vec<u8> = records.collect();
    batch(offset, 0, -1, values.len() as i32, &records)
}

fn control(offset: i64, producer: i64, commits: bool) -> Vec<u8> {
    let key = [0, 0, 0, u8::from(commits)];
    batch(offset, 0b11_0000, producer, 1, &record(0, Some(&key), None))
}

fn fetched(log: &[u8], offset: i64) -> Fetched {
    Fetched::new(log, offset, Vec::new()).unwrap()
}

/// Offsets of the records that come out, and the offset after them.
fn offsets(log: &[u8], from: i64, aborted: Vec<AbortedTransaction>) -> (Vec<i64>, i64) {
    let mut fetched = Fetched::new(log, from, aborted).unwrap();
    let (mut offsets, mut batch) = (Vec::new(), Batch::default());
    while !fetched.is_done() {
        fetched.next(&mut batch, usize::MAX).unwrap();
        assert_eq!(batch.partition_leader_epoch(), Some(EPOCH));
        offsets.extend(batch.records().map(|record| record.offset()));
    }
    assert_eq!(
        batch.next_offset(),
        fetched.end(),
        "the next fetch begins where this one ends"
    );
    (offsets, fetched.end())
}

fn lz4_frame(bytes: &[u8], mode: lz4::BlockMode) -> Vec<u8> {
    let mut frame = lz4::EncoderBuilder::new();
    let mut frame = frame.block_mode(mode).build(Vec::new()).unwrap();
    frame.write_all(bytes).unwrap();
    frame.finish().0
}

#[test]
fn lz4_blocks_may_depend_on_each_other() {
    // Repeats that are further apart than a block is long, and bytes that do not compress.
    let mut value: Vec<u8> = (0..100_000u64).map(|at| ((at * at) >> 7) as u8).collect();
    value.extend_from_within(..);
    let records = record(0, None, Some(&value));
    for mode in [lz4::BlockMode::Independent, lz4::BlockMode::Linked] {
        let log = batch(0, 3, -1, 1, &lz4_frame(&records, mode.clone()));
        let mut fetched = fetched(&log, 0);
        let mut batch = Batch::default();
        fetched.next(&mut batch, usize::MAX).unwrap();
        let record = batch.records().next().unwrap();
        assert_eq!(record.value(), Some(&value[..]));
    }
}

fn compress(codec: i16, bytes: &[u8]) -> Vec<u8> {
    match codec {
        1 => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        2 => snap::raw::Encoder::new().compress_vec(bytes).unwrap(),
        3 => lz4_frame(bytes, lz4::BlockMode::Independent),
        4 => zstd::encode_all(bytes, 0).unwrap(),
        _ => bytes.to_vec(),
    }
}

#[test]
fn every_compression_is_decoded() {
    let value = [b'x'; 100_000];
    let records = [record(0, None, Some(&value)), record(1, Some(b"key"), None)].concat();
    for codec in 0..=4 {
        let log = batch(10, codec, -1, 2, &compress(codec, &records));
        let mut fetched = fetched(&log, 10);
        let mut batch = Batch::default();
        fetched.next(&mut batch, usize::MAX).unwrap();
        assert!(fetched.is_done());
        assert_eq!((fetched.end(), batch.next_offset()), (12, 12));
        let all: Vec<_> = batch.records().collect();
        assert_eq!(all[0].value(), Some(&value[..]), "codec {codec}");
        assert_eq!((all[0].key(), all[1].key()), (None, Some(&b"key"[..])));
        assert_eq!(all[1].value(), None);
        assert_eq!((all[1].offset(), all[1].timestamp()), (11, Some(TIME + 1)));
        let headers: Vec<_> = all[1].headers().collect();
        assert_eq!(headers, [("name", Some(&b"v"[..])), ("name", None)]);
    }
}

#[test]
fn snappy_in_the_framing_of_java_is_decoded() {
    let records = record(0, None, Some(b"value"));
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
fn timestamps_may_be_those_of_appending_or_unknown() {
    let time = |log: &[u8]| {
        let mut fetched = fetched(log, 0);
        let mut batch = Batch::default();
        fetched.next(&mut batch, usize::MAX).unwrap();
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
fn records_before_the_offset_and_batches_that_are_cut_are_left_out() {
    let (one, two) = (plain(10, &[b"a", b"b", b"c"]), plain(13, &[b"d"]));
    let log = [one.clone(), two.clone()].concat();
    assert_eq!(offsets(&log, 11, Vec::new()), (vec![11, 12, 13], 14));
    let cut = &log[..log.len() - 1];
    assert_eq!(offsets(cut, 11, Vec::new()), (vec![11, 12], 13));
    for length in 0..two.len() {
        assert!(
            Fetched::new(&two[..length], 13, Vec::new()).is_none(),
            "{length}"
        );
    }
}

#[test]
fn aborted_records_are_left_out() {
    const TRANSACTION: i16 = 0b1_0000;
    let of = |offset, producer| batch(offset, TRANSACTION, producer, 1, &record(0, None, None));
    let log = [
        of(0, 7),
        of(1, 8),
        plain(2, &[b"no transaction"]),
        control(3, 7, false),
        of(4, 7),
        control(5, 8, true),
        control(6, 7, true),
        of(7, 8),
        control(8, 8, false),
    ];
    let aborted = |producer_id, first_offset| AbortedTransaction {
        producer_id,
        first_offset,
    };
    let both = vec![aborted(8, 7), aborted(7, 0)];
    assert_eq!(offsets(&log.concat(), 0, both), (vec![1, 2, 4], 9));
    assert_eq!(offsets(&control(9, 7, true), 9, Vec::new()), (vec![], 10));
}

#[test]
fn small_batches_are_handed_out_together() {
    let log: Vec<u8> = (0..1_200).flat_map(|at| plain(at, &[b"x"])).collect();
    let mut fetched = fetched(&log, 0);
    let (mut sizes, mut batch) = (Vec::new(), Batch::default());
    while !fetched.is_done() {
        fetched.next(&mut batch, usize::MAX).unwrap();
        sizes.push(batch.len());
    }
    assert_eq!(sizes, [500, 500, 200]);
}

#[test]
fn batches_of_different_leaders_are_not_handed_out_together() {
    let with = |epoch: i32, offset| {
        let mut batch = plain(offset, &[b"x"]);
        batch[LENGTH_END..LENGTH_END + 4].copy_from_slice(&epoch.to_be_bytes());
        batch
    };
    let log = [with(5, 0), with(5, 1), with(6, 2), with(-1, 3)].concat();
    let (mut fetched, mut batch) = (fetched(&log, 0), Batch::default());
    let mut found = Vec::new();
    while !fetched.is_done() {
        fetched.next(&mut batch, usize::MAX).unwrap();
        found.push((batch.len(), batch.partition_leader_epoch()));
    }
    assert_eq!(found, [(2, Some(5)), (1, Some(6)), (1, None)]);
}

#[test]
fn corrupt_batches_are_reported_after_those_before_them() {
    let good = plain(0, &[b"x", b"y"]);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bad = plain(2, &[b"z"]);
        change(&mut bad);
        [good.clone(), bad].concat()
    };
    for (log, reason) in [
        (with(|bad| bad[70] ^= 1), "checksum mismatch"),
        (with(|bad| bad[MAGIC_AT] = 1), "message format 1"),
        (with(|bad| bad[LENGTH_END - 1] = 20), "impossible length"),
        (
            [good.clone(), batch(2, 5, -1, 1, b"?")].concat(),
            "unknown compression codec 5",
        ),
        (
            [good.clone(), batch(2, 1, -1, 1, b"?")].concat(),
            "decompression failed",
        ),
        (
            [good.clone(), batch(2, 0, -1, 2, &record(0, None, None))].concat(),
            "record 1 of the batch is malformed",
        ),
    ] {
        let mut fetched = fetched(&log, 0);
        let mut batch = Batch::default();
        fetched.next(&mut batch, usize::MAX).unwrap();
        assert_eq!((batch.len(), batch.next_offset()), (2, 2), "{reason}");
        let error = fetched
            .next(&mut batch, usize::MAX)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("the batch at offset 2 can't"), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn decompression_is_bounded() {
    let bomb = compress(4, &vec![0; MAX_DECOMPRESSED + 1]);
    let mut fetched = fetched(&batch(0, 4, -1, 1, &bomb), 0);
    let error = fetched.next(&mut Batch::default(), usize::MAX).unwrap_err();
    assert!(
        error.to_string().contains("more than 128 MiB decompressed"),
        "{error}"
    );
}

#[test]
fn batches_larger_than_the_room_say_how_much_they_need() {
    let value = vec![b'x'; 3 << 20];
    let records = record(0, None, Some(&value));
    for codec in [0, 1, 2, 3, 4] {
        let log = batch(1, codec, -1, 1, &compress(codec, &records));
        let log = [plain(0, &[b"a"]), log, plain(2, &[b"b"])].concat();
        let (mut fetched, mut batch) = (fetched(&log, 0), Batch::default());
        // The small one comes alone, as the large one does not fit beside it.
        assert_eq!(fetched.next(&mut batch, 1 << 20).unwrap(), None);
        assert_eq!((batch.len(), batch.next_offset()), (1, 1), "{codec}");
        let needed = fetched.next(&mut batch, 1 << 20).unwrap();
        assert_eq!((needed, batch.len()), (Some(records.len()), 0), "{codec}");
        assert_eq!(fetched.next(&mut batch, records.len()).unwrap(), None);
        let found = batch.records().next().unwrap().value();
        assert_eq!(found, Some(&value[..]), "{codec}");
        assert!(batch.memory() < 2 * records.len(), "{codec}");
        assert_eq!(fetched.next(&mut batch, 1 << 20).unwrap(), None);
        assert_eq!((batch.len(), fetched.is_done()), (1, true), "{codec}");
    }
}

#[test]
fn tiny_records_and_headers_are_bounded() {
    let tiny = record(0, None, None);
    let count = MAX_DECOMPRESSED / 80;
    let many = batch(1, 4, -1, count as i32, &compress(4, &tiny.repeat(count)));
    let mut body = vec![0, 0, 0, 1, 1];
    let headers = MAX_DECOMPRESSED / 30;
    put_varint(&mut body, headers as i64);
    body.resize(body.len() + 2 * headers, 0);
    let mut large = Vec::new();
    put_varint(&mut large, body.len() as i64);
    large.extend_from_slice(&body);
    let of_headers = batch(1, 4, -1, 1, &compress(4, &large));
    for bomb in [many, of_headers] {
        let log = [plain(0, &[b"a"]), bomb].concat();
        let (mut fetched, mut batch) = (fetched(&log, 0), Batch::default());
        assert_eq!(fetched.next(&mut batch, usize::MAX).unwrap(), None);
        assert_eq!((batch.len(), batch.next_offset()), (1, 1));
        assert!(fetched.next(&mut batch, usize::MAX).is_err());
        assert!(batch.is_empty());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_rejected(
        at in HEADER..120usize, bytes in proptest::collection::vec(any::<u8>(), 1..20), codec in 0i16..6
    ) {
        let mut log = plain(0, &[b"some value", b"another one"]);
        let end = log.len().min(at + bytes.len());
        let at = at.min(end);
        log[at..end].copy_from_slice(&bytes[..end - at]);
        let log = batch(0, codec, -1, 2, &log[HEADER..]);
        let mut fetched = fetched(&log, 0);
        let mut batch = Batch::default();
        if fetched.next(&mut batch, usize::MAX).is_ok() {
            for record in batch.records() {
                let _ = (record.key(), record.value(), record.headers().count());
            }
        }
    }
}
