//! Record batches as they are in the log, message format 2
//! (<https://kafka.apache.org/documentation/#messageformat>): checked, decompressed, and
//! without what was aborted.

mod batch;
mod compression;
mod fetched;
mod header;
mod record;
mod transactions;

pub use batch::{Batch, Record};
pub(crate) use fetched::Fetched;

use record::MalformedRecord;

/// A record batch of the log that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the batch at offset {offset} can't be read: {reason}")]
pub struct CorruptBatch {
    offset: i64,
    reason: Corruption,
}

impl CorruptBatch {
    /// First offset of the batch.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset
    }
}

/// What is wrong with a batch.
#[derive(Debug, thiserror::Error)]
enum Corruption {
    #[error("message format {0} is not supported, only 2 (Kafka 0.11 and newer)")]
    Format(u8),
    #[error("checksum mismatch")]
    Checksum,
    #[error("impossible length")]
    Length,
    #[error("unknown compression codec {0}")]
    Codec(i16),
    #[error("more than {} MiB decompressed", compression::MAX_DECOMPRESSED >> 20)]
    Size,
    #[error("decompression failed: {0}")]
    Compressed(#[from] std::io::Error),
    #[error(transparent)]
    Record(#[from] MalformedRecord),
}

/// Decodes the batches in `bytes` up to the first corrupt one and reads every field of their
/// records, for the fuzz target.
#[cfg(fuzzing)]
pub fn decode_batches(bytes: &[u8]) {
    let Some(mut fetched) = Fetched::new(bytes, 0, Vec::new()) else {
        return;
    };
    let mut batch = Batch::default();
    while !fetched.is_done() && matches!(fetched.next(&mut batch, usize::MAX), Ok(None)) {
        for record in batch.records() {
            let fields = (
                record.offset(),
                record.timestamp(),
                record.key(),
                record.value(),
            );
            std::hint::black_box((fields, record.headers().count()));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
