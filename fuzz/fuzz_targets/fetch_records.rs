//! The records of a batch, compressed or not, are decoded or reported as corrupt.
#![no_main]

use bytes::BufMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i16, i32, &[u8])| {
    let (attributes, count, records) = input;
    kafka_fetch::decode_batches(&batch(attributes, count, records));
});

/// A batch whose header and checksum are correct.
fn batch(attributes: i16, count: i32, records: &[u8]) -> Vec<u8> {
    let mut checked = Vec::new();
    checked.put_i16(attributes);
    // Last offset delta.
    checked.put_i32(count.wrapping_sub(1));
    // Times of the first and of the latest record, in milliseconds.
    checked.put_i64(1_767_225_600_000);
    checked.put_i64(1_767_225_600_000);
    // Producer id, producer epoch and base sequence.
    checked.put_i64(1);
    checked.put_i16(0);
    checked.put_i32(0);
    checked.put_i32(count);
    checked.extend_from_slice(records);

    let mut batch = Vec::new();
    // Base offset, length of what follows, leader epoch, message format.
    batch.put_i64(0);
    batch.put_i32(9 + checked.len() as i32);
    batch.put_i32(0);
    batch.put_i8(2);
    batch.put_u32(crc32c::crc32c(&checked));
    batch.extend_from_slice(&checked);
    batch
}
