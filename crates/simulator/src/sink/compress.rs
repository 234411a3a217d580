//! Measures the compression of a batch. The Kafka client compresses inside its
//! request and does not report the time, so the same bytes are compressed again
//! here, at the same levels.

use std::io::Write;
use std::time::Instant;

use crate::config::CompressionKind;
use crate::lane::Batch;
use crate::metrics::Metrics;

/// The Zstandard level of the Kafka client.
const ZSTD_LEVEL: i32 = 0;

/// Compresses the payloads of a batch and observes the time, unless compression is off.
pub(super) fn measure(kind: CompressionKind, batch: &Batch, metrics: &Metrics) {
    let started = Instant::now();
    if matches!(compressed(kind, batch.payload()), Some(Ok(_))) {
        let latency = &metrics.compression_latency;
        latency.observe(started.elapsed().as_secs_f64());
    }
}

fn compressed(kind: CompressionKind, bytes: &[u8]) -> Option<std::io::Result<Vec<u8>>> {
    match kind {
        CompressionKind::None => None,
        CompressionKind::Gzip => Some(gzip(bytes)),
        CompressionKind::Snappy => {
            let compressed = snap::raw::Encoder::new().compress_vec(bytes);
            Some(compressed.map_err(std::io::Error::other))
        }
        CompressionKind::Lz4 => Some(lz4(bytes)),
        CompressionKind::Zstd => Some(zstd::encode_all(bytes, ZSTD_LEVEL)),
    }
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let level = flate2::Compression::default();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn lz4(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = lz4::EncoderBuilder::new().build(Vec::new())?;
    encoder.write_all(bytes)?;
    let (compressed, result) = encoder.finish();
    result.map(|()| compressed)
}
