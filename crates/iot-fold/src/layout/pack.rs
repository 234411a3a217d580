//! The encoding of values: fixed fields, little-endian, texts with their length first.
//! Floats keep every bit, so that state read back equals the state that was written.

use std::ops::RangeInclusive;
use std::sync::Arc;

/// A stored value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// Another version of this program wrote it.
    #[error("format {0} is not known: the state was written by another version")]
    Version(u8),
    /// It is too short or too long, or has an impossible field.
    #[error("the value is damaged")]
    Damaged,
}

/// Writes a value.
pub(crate) struct Packer(Vec<u8>);

impl Packer {
    /// Starts a value of about `bytes` bytes with the version of its format.
    pub(crate) fn new(version: u8, bytes: usize) -> Self {
        let mut value = Vec::with_capacity(bytes);
        value.push(version);
        Self(value)
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    pub(crate) fn text(&mut self, text: &str) {
        // Validation keeps texts far below 4 GiB.
        self.u32(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// A part after its length in bytes, so that a reader can skip it.
    pub(crate) fn part(&mut self, write: impl FnOnce(&mut Self)) {
        let begin = self.0.len();
        self.u32(0);
        write(self);
        let length = (self.0.len() - begin - 4) as u32;
        self.0[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a value.
pub(crate) struct Unpacker<'a>(&'a [u8]);

impl<'a> Unpacker<'a> {
    /// Starts to read a value, whose version must be in `known`, and returns the version.
    ///
    /// # Errors
    /// The version is another one.
    pub(crate) fn new(
        bytes: &'a [u8],
        known: RangeInclusive<u8>,
    ) -> Result<(u8, Self), UnpackError> {
        match bytes.split_first() {
            Some((version, rest)) if known.contains(version) => Ok((*version, Self(rest))),
            Some((version, _)) => Err(UnpackError::Version(*version)),
            None => Err(UnpackError::Damaged),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, UnpackError> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, UnpackError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, UnpackError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, UnpackError> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn f64(&mut self) -> Result<f64, UnpackError> {
        self.u64().map(f64::from_bits)
    }

    pub(crate) fn text(&mut self) -> Result<Arc<str>, UnpackError> {
        std::str::from_utf8(self.bytes()?)
            .map(Arc::from)
            .map_err(|_| UnpackError::Damaged)
    }

    /// A part, which `read` must read to its end.
    pub(crate) fn part<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, UnpackError>,
    ) -> Result<T, UnpackError> {
        let mut part = Self(self.bytes()?);
        let value = read(&mut part)?;
        part.finish()?;
        Ok(value)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, UnpackError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(UnpackError::Damaged),
        }
    }

    /// Bytes after their length.
    fn bytes(&mut self) -> Result<&'a [u8], UnpackError> {
        let length = self.u32()? as usize;
        let (bytes, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(UnpackError::Damaged)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, UnpackError>,
    ) -> Result<Option<T>, UnpackError> {
        if self.flag()? {
            read(self).map(Some)
        } else {
            Ok(None)
        }
    }

    pub(crate) fn finish(self) -> Result<(), UnpackError> {
        self.0.is_empty().then_some(()).ok_or(UnpackError::Damaged)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], UnpackError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(UnpackError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_what_was_written(a in any::<u64>(), b in any::<i64>(), c in any::<f64>(), d in ".*", e in any::<Option<u8>>()) {
            let mut packer = Packer::new(2, 0);
            packer.u64(a);
            packer.i64(b);
            packer.f64(c);
            packer.text(&d);
            packer.part(|packer| packer.option(e, Packer::u8));
            let bytes = packer.finish();
            let (version, mut unpacker) = Unpacker::new(&bytes, 2..=3).unwrap();
            prop_assert_eq!(version, 2);
            prop_assert_eq!(unpacker.u64(), Ok(a));
            prop_assert_eq!(unpacker.i64(), Ok(b));
            prop_assert_eq!(unpacker.f64().unwrap().to_bits(), c.to_bits());
            prop_assert_eq!(&*unpacker.text().unwrap(), d);
            prop_assert_eq!(unpacker.part(|part| part.option(Unpacker::u8)), Ok(e));
            prop_assert_eq!(unpacker.finish(), Ok(()));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((_, mut unpacker)) = Unpacker::new(&bytes, 0..=255) {
                while unpacker.text().is_ok() {}
                let _ = unpacker.option(Unpacker::i64);
            }
        }
    }

    #[test]
    fn another_version_is_refused() {
        let error = |bytes| Unpacker::new(bytes, 2..=3).err();
        assert_eq!(error(&[1]), Some(UnpackError::Version(1)));
        assert_eq!(error(&[4]), Some(UnpackError::Version(4)));
        assert_eq!(error(&[]), Some(UnpackError::Damaged));
        assert_eq!(error(&[3]), None);
    }
}
