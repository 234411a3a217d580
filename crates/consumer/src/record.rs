//! Records on their way from Kafka to the owner of their partition: a batch has
//! one buffer for all bytes, so that a record costs no allocation.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rdkafka::Message;
use rdkafka::message::Headers;

/// Records of one partition in log order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Assignment of the partition that the records were fetched under.
    pub(crate) generation: u64,
    bytes: Vec<u8>,
    records: Vec<Entry>,
    headers: Vec<(Range<usize>, Option<Range<usize>>)>,
    counted: Counted,
}

/// Records in a counter for as long as their batch is there.
#[derive(Debug, Default)]
struct Counted(usize, Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    timestamp: Option<i64>,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    headers: Range<usize>,
}

/// One record and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'b> {
    batch: &'b Batch,
    entry: &'b Entry,
}

impl Batch {
    pub(crate) fn new(generation: u64) -> Self {
        Self {
            generation,
            ..Self::default()
        }
    }

    /// An empty one in the memory of this one.
    pub(crate) fn again(mut self) -> Self {
        self.bytes.clear();
        self.records.clear();
        self.headers.clear();
        self.counted = Counted::default();
        self
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
        self.records.push(entry);
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Counts its records in `counter` until it is dropped.
    pub(crate) fn count_in(&mut self, counter: &Arc<AtomicUsize>) {
        counter.fetch_add(self.len(), Ordering::Relaxed);
        self.counted = Counted(self.len(), counter.clone());
    }

    /// Records that came since it was counted.
    pub(crate) fn uncounted(&self) -> usize {
        self.len() - self.counted.0
    }

    /// Bytes of keys, payloads and headers.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.records
            .iter()
            .map(|entry| Record { batch: self, entry })
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
    fn is_counted_until_it_is_dropped() {
        let counter = Arc::new(AtomicUsize::new(0));
        let mut batch = Batch::new(0);
        batch.push(&message(1, None));
        batch.count_in(&counter);
        batch.push(&message(2, None));
        assert_eq!((counter.load(Ordering::Relaxed), batch.uncounted()), (1, 1));
        batch.count_in(&counter);
        assert_eq!((counter.load(Ordering::Relaxed), batch.uncounted()), (2, 0));
        drop(batch);
        assert_eq!(counter.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn gives_back_what_was_put_in() {
        let mut batch = Batch::new(7);
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
