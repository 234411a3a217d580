//! Compression of the records of a batch: codec 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.

use std::io::{self, Error, Read};

use bytes::Buf;

use super::Corruption;

/// A batch that decompresses to more bytes is rejected as damage or an attack.
pub(super) const MAX_DECOMPRESSED: usize = 128 << 20;
/// How many times smaller than decompressed most batches are at the most.
const RATIO: usize = 16;
/// Bytes that are decompressed first; then as many as there are.
const CHUNK: usize = 256 << 10;

/// About how many bytes a batch decompresses to. What frames tell of it is not verified, and
/// most do not.
pub(super) fn estimate(codec: i16, bytes: &[u8]) -> usize {
    match codec {
        0 => bytes.len(),
        _ => bytes.len().saturating_mul(RATIO).min(MAX_DECOMPRESSED),
    }
}

/// How many bytes a batch decompresses to, found by decompressing it without keeping them.
pub(super) fn measure(codec: i16, bytes: &[u8]) -> Result<usize, Corruption> {
    let count = |from: &mut dyn Read| {
        let counted = io::copy(&mut from.take(MAX_DECOMPRESSED as u64 + 1), &mut io::sink())?;
        Ok::<_, Corruption>(usize::try_from(counted).unwrap_or(usize::MAX))
    };
    let size = match codec {
        0 => bytes.len(),
        1 => count(&mut flate2::read::GzDecoder::new(bytes))?,
        2 => snappy_size(bytes)?,
        3 => count(&mut lz4::Decoder::new(bytes)?)?,
        4 => count(&mut zstd::Decoder::with_buffer(bytes)?)?,
        other => return Err(Corruption::Codec(other)),
    };
    match size {
        0..=MAX_DECOMPRESSED => Ok(size),
        _ => Err(Corruption::Size),
    }
}

/// Appends the decompressed bytes if they are at most `most`. Otherwise it returns `false`, and
/// may have appended some.
pub(super) fn decompress(
    codec: i16,
    bytes: &[u8],
    to: &mut Vec<u8>,
    most: usize,
) -> Result<bool, Corruption> {
    match codec {
        0 if bytes.len() > most => return Ok(false),
        0 => to.extend_from_slice(bytes),
        1 => return copy(flate2::read::GzDecoder::new(bytes), to, most),
        2 if snappy_size(bytes)? > most => return Ok(false),
        2 => snappy(bytes, to)?,
        3 => return copy(lz4::Decoder::new(bytes)?, to, most),
        4 => return copy(zstd::Decoder::with_buffer(bytes)?, to, most),
        other => return Err(Corruption::Codec(other)),
    }
    Ok(true)
}

fn copy(mut from: impl Read, to: &mut Vec<u8>, most: usize) -> Result<bool, Corruption> {
    let start = to.len();
    loop {
        let used = to.len() - start;
        if used > most {
            return Ok(false);
        }
        // A vector that grows by itself may take twice the memory that there is room for.
        let next = used.max(CHUNK).min(most + 1 - used);
        to.reserve_exact(next);
        if from.by_ref().take(next as u64).read_to_end(to)? < next {
            return Ok(true);
        }
    }
}

/// What the framing of snappy-java (xerial) starts with: a name, and a version twice.
pub(super) const XERIAL: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// Calls `each` for the blocks. Snappy is one raw block, or from Java's clients blocks with an INT32
/// length before each.
fn blocks(
    bytes: &[u8],
    mut each: impl FnMut(&[u8]) -> Result<(), Corruption>,
) -> Result<(), Corruption> {
    let Some(mut blocks) = bytes.strip_prefix(XERIAL) else {
        return each(bytes);
    };
    while !blocks.is_empty() {
        let length = blocks.try_get_u32().map_err(|_| Corruption::Length)? as usize;
        let (block, rest) = blocks.split_at_checked(length).ok_or(Corruption::Length)?;
        each(block)?;
        blocks = rest;
    }
    Ok(())
}

/// The sum of what the blocks declare, which decompressing them verifies.
fn snappy_size(bytes: &[u8]) -> Result<usize, Corruption> {
    let mut size = 0_usize;
    blocks(bytes, |block| {
        let length = snap::raw::decompress_len(block).map_err(Error::from)?;
        size = size.saturating_add(length);
        Ok(())
    })?;
    Ok(size)
}

fn snappy(bytes: &[u8], to: &mut Vec<u8>) -> Result<(), Corruption> {
    blocks(bytes, |block| snappy_block(block, to))
}

fn snappy_block(block: &[u8], to: &mut Vec<u8>) -> Result<(), Corruption> {
    let start = to.len();
    let length = snap::raw::decompress_len(block).map_err(Error::from)?;
    to.resize(start + length, 0);
    let done = snap::raw::Decoder::new().decompress(block, &mut to[start..]);
    done.map_err(Error::from)?;
    Ok(())
}
