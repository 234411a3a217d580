//! What one fetch brought of a partition, handed out batch by batch.

use super::batch::Batch;
use super::header::{CHECKED, HEADER, Header};
use super::transactions::AbortedTransactions;
use super::{CorruptBatch, Corruption};
use crate::protocol::fetch::AbortedTransaction;
use crate::protocol::metadata::TopicId;

/// Small batches of the log are handed out together, up to so many records and bytes.
const TOGETHER: usize = 500;
const TOGETHER_BYTES: usize = 1 << 20;

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

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Decodes the next batch, or several small ones of the same leader.
    ///
    /// # Errors
    /// The next batch is corrupt, or in a format that is not supported.
    pub(crate) fn next(&mut self, into: &mut Batch) -> Result<(), CorruptBatch> {
        into.clear();
        let first = self.header()?;
        into.set_log(self.topic_id, first.leader_epoch);
        self.decode(&first, into)?;
        while !self.is_done() && into.len() < TOGETHER && into.size() < TOGETHER_BYTES {
            // A batch that is corrupt is found again, with nothing before it.
            match self.header() {
                Ok(header)
                    if header.leader_epoch == first.leader_epoch
                        && self.decode(&header, into).is_ok() => {}
                _ => break,
            }
        }
        into.set_next_offset(self.offset);
        Ok(())
    }

    fn header(&self) -> Result<Header, CorruptBatch> {
        let (offset, reason) = (self.offset, Corruption::Length);
        Header::read(&self.bytes[self.at..]).unwrap_or(Err(CorruptBatch { offset, reason }))
    }

    fn decode(&mut self, header: &Header, into: &mut Batch) -> Result<(), CorruptBatch> {
        let offset = header.base_offset;
        let decoded = self.decode_whole(header, into);
        decoded.map_err(|reason| CorruptBatch { offset, reason })?;
        self.at += header.length;
        self.offset = self.offset.max(header.next_offset);
        Ok(())
    }

    fn decode_whole(&mut self, header: &Header, into: &mut Batch) -> Result<(), Corruption> {
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
            into.decode(header, &batch[HEADER..], self.offset)?;
        }
        Ok(())
    }
}

/// Whether a control batch ends a transaction that was aborted.
fn is_abort(header: &Header, records: &[u8]) -> Result<bool, Corruption> {
    let mut control = Batch::default();
    control.decode(header, records, header.base_offset)?;
    let key = control.records().next().and_then(|record| record.key());
    Ok(key.is_some_and(|key| key.get(2..4) == ABORT))
}
