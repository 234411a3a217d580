//! ListOffsets (key 2): where the logs of partitions start and end.
//!
//! Version 5 (Kafka 2.2). Version 6 is the first flexible one.
//!
//! Request:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `replica_id` | INT32 | 0 | -1: a consumer, not a broker |
//! | `isolation_level` | INT8 | 2 | 0: the end is the high watermark (`read_uncommitted`) |
//! | `topics` | ARRAY | 0 | the topics: |
//! | - `name` | STRING | 0 | name of the topic |
//! | - `partitions` | ARRAY | 0 | its partitions, each of them once in the whole request: |
//! | -- `partition_index` | INT32 | 0 | number of the partition |
//! | -- `current_leader_epoch` | INT32 | 4 | of the leader that the client knows; -1 for unknown |
//! | -- `timestamp` | INT64 | 0 | -2 for the start of the log, -1 for its end |
//!
//! Response:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `throttle_time_ms` | INT32 | 2 | how long the request was delayed for a quota; ignored |
//! | `topics` | ARRAY | 0 | the topics: |
//! | - `name` | STRING | 0 | name of the topic |
//! | - `partitions` | ARRAY | 0 | its partitions: |
//! | -- `partition_index` | INT32 | 0 | number of the partition |
//! | -- `error_code` | INT16 | 0 | 0 or why there is no offset |
//! | -- `timestamp` | INT64 | 1 | ignored: for questions by time |
//! | -- `offset` | INT64 | 1 | the offset |
//! | -- `leader_epoch` | INT32 | 4 | ignored: of the record at the offset |

use super::primitives::{Decoder, Encoder, Result};
use super::{ApiKey, ErrorCode, Request};

const CONSUMER: i32 = -1;
const READ_UNCOMMITTED: i8 = 0;

/// Which end of a log is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The first offset that is kept.
    Start = -2,
    /// The high watermark.
    End = -1,
}

/// Asks the leader of partitions for one end of their logs.
#[derive(Debug)]
pub(crate) struct ListOffsetsRequest<'r> {
    pub(crate) side: Side,
    /// Those of one topic one after the other.
    pub(crate) partitions: &'r [Asked<'r>],
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'r> {
    pub(crate) topic: &'r str,
    pub(crate) partition: i32,
    /// Of the current leader; -1 for unknown.
    pub(crate) leader_epoch: i32,
}

/// The answer for one partition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: std::result::Result<i64, ErrorCode>,
}

impl Request for ListOffsetsRequest<'_> {
    const API: ApiKey = ApiKey::ListOffsets;

    type Response<'a> = Vec<Found<'a>>;

    fn encode(&self, _: i16, to: &mut Encoder<'_>) {
        to.i32(CONSUMER);
        to.i8(READ_UNCOMMITTED);
        let by_topic = || {
            self.partitions
                .chunk_by(|one, next| one.topic == next.topic)
        };
        to.array_length(by_topic().count());
        for partitions in by_topic() {
            to.string(partitions[0].topic);
            to.array_length(partitions.len());
            for asked in partitions {
                to.i32(asked.partition);
                to.i32(asked.leader_epoch);
                to.i64(self.side as i64);
            }
        }
    }

    fn decode<'a>(_: i16, from: &mut Decoder<'a>) -> Result<Vec<Found<'a>>> {
        from.i32()?;
        let mut all = Vec::new();
        for _ in 0..from.array_length()? {
            let topic = from.string()?;
            for _ in 0..from.array_length()? {
                let (partition, error) = (from.i32()?, ErrorCode::new(from.i16()?));
                from.i64()?;
                let offset = from.i64()?;
                from.i32()?;
                all.push(Found {
                    topic,
                    partition,
                    offset: error.map_or(Ok(offset), Err),
                });
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_asked_for_with_the_leaders_epoch() {
        let asked = |topic, partition| Asked {
            topic,
            partition,
            leader_epoch: 7,
        };
        let request = ListOffsetsRequest {
            side: Side::Start,
            partitions: &[asked("a", 0), asked("a", 1), asked("b", 0)],
        };
        let mut out = Vec::new();
        request.encode(5, &mut Encoder::new(&mut out, false));
        assert_eq!(out.len(), 5 + 4 + 2 * (3 + 4) + 3 * 16);
        let first = b"\0\0\0\0\0\0\0\x07\xff\xff\xff\xff\xff\xff\xff\xfe";
        assert_eq!(&out[16..32], first);
    }

    #[test]
    fn responses_are_decoded() {
        let response = b"\0\0\0\0\0\0\0\x01\0\x01t\0\0\0\x02\
            \0\0\0\x03\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\x09\0\0\0\x05\
            \0\0\0\x04\0\x4a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x05";
        let found = ListOffsetsRequest::decode(5, &mut Decoder::new(response, false)).unwrap();
        let expected = [(3, Ok(9)), (4, Err(ErrorCode::FencedLeaderEpoch))];
        let expected = expected.map(|(partition, offset)| Found {
            topic: "t",
            partition,
            offset,
        });
        assert_eq!(found, expected);
        for cut in 0..response.len() {
            let cut = &response[..cut];
            assert!(ListOffsetsRequest::decode(5, &mut Decoder::new(cut, false)).is_err());
        }
    }
}
