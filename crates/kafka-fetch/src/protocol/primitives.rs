//! Primitive types of the protocol (<https://kafka.apache.org/protocol#protocol_types>).
//!
//! | type | encoding |
//! |---|---|
//! | INT8, INT16, INT32, INT64 | big-endian, signed |
//! | BOOLEAN | one byte, 0 is false |
//! | UUID | 16 bytes |
//! | UNSIGNED_VARINT | seven bits a byte, the lowest first |
//! | NULLABLE_STRING, STRING | INT16 length, UTF-8; length -1 is null |
//! | BYTES, RECORDS | INT32 length, bytes; length -1 is null |
//! | ARRAY | INT32 count, elements; count -1 is null |
//! | COMPACT_STRING, COMPACT_ARRAY, ... | as above, but the length is an UNSIGNED_VARINT one greater; 0 is null |
//! | TAG_BUFFER | UNSIGNED_VARINT count, then for each a tag and a length (UNSIGNED_VARINT) and as many bytes |
//!
//! *Flexible* versions of a message have compact types, and a TAG_BUFFER at the end of every
//! structure. [`Decoder`] and [`Encoder`] know whether theirs is one, so that a message names
//! each field once.
//!
//! No length from the wire is trusted: it is compared with what is left of the response
//! before anything is read or allocated by it.

use bytes::{Buf, BufMut, TryGetError};

/// A response is not what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed response: {0}")]
pub struct Malformed(&'static str);

const TRUNCATED: Malformed = Malformed("it ends too early");

impl From<TryGetError> for Malformed {
    fn from(_: TryGetError) -> Self {
        TRUNCATED
    }
}

pub(crate) type Result<T> = std::result::Result<T, Malformed>;

/// Reads the fields of a response in order, without copying strings and bytes.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self {
            rest: bytes,
            flexible,
        }
    }

    pub(crate) fn i16(&mut self) -> Result<i16> {
        Ok(self.rest.try_get_i16()?)
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        Ok(self.rest.try_get_i32()?)
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        Ok(self.rest.try_get_i64()?)
    }

    pub(crate) fn bool(&mut self) -> Result<bool> {
        Ok(self.rest.try_get_u8()? != 0)
    }

    pub(crate) fn uuid(&mut self) -> Result<u128> {
        Ok(self.rest.try_get_u128()?)
    }

    pub(crate) fn nullable_string(&mut self) -> Result<Option<&'a str>> {
        let length = if self.flexible {
            self.compact_length()?
        } else {
            nullable(self.i16()?.into())?
        };
        let Some(length) = length else {
            return Ok(None);
        };
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))?;
        Ok(Some(text))
    }

    /// A string that should not be null; null is read as empty.
    pub(crate) fn string(&mut self) -> Result<&'a str> {
        Ok(self.nullable_string()?.unwrap_or_default())
    }

    /// Bytes or records; null is read as empty.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.array_length()?;
        self.take(length)
    }

    /// Number of elements of an array; of null it is 0. It is *not* bounded by what is left
    /// of the response: allocate nothing by it.
    pub(crate) fn array_length(&mut self) -> Result<usize> {
        let length = if self.flexible {
            self.compact_length()?
        } else {
            nullable(self.i32()?)?
        };
        Ok(length.unwrap_or(0))
    }

    pub(crate) fn array<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        // Collecting results reserves nothing: the vector grows as elements are really there.
        (0..self.array_length()?).map(|_| read(self)).collect()
    }

    /// Skips the tagged fields at the end of a structure.
    pub(crate) fn tagged_fields(&mut self) -> Result<()> {
        self.tagged_field(None).map(drop)
    }

    /// Reads the tagged fields at the end of a structure, and returns the bytes of the one with
    /// this tag, if it is there.
    pub(crate) fn tagged_field(&mut self, wanted: Option<u32>) -> Result<Option<Self>> {
        let mut found = None;
        if self.flexible {
            for _ in 0..self.unsigned_varint()? {
                let tag = self.unsigned_varint()?;
                let length = self.unsigned_varint()?;
                let bytes = self.take(length as usize)?;
                if wanted == Some(tag) {
                    found = Some(Self::new(bytes, true));
                }
            }
        }
        Ok(found)
    }

    fn compact_length(&mut self) -> Result<Option<usize>> {
        Ok((self.unsigned_varint()? as usize).checked_sub(1))
    }

    fn unsigned_varint(&mut self) -> Result<u32> {
        let mut value = 0;
        for shift in (0..32).step_by(7) {
            let byte = self.rest.try_get_u8()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a variable-length integer does not end"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// A length of which -1 stands for null.
fn nullable(length: i32) -> Result<Option<usize>> {
    match length {
        -1 => Ok(None),
        length => usize::try_from(length)
            .map(Some)
            .map_err(|_| Malformed("a length is negative")),
    }
}

/// Writes the fields of a request in order.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    flexible: bool,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, flexible: bool) -> Self {
        Self { out, flexible }
    }

    pub(crate) fn i8(&mut self, value: i8) {
        self.out.put_i8(value);
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.out.put_i16(value);
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.out.put_i32(value);
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.out.put_i64(value);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.out.put_u8(value.into());
    }

    pub(crate) fn uuid(&mut self, value: u128) {
        self.out.put_u128(value);
    }

    /// A string; what is beyond the 32,767 bytes that a STRING can have is left out (names of
    /// topics end at 249).
    pub(crate) fn string(&mut self, text: &str) {
        let text = &text.as_bytes()[..text.floor_char_boundary(i16::MAX as usize)];
        if self.flexible {
            self.unsigned_varint(text.len() as u32 + 1)
        } else {
            self.out.put_i16(text.len() as i16)
        }
        self.out.extend_from_slice(text);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.array_length(bytes.len());
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn array_length(&mut self, length: usize) {
        if self.flexible {
            self.unsigned_varint(length as u32 + 1)
        } else {
            self.out.put_i32(length as i32)
        }
    }

    /// Ends a structure, without tagged fields.
    pub(crate) fn tagged_fields(&mut self) {
        if self.flexible {
            self.unsigned_varint(0);
        }
    }

    fn unsigned_varint(&mut self, mut value: u32) {
        while value > 0x7f {
            self.out.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn compact_types_have_their_lengths_as_varints() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, true);
        encoder.string("ab");
        encoder.array_length(300);
        encoder.tagged_fields();
        assert_eq!(out, [3, b'a', b'b', 0xad, 2, 0]);
        let mut decoder = Decoder::new(&out, true);
        assert_eq!(decoder.string(), Ok("ab"));
        assert_eq!(decoder.array_length(), Ok(300));
        assert_eq!(decoder.tagged_fields(), Ok(()));
        assert_eq!(decoder.i16(), Err(TRUNCATED));
    }

    #[test]
    fn tagged_fields_are_skipped() {
        let mut decoder = Decoder::new(&[2, 0, 1, 9, 5, 2, 9, 9, 0, 7], true);
        decoder.tagged_fields().unwrap();
        assert_eq!(decoder.i16(), Ok(7));
    }

    #[test]
    fn null_is_distinguished_from_empty() {
        let mut plain = Decoder::new(&[0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff], false);
        assert_eq!(plain.nullable_string(), Ok(None));
        assert_eq!(plain.nullable_string(), Ok(Some("")));
        assert_eq!(plain.bytes(), Ok(&[][..]));
        let mut compact = Decoder::new(&[0, 1, 0], true);
        assert_eq!(compact.nullable_string(), Ok(None));
        assert_eq!(compact.nullable_string(), Ok(Some("")));
        assert_eq!(compact.bytes(), Ok(&[][..]));
    }

    #[test]
    fn negative_lengths_are_rejected() {
        let bytes = [0xff, 0xfe, 0xff, 0xff];
        let error = Malformed("a length is negative");
        let string = Decoder::new(&bytes, false).nullable_string();
        assert_eq!(string, Err(error));
        assert_eq!(Decoder::new(&bytes, false).bytes(), Err(error));
    }

    #[test]
    fn lengths_beyond_the_response_are_rejected() {
        for flexible in [false, true] {
            let bytes = [0x7f, 0xff, 0xff, 0xff, 0x7f];
            assert!(Decoder::new(&bytes, flexible).nullable_string().is_err());
            assert!(Decoder::new(&bytes, flexible).bytes().is_err());
            let array = Decoder::new(&bytes, flexible).array(Decoder::i64);
            assert!(array.is_err());
        }
    }

    #[test]
    fn strings_are_cut_where_kafka_has_no_longer_ones() {
        let mut out = Vec::new();
        Encoder::new(&mut out, false).string(&"ä".repeat(20_000));
        assert_eq!(Decoder::new(&out, false).string().unwrap().len(), 32_766);
    }

    proptest! {
        #[test]
        fn fields_are_decoded_as_they_were_encoded(
            text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..300),
            number: i64, flexible: bool
        ) {
            let mut out = Vec::new();
            let mut encoder = Encoder::new(&mut out, flexible);
            encoder.string(&text);
            encoder.bytes(&bytes);
            encoder.i64(number);
            encoder.tagged_fields();
            let mut decoder = Decoder::new(&out, flexible);
            prop_assert_eq!(decoder.string(), Ok(&text[..]));
            prop_assert_eq!(decoder.bytes(), Ok(&bytes[..]));
            prop_assert_eq!(decoder.i64(), Ok(number));
            prop_assert_eq!(decoder.tagged_fields(), Ok(()));
            prop_assert!(decoder.rest.is_empty());
        }
    }
}
