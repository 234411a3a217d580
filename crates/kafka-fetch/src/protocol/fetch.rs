//! Fetch (key 1): the records of partitions from given offsets on.
//!
//! Version 11 (Kafka 2.3), which every broker since has. Version 12 is the first flexible
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
//! | - `topic` | STRING | 0 | name of the topic |
//! | - `partitions` | ARRAY | 0 | its partitions, each of them once in the whole request: |
//! | -- `partition` | INT32 | 0 | number of the partition |
//! | -- `current_leader_epoch` | INT32 | 9 | of the leader that the client knows; -1 for unknown |
//! | -- `fetch_offset` | INT64 | 0 | the offset to begin at |
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
//! | - `topic` | STRING | 0 | name of the topic |
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

use super::primitives::{Decoder, Encoder, Result};
use super::{ApiKey, ErrorCode, Request};
use crate::observer::LogEnd;

const CONSUMER: i32 = -1;
const READ_COMMITTED: i8 = 1;
const NO_SESSION: (i32, i32) = (0, -1);
const NOT_A_BROKER: i64 = -1;

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
    pub(crate) partition: i32,
    /// -1 for unknown.
    pub(crate) leader_epoch: i32,
    pub(crate) offset: i64,
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
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) error: Option<ErrorCode>,
    pub(crate) end: LogEnd,
    pub(crate) aborted: Vec<AbortedTransaction>,
    pub(crate) preferred_read_replica: Option<i32>,
    pub(crate) records: &'a [u8],
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

    fn encode(&self, _: i16, to: &mut Encoder<'_>) {
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
            to.string(positions[0].topic);
            to.array_length(positions.len());
            for position in positions {
                to.i32(position.partition);
                to.i32(position.leader_epoch);
                to.i64(position.offset);
                to.i64(NOT_A_BROKER);
                to.i32(self.partition_max_bytes);
            }
        }
        to.array_length(0);
        to.string(self.rack);
    }

    fn decode<'a>(_: i16, from: &mut Decoder<'a>) -> Result<FetchResponse<'a>> {
        let (throttle_time_ms, error) = (from.i32()?, ErrorCode::new(from.i16()?));
        from.i32()?;
        let mut partitions = Vec::new();
        for _ in 0..from.array_length()? {
            let topic = from.string()?;
            for _ in 0..from.array_length()? {
                partitions.push(partition(topic, from)?);
            }
        }
        Ok(FetchResponse {
            throttle_time_ms,
            error,
            partitions,
        })
    }
}

fn partition<'a>(topic: &'a str, from: &mut Decoder<'a>) -> Result<FetchedPartition<'a>> {
    let (partition, error) = (from.i32()?, ErrorCode::new(from.i16()?));
    let (high_watermark, last_stable) = (from.i64()?, from.i64()?);
    from.i64()?;
    let aborted = from.array(|from| {
        Ok(AbortedTransaction {
            producer_id: from.i64()?,
            first_offset: from.i64()?,
        })
    })?;
    let preferred = from.i32()?;
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
        records: from.bytes()?,
    })
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    fn response() -> Vec<u8> {
        response_with(15)
    }

    fn response_with(last_stable_offset: i64) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_i32(7);
        out.put_i16(0);
        out.put_i32(0);
        out.put_i32(1);
        out.put_slice(b"\0\x01t");
        out.put_i32(1);
        out.put_i32(3);
        out.put_i16(0);
        out.put_i64(20);
        out.put_i64(last_stable_offset);
        out.put_i64(0);
        out.put_i32(1);
        out.put_i64(9);
        out.put_i64(12);
        out.put_i32(-1);
        out.put_i32(2);
        out.put_slice(b"ab");
        out
    }

    fn decode(bytes: &[u8]) -> Result<FetchResponse<'_>> {
        FetchRequest::decode(11, &mut Decoder::new(bytes, false))
    }

    #[test]
    fn responses_are_decoded() {
        let response = response();
        let fetched = decode(&response).unwrap();
        assert_eq!((fetched.throttle_time_ms, fetched.error), (7, None));
        assert_eq!(fetched.size(), 2);
        let [one] = &fetched.partitions[..] else {
            panic!("{fetched:?}")
        };
        let found = (one.topic, one.partition, one.error);
        assert_eq!(found, ("t", 3, None));
        let end = LogEnd {
            high_watermark: 20,
            last_stable_offset: 15,
        };
        assert_eq!(one.end, end);
        assert_eq!(one.preferred_read_replica, None);
        let aborted = AbortedTransaction {
            producer_id: 9,
            first_offset: 12,
        };
        assert_eq!(one.aborted, [aborted]);
        assert_eq!(one.records, b"ab");
    }

    #[test]
    fn an_unknown_last_stable_offset_is_the_high_watermark() {
        let response = response_with(-1);
        let fetched = decode(&response).unwrap();
        assert_eq!(fetched.partitions[0].end.last_stable_offset, 20);
    }

    #[test]
    fn topics_are_named_once_for_their_partitions() {
        let at = |topic, partition| Position {
            topic,
            partition,
            leader_epoch: -1,
            offset: 5,
        };
        let request = FetchRequest {
            max_wait_ms: 1,
            min_bytes: 1,
            max_bytes: 1,
            partition_max_bytes: 1,
            rack: "",
            positions: &[at("a", 0), at("a", 1), at("b", 0)],
        };
        let mut out = Vec::new();
        request.encode(11, &mut Encoder::new(&mut out, false));
        // What precedes the topics, two names with a count each, three partitions, nothing
        // forgotten, no rack.
        assert_eq!(out.len(), 29 + 2 * (3 + 4) + 3 * 28 + 4 + 2);
    }

    proptest! {
        #[test]
        fn any_response_is_read_or_rejected(
            at in 0..response().len(), byte: u8, cut in 0..=response().len()
        ) {
            let mut bytes = response();
            bytes[at] = byte;
            bytes.truncate(cut);
            if let Ok(fetched) = decode(&bytes) {
                prop_assert!(fetched.partitions.iter().all(|one| one.records.len() <= 2));
            }
        }
    }
}
