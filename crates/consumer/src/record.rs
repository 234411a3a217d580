//! Records on their way from Kafka to the owner of their partition: a batch has
//! one buffer for all bytes, so that a record costs no allocation.

use std::ops::Range;

use rdkafka::Message;
use rdkafka::message::Headers;

/// Bytes and records that a batch keeps memory of for the next one.
const KEPT_BYTES: usize = 4 << 20;
const KEPT_RECORDS: usize = 20_000;
/// The time of a record that has none.
const NO_TIME: i64 = -1;

/// Where the name and the value of a header are.
type Header = (Range<usize>, Option<Range<usize>>);

/// Records of one partition in log order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    records: Vec<Entry>,
    headers: Vec<Header>,
    /// Offset after it, which may be beyond the last record: what was aborted, and the
    /// marks of transactions, have offsets too.
    next: i64,
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    timestamp: Option<i64>,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    headers: Range<usize>,
}

/// What the records of a batch of the log count from.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) offset: i64,
    /// Milliseconds since the epoch.
    pub(crate) time: i64,
    /// When Kafka took all of them, where the topic keeps that time instead.
    pub(crate) appended: Option<i64>,
}

/// A record that is not as Kafka's message format 2 has it.
#[derive(Debug, thiserror::Error)]
#[error("its record {0} does not end where it should")]
pub(crate) struct MalformedRecord(i32);

/// The same, before it is known which record it is.
struct Malformed;

/// One record and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'b> {
    batch: &'b Batch,
    entry: &'b Entry,
}

impl Batch {
    /// Forgets everything but the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.records.clear();
        self.records.shrink_to(KEPT_RECORDS);
        self.headers.clear();
        self.headers.shrink_to(KEPT_RECORDS);
    }

    /// For records to be put in, and then taken.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Takes in the records that the buffer has from `start` on, so many, except those
    /// before the offset `from`. They are in message format 2
    /// (<https://kafka.apache.org/documentation/#record>).
    ///
    /// # Errors
    /// There is something else; nothing is taken in.
    pub(crate) fn take_in(
        &mut self,
        start: usize,
        count: i32,
        base: &Base,
        from: i64,
    ) -> Result<(), MalformedRecord> {
        let (records, headers) = (self.records.len(), self.headers.len());
        let mut input = Input {
            bytes: &self.bytes,
            at: start,
        };
        for number in 0..count {
            match input.record(base, &mut self.headers) {
                Ok(entry) if entry.offset >= from => self.records.push(entry),
                Ok(_) => {}
                Err(Malformed) => {
                    self.records.truncate(records);
                    self.headers.truncate(headers);
                    return Err(MalformedRecord(number));
                }
            }
        }
        Ok(())
    }

    /// Copies a message in.
    pub(crate) fn push(&mut self, message: &impl Message) {
        let first = self.headers.len();
        if let Some(headers) = message.headers() {
            for header in headers.iter() {
                let name = self.copy(header.key.as_bytes());
                let value = header.value.map(|value| self.copy(value));
                self.headers.push((name, value));
            }
        }
        let entry = Entry {
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(|key| self.copy(key)),
            payload: message.payload().map(|payload| self.copy(payload)),
            headers: first..self.headers.len(),
        };
        self.next = entry.offset + 1;
        self.records.push(entry);
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Offset after it.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// Sets the offset after it.
    pub(crate) fn end_at(&mut self, next: i64) {
        self.next = next;
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.records
            .iter()
            .map(|entry| Record { batch: self, entry })
    }
}

/// Reads a record where it lies.
struct Input<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Input<'_> {
    fn record(&mut self, base: &Base, headers: &mut Vec<Header>) -> Result<Entry, Malformed> {
        let record = self.range()?.ok_or(Malformed)?;
        let after = std::mem::replace(&mut self.at, record.start);
        // Attributes, of which there are none yet.
        self.skip(1)?;
        let time = base.time.wrapping_add(self.varint()?);
        let offset = base.offset.wrapping_add(self.varint()?);
        let (key, payload) = (self.range()?, self.range()?);
        let first = headers.len();
        for _ in 0..self.varint()? {
            headers.push((self.range()?.ok_or(Malformed)?, self.range()?));
        }
        if self.at != after {
            return Err(Malformed);
        }
        let time = base.appended.unwrap_or(time);
        Ok(Entry {
            offset,
            timestamp: (time != NO_TIME).then_some(time),
            key,
            payload,
            headers: first..headers.len(),
        })
    }

    fn skip(&mut self, length: usize) -> Result<(), Malformed> {
        self.at += length;
        (self.at <= self.bytes.len()).then_some(()).ok_or(Malformed)
    }

    /// A length and where so many bytes then are, which are skipped; -1 is null.
    fn range(&mut self) -> Result<Option<Range<usize>>, Malformed> {
        let length = self.varint()?;
        if length == -1 {
            return Ok(None);
        }
        let start = self.at;
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        if length > self.bytes.len() - start {
            return Err(Malformed);
        }
        self.at += length;
        Ok(Some(start..self.at))
    }

    /// Seven bits a byte, the lowest first, the sign in the lowest bit of all.
    fn varint(&mut self) -> Result<i64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(Malformed)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(Malformed)
    }
}

impl<'b> Record<'b> {
    pub(crate) fn offset(&self) -> i64 {
        self.entry.offset
    }

    /// Time that Kafka keeps of the record, milliseconds since the epoch.
    pub(crate) fn timestamp(&self) -> Option<i64> {
        self.entry.timestamp
    }

    pub(crate) fn key(&self) -> Option<&'b [u8]> {
        self.entry.key.clone().map(|range| &self.batch.bytes[range])
    }

    pub(crate) fn payload(&self) -> Option<&'b [u8]> {
        self.entry
            .payload
            .clone()
            .map(|range| &self.batch.bytes[range])
    }

    /// The first value under a name.
    pub(crate) fn header(&self, wanted: &str) -> Option<&'b [u8]> {
        let bytes = &self.batch.bytes;
        let mut headers = self.batch.headers[self.entry.headers.clone()].iter();
        headers.find_map(|(name, value)| {
            let value = value.clone().map(|range| &bytes[range]);
            value.filter(|_| &bytes[name.clone()] == wanted.as_bytes())
        })
    }

    /// Names and values; names are UTF-8.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'b str, Option<&'b [u8]>)> {
        let batch = self.batch;
        batch.headers[self.entry.headers.clone()]
            .iter()
            .map(|(name, value)| {
                let name = std::str::from_utf8(&batch.bytes[name.clone()]).unwrap_or_default();
                (name, value.clone().map(|range| &batch.bytes[range]))
            })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

    use super::*;

    /// A message as Kafka would hand it over.
    pub(crate) fn message(offset: i64, payload: Option<&[u8]>) -> OwnedMessage {
        let headers = OwnedHeaders::new()
            .insert(Header {
                key: "mqtt-topic",
                value: Some("a/b"),
            })
            .insert(Header {
                key: "empty",
                value: None::<&str>,
            });
        OwnedMessage::new(
            payload.map(<[u8]>::to_vec),
            Some(b"key".to_vec()),
            "device-data".into(),
            Timestamp::CreateTime(1_767_225_600_000),
            3,
            offset,
            Some(headers),
        )
    }

    #[test]
    fn gives_back_what_was_put_in() {
        let mut batch = Batch::default();
        batch.push(&message(10, Some(b"one")));
        batch.push(&message(12, None));
        let records: Vec<_> = batch.records().collect();
        assert_eq!(batch.len(), 2);
        assert_eq!(records[0].payload(), Some(&b"one"[..]));
        assert_eq!((records[1].offset(), records[1].payload()), (12, None));
        for record in records {
            assert_eq!(record.key(), Some(&b"key"[..]));
            assert_eq!(record.timestamp(), Some(1_767_225_600_000));
            let headers: Vec<_> = record.headers().collect();
            assert_eq!(
                headers,
                [("mqtt-topic", Some(&b"a/b"[..])), ("empty", None)]
            );
        }
    }
}
