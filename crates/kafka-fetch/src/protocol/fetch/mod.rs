//! Fetch (key 1): the records of partitions from given offsets on.
//!
//! Versions 11 (Kafka 2.3), which every broker since has, to 13. Version 12 is the first flexible
//! one, and from version 13 on topics are named by id.
//!
//! Request:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `replica_id` | INT32 | 0 | -1: a consumer, not a broker |
//! | `max_wait_ms` | INT32 | 0 | how long the broker may wait for `min_bytes` |
//! | `min_bytes` | INT32 | 0 | fewer bytes than that are sent after `max_wait_ms` only |
//! | `max_bytes` | INT32 | 3 | about the most bytes of the whole response; the first batch comes whole |
//! | `isolation_level` | INT8 | 4 | 1: only up to the last stable offset, with the list of aborted transactions (`read_committed`) |
//! | `session_id` | INT32 | 7 | 0: no fetch session |
//! | `session_epoch` | INT32 | 7 | -1: no fetch session |
//! | `topics` | ARRAY | 0 | the topics: |
//! | - `topic` | STRING | 0, until 12 | name of the topic |
//! | - `topic_id` | UUID | 13 | id of the topic |
//! | - `partitions` | ARRAY | 0 | its partitions, each of them once in the whole request: |
//! | -- `partition` | INT32 | 0 | number of the partition |
//! | -- `current_leader_epoch` | INT32 | 9 | of the leader that the client knows; -1 for unknown |
//! | -- `fetch_offset` | INT64 | 0 | the offset to begin at |
//! | -- `last_fetched_epoch` | INT32 | 12 | leader epoch of the last record before `fetch_offset`; -1 for unknown |
//! | -- `log_start_offset` | INT64 | 5 | -1: for brokers only |
//! | -- `partition_max_bytes` | INT32 | 0 | about the most bytes of this partition; the first batch comes whole |
//! | `forgotten_topics_data` | ARRAY | 7 | empty: for fetch sessions only |
//! | `rack_id` | STRING | 11 | where the client is, for the choice of a replica |
//!
//! Response:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `throttle_time_ms` | INT32 | 1 | how long the client should send nothing, for a quota |
//! | `error_code` | INT16 | 7 | of the whole request |
//! | `session_id` | INT32 | 7 | ignored: there is no fetch session |
//! | `responses` | ARRAY | 0 | the topics: |
//! | - `topic` | STRING | 0, until 12 | name of the topic |
//! | - `topic_id` | UUID | 13 | id of the topic |
//! | - `partitions` | ARRAY | 0 | its partitions: |
//! | -- `partition_index` | INT32 | 0 | number of the partition |
//! | -- `error_code` | INT16 | 0 | 0 or why there are no records |
//! | -- `high_watermark` | INT64 | 0 | the offset up to which the log is replicated |
//! | -- `last_stable_offset` | INT64 | 4 | the offset up to which no transaction is open; -1 for unknown |
//! | -- `log_start_offset` | INT64 | 5 | ignored |
//! | -- `aborted_transactions` | ARRAY | 4 | the aborted transactions in `records`; nullable: |
//! | --- `producer_id` | INT64 | 4 | the producer |
//! | --- `first_offset` | INT64 | 4 | its first record in the transaction |
//! | -- `preferred_read_replica` | INT32 | 11 | the broker to fetch from instead of this one; -1 for none |
//! | -- `records` | RECORDS | 0 | batches as they are in the log; the last may be cut |
//! | -- `diverging_epoch` | tag 0 | 12 | there if the log no longer has the record before `fetch_offset` (KIP-595): |
//! | --- `epoch` | INT32 | 12 | the newest leader epoch up to `last_fetched_epoch` that the log has |
//! | --- `end_offset` | INT64 | 12 | where the records of that epoch end |

use super::metadata::TopicId;
use super::primitives::{Decoder, Encoder, Result};
use super::{ApiKey, ErrorCode, Request};
use crate::observer::LogEnd;

const CONSUMER: i32 = -1;
const READ_COMMITTED: i8 = 1;
const NO_SESSION: (i32, i32) = (0, -1);
const NOT_A_BROKER: i64 = -1;
const DIVERGING_EPOCH: u32 = 0;
/// The first version that names topics by id.
const BY_ID: i16 = 13;

/// Fetches committed records, without a fetch session.
#[derive(Debug)]
pub(crate) struct FetchRequest<'r> {
    pub(crate) max_wait_ms: i32,
    pub(crate) min_bytes: i32,
    pub(crate) max_bytes: i32,
    pub(crate) partition_max_bytes: i32,
    pub(crate) rack: &'r str,
    /// Those of one topic one after the other.
    pub(crate) positions: &'r [Position<'r>],
}

/// From where a partition is fetched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position<'r> {
    pub(crate) topic: &'r str,
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) partition: i32,
    /// Of the current leader; -1 for unknown.
    pub(crate) leader_epoch: i32,
    pub(crate) offset: i64,
    /// Of the last record before `offset`; -1 for unknown.
    pub(crate) last_epoch: i32,
}

/// What a fetch brought.
#[derive(Debug)]
pub(crate) struct FetchResponse<'a> {
    pub(crate) throttle_time_ms: i32,
    pub(crate) error: Option<ErrorCode>,
    pub(crate) partitions: Vec<FetchedPartition<'a>>,
}

/// What a fetch brought of one partition.
#[derive(Debug)]
pub(crate) struct FetchedPartition<'a> {
    pub(crate) topic: TopicRef<'a>,
    pub(crate) partition: i32,
    pub(crate) error: Option<ErrorCode>,
    pub(crate) end: LogEnd,
    pub(crate) aborted: Vec<AbortedTransaction>,
    pub(crate) preferred_read_replica: Option<i32>,
    pub(crate) records: &'a [u8],
    pub(crate) diverging: Option<Diverging>,
}

/// How a response names a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicRef<'a> {
    Name(&'a str),
    /// `None` for zeros, which no topic has.
    Id(Option<TopicId>),
}

/// The log does not have the records that were read: it was truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Diverging {
    /// The newest leader epoch up to that of the last record that was read.
    pub(crate) epoch: i32,
    /// Where the records of that epoch end.
    pub(crate) end_offset: i64,
}

/// Records of a producer from an offset on that are aborted, up to the control record that
/// ends the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AbortedTransaction {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
}

impl FetchResponse<'_> {
    /// Bytes of records.
    pub(crate) fn size(&self) -> usize {
        self.partitions.iter().map(|one| one.records.len()).sum()
    }
}

impl Request for FetchRequest<'_> {
    const API: ApiKey = ApiKey::Fetch;

    type Response<'a> = FetchResponse<'a>;

    fn newest(&self) -> i16 {
        let newest = *Self::API.support().versions.end();
        let all = self.positions.iter().all(|one| one.topic_id.is_some());
        if all { newest } else { newest.min(BY_ID - 1) }
    }

    fn encode(&self, version: i16, to: &mut Encoder<'_>) {
        to.i32(CONSUMER);
        to.i32(self.max_wait_ms);
        to.i32(self.min_bytes);
        to.i32(self.max_bytes);
        to.i8(READ_COMMITTED);
        to.i32(NO_SESSION.0);
        to.i32(NO_SESSION.1);
        let by_topic = || self.positions.chunk_by(|one, next| one.topic == next.topic);
        to.array_length(by_topic().count());
        for positions in by_topic() {
            if version >= BY_ID {
                to.uuid(positions[0].topic_id.map_or(0, TopicId::to_u128));
            } else {
                to.string(positions[0].topic);
            }
            to.array_length(positions.len());
            for position in positions {
                to.i32(position.partition);
                to.i32(position.leader_epoch);
                to.i64(position.offset);
                if version >= 12 {
                    to.i32(position.last_epoch);
                }
                to.i64(NOT_A_BROKER);
                to.i32(self.partition_max_bytes);
                to.tagged_fields();
            }
            to.tagged_fields();
        }
        to.array_length(0);
        to.string(self.rack);
        to.tagged_fields();
    }

    fn decode<'a>(version: i16, from: &mut Decoder<'a>) -> Result<FetchResponse<'a>> {
        let (throttle_time_ms, error) = (from.i32()?, ErrorCode::new(from.i16()?));
        from.i32()?;
        let mut partitions = Vec::new();
        for _ in 0..from.array_length()? {
            let topic = if version >= BY_ID {
                TopicRef::Id(TopicId::new(from.uuid()?))
            } else {
                TopicRef::Name(from.string()?)
            };
            for _ in 0..from.array_length()? {
                partitions.push(partition(topic, from)?);
            }
            from.tagged_fields()?;
        }
        Ok(FetchResponse {
            throttle_time_ms,
            error,
            partitions,
        })
    }
}

fn partition<'a>(topic: TopicRef<'a>, from: &mut Decoder<'a>) -> Result<FetchedPartition<'a>> {
    let (partition, error) = (from.i32()?, ErrorCode::new(from.i16()?));
    let (high_watermark, last_stable) = (from.i64()?, from.i64()?);
    from.i64()?;
    let aborted = from.array(|from| {
        Ok(AbortedTransaction {
            producer_id: from.i64()?,
            first_offset: {
                let first_offset = from.i64()?;
                from.tagged_fields()?;
                first_offset
            },
        })
    })?;
    let preferred = from.i32()?;
    let records = from.bytes()?;
    let diverging = match from.tagged_field(Some(DIVERGING_EPOCH))? {
        Some(mut from) => Some(Diverging {
            epoch: from.i32()?,
            end_offset: from.i64()?,
        }),
        None => None,
    };
    Ok(FetchedPartition {
        topic,
        partition,
        error,
        end: LogEnd {
            high_watermark,
            last_stable_offset: match last_stable {
                0.. => last_stable,
                _ => high_watermark,
            },
        },
        aborted,
        preferred_read_replica: (preferred >= 0).then_some(preferred),
        records,
        // Both are -1 in a response without one.
        diverging: diverging.filter(|diverging| diverging.end_offset >= 0),
    })
}

#[cfg(test)]
mod tests;
