//! What one fetch brought of a partition, handed out batch by batch.

use super::batch::Batch;
use super::compression::{MAX_DECOMPRESSED, estimate, measure};
use super::header::{CHECKED, HEADER, Header};
use super::transactions::AbortedTransactions;
use super::{CorruptBatch, Corruption};
use crate::protocol::fetch::AbortedTransaction;
use crate::protocol::metadata::TopicId;

/// Small batches of the log are handed out together, up to so many records and bytes.
const TOGETHER: usize = 500;
const TOGETHER_BYTES: usize = 1 << 20;

/// Most bytes of a control batch, which has one record of a few bytes.
const MAX_CONTROL: usize = 64 << 10;

/// Key of a control record: an INT16 version, then an INT16 type, 0 for an abort.
const ABORT: Option<&[u8]> = Some(&[0, 0]);

/// Whole batches of the log, still compressed.
#[derive(Debug)]
pub(crate) struct Fetched {
    bytes: Vec<u8>,
    /// Where the next batch starts.
    at: usize,
    /// The first offset that is wanted, then the next one.
    offset: i64,
    aborted: AbortedTransactions,
    records: usize,
    end: i64,
    /// Leader epoch of the last batch; -1 for unknown.
    last_epoch: i32,
    topic_id: Option<TopicId>,
}

impl Fetched {
    /// Copies the whole batches out of a response; one that is cut is fetched again. `None`
    /// if there is no whole one.
    pub(crate) fn new(
        records: &[u8],
        offset: i64,
        aborted: Vec<AbortedTransaction>,
    ) -> Option<Self> {
        let (mut length, mut end, mut count, mut last_epoch) = (0, offset, 0, -1);
        while let Some(header) = Header::read(&records[length..]) {
            let Ok(header) = header else {
                // An error when its turn comes; until then it counts as something to be read.
                length = records.len();
                count += 1;
                break;
            };
            length += header.length;
            end = end.max(header.next_offset);
            last_epoch = header.leader_epoch;
            count += usize::try_from(header.records_count).unwrap_or(0);
        }
        (length > 0).then(|| Self {
            bytes: records[..length].to_vec(),
            at: 0,
            offset,
            aborted: AbortedTransactions::new(aborted),
            records: count,
            end,
            last_epoch,
            topic_id: None,
        })
    }

    /// Its batches are from the topic of this id.
    pub(crate) fn set_topic_id(&mut self, id: Option<TopicId>) {
        self.topic_id = id;
    }

    /// Leader epoch of the last batch; -1 for unknown.
    pub(crate) fn last_epoch(&self) -> i32 {
        self.last_epoch
    }

    /// Number of records by the headers of the batches, which are not verified yet.
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// Offset to fetch next.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// Bytes of the batches, compressed.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// About how many bytes to pass to [`next`](Self::next).
    pub(crate) fn room(&self) -> usize {
        let header = Header::read(&self.bytes[self.at..]);
        let size = header.and_then(Result::ok).map_or(0, |header| {
            estimate(header.codec(), self.compressed(&header))
        });
        size.max(TOGETHER_BYTES)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Decodes the next batch, or several small ones of the same leader, into at most `room`
    /// bytes. If the next one is larger, nothing happens, and it returns how many bytes it needs.
    ///
    /// # Errors
    /// The next batch is corrupt, too large, or in a format that is not supported.
    pub(crate) fn next(
        &mut self,
        into: &mut Batch,
        room: usize,
    ) -> Result<Option<usize>, CorruptBatch> {
        into.clear();
        let room = room.min(MAX_DECOMPRESSED);
        let first = self.header()?;
        into.set_log(self.topic_id, first.leader_epoch);
        if !self.decode(&first, into, room)? {
            let (offset, compressed) = (first.base_offset, self.compressed(&first));
            let size = measure(first.codec(), compressed);
            let size = size.map_err(|reason| CorruptBatch { offset, reason })?;
            return Ok(Some(size));
        }
        while !self.is_done() && into.len() < TOGETHER && into.size() < TOGETHER_BYTES {
            let left = room.saturating_sub(into.size());
            // A batch that is corrupt or larger is found again, with nothing before it.
            match self.header() {
                Ok(header)
                    if header.leader_epoch == first.leader_epoch
                        && matches!(self.decode(&header, into, left), Ok(true)) => {}
                _ => break,
            }
        }
        into.set_next_offset(self.offset);
        Ok(None)
    }

    /// The records of the next batch, as they are in the log.
    fn compressed(&self, header: &Header) -> &[u8] {
        &self.bytes[self.at + HEADER..self.at + header.length]
    }

    fn header(&self) -> Result<Header, CorruptBatch> {
        let (offset, reason) = (self.offset, Corruption::Length);
        Header::read(&self.bytes[self.at..]).unwrap_or(Err(CorruptBatch { offset, reason }))
    }

    fn decode(
        &mut self,
        header: &Header,
        into: &mut Batch,
        most: usize,
    ) -> Result<bool, CorruptBatch> {
        let offset = header.base_offset;
        let decoded = self.decode_whole(header, into, most);
        let decoded = decoded.map_err(|reason| CorruptBatch { offset, reason })?;
        if decoded {
            self.at += header.length;
            self.offset = self.offset.max(header.next_offset);
        }
        Ok(decoded)
    }

    fn decode_whole(
        &mut self,
        header: &Header,
        into: &mut Batch,
        most: usize,
    ) -> Result<bool, Corruption> {
        let batch = &self.bytes[self.at..self.at + header.length];
        if crc32c::crc32c(&batch[CHECKED..]) != header.crc {
            return Err(Corruption::Checksum);
        }
        self.aborted.advance_to(header.next_offset);
        if header.is_control() {
            if is_abort(header, &batch[HEADER..])? {
                self.aborted.end(header.producer_id);
            }
        } else if !header.is_transactional() || !self.aborted.contains(header.producer_id) {
            return into.decode(header, &batch[HEADER..], self.offset, most);
        }
        Ok(true)
    }
}

/// Whether a control batch ends a transaction that was aborted.
fn is_abort(header: &Header, records: &[u8]) -> Result<bool, Corruption> {
    let mut control = Batch::default();
    if !control.decode(header, records, header.base_offset, MAX_CONTROL)? {
        return Err(Corruption::Size);
    }
    let key = control.records().next().and_then(|record| record.key());
    Ok(key.is_some_and(|key| key.get(2..4) == ABORT))
}
