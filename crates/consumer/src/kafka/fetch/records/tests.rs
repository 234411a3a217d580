//! Batches are made here byte by byte, as the log has them.

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

fn lz4_frame(bytes: &[u8], mode: lz4::BlockMode) -> Vec<u8> {
    let mut frame = lz4::EncoderBuilder::new();
    let mut frame = frame.block_mode(mode).build(Vec::new()).unwrap();
    frame.write_all(bytes).unwrap();
    frame.finish().0
}

#[test]
fn a_frame_of_lz4_may_have_blocks_that_need_each_other() {
    // Repeated further apart than within a block, and some that doesn't shrink.
    let mut payload: Vec<u8> = (0..100_000u64).map(|at| ((at * at) >> 7) as u8).collect();
    payload.extend_from_within(..);
    let records = record(0, None, Some(&payload));
    for mode in [lz4::BlockMode::Independent, lz4::BlockMode::Linked] {
        let log = batch(0, 3, -1, 1, &lz4_frame(&records, mode.clone()));
        let (mut chunk, _) = chunk(&log, 0, Vec::new()).unwrap();
        let mut batch = Batch::default();
        chunk.unpack(&mut batch).unwrap();
        let unpacked = batch.records().next().unwrap();
        assert_eq!(unpacked.payload(), Some(&payload[..]));
    }
}

fn packed(codec: i16, bytes: &[u8]) -> Vec<u8> {
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
