//! Compression of the records of a batch: codec 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.

use std::io::{Error, Read};

use bytes::Buf;

use super::Corruption;

/// A batch that decompresses to more bytes is rejected as damage or an attack.
pub(super) const MAX_DECOMPRESSED: u64 = 128 << 20;

/// Appends the decompressed bytes.
pub(super) fn decompress(codec: i16, bytes: &[u8], to: &mut Vec<u8>) -> Result<(), Corruption> {
    match codec {
        0 => to.extend_from_slice(bytes),
        1 => copy(flate2::read::GzDecoder::new(bytes), to)?,
        2 => snappy(bytes, to)?,
        3 => copy(lz4::Decoder::new(bytes)?, to)?,
        4 => copy(zstd::Decoder::with_buffer(bytes)?, to)?,
        other => return Err(Corruption::Codec(other)),
    }
    Ok(())
}

fn copy(from: impl Read, to: &mut Vec<u8>) -> Result<(), Corruption> {
    match from.take(MAX_DECOMPRESSED + 1).read_to_end(to)? as u64 {
        0..=MAX_DECOMPRESSED => Ok(()),
        _ => Err(Corruption::Size),
    }
}

/// What the framing of snappy-java (xerial) starts with: a name, and a version twice.
pub(super) const XERIAL: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// Snappy is one raw block, or from Java's clients blocks with an INT32 length before each.
fn snappy(bytes: &[u8], to: &mut Vec<u8>) -> Result<(), Corruption> {
    let Some(mut blocks) = bytes.strip_prefix(XERIAL) else {
        return snappy_block(bytes, to);
    };
    while !blocks.is_empty() {
        let length = blocks.try_get_u32().map_err(|_| Corruption::Length)? as usize;
        let (block, rest) = blocks.split_at_checked(length).ok_or(Corruption::Length)?;
        snappy_block(block, to)?;
        blocks = rest;
    }
    Ok(())
}

fn snappy_block(block: &[u8], to: &mut Vec<u8>) -> Result<(), Corruption> {
    let start = to.len();
    let length = snap::raw::decompress_len(block).map_err(Error::from)?;
    if (start + length) as u64 > MAX_DECOMPRESSED {
        return Err(Corruption::Size);
    }
    to.resize(start + length, 0);
    let done = snap::raw::Decoder::new().decompress(block, &mut to[start..]);
    done.map_err(Error::from)?;
    Ok(())
}
