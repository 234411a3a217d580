//! Requests and responses as bytes.

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
    assert_eq!(found, (TopicRef::Name("t"), 3, None));
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
    assert_eq!(one.diverging, None);
}

/// Version 13 with one partition, whose tagged fields are these.
fn by_id(tags: &[u8]) -> Vec<u8> {
    let mut out = b"\0\0\0\x07\0\0\0\0\0\0\x02".to_vec();
    out.put_u128(9);
    out.put_slice(b"\x02\0\0\0\x03\0\0");
    for offset in [20, 15, 0] {
        out.put_i64(offset);
    }
    // An aborted transaction, no other replica, no records.
    out.put_slice(b"\x02\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x0c\0\xff\xff\xff\xff\x01");
    out.put_slice(tags);
    out.put_slice(b"\0\0");
    out
}

#[test]
fn topics_are_named_by_id_and_truncated_logs_recognized_since_version_13() {
    let decode = |bytes: &[u8]| {
        let found = FetchRequest::decode(13, &mut Decoder::new(bytes, true)).unwrap();
        let one = &found.partitions[0];
        assert_eq!(one.topic, TopicRef::Id(TopicId::new(9)));
        assert_eq!((one.aborted.len(), one.records.len()), (1, 0));
        one.diverging
    };
    assert_eq!(decode(&by_id(b"\0")), None);
    // Tag 1, which is not read, after tag 0: epoch 4 ends at 18.
    let tags = b"\x02\0\x0d\0\0\0\x04\0\0\0\0\0\0\0\x12\0\x01\x01\0";
    let diverging = Diverging {
        epoch: 4,
        end_offset: 18,
    };
    assert_eq!(decode(&by_id(tags)), Some(diverging));
}

#[test]
fn a_topic_without_an_id_is_asked_for_by_name() {
    let newest = |ids: [Option<TopicId>; 2]| {
        let positions = ids.map(|topic_id| Position {
            topic_id,
            ..at("a", 0)
        });
        request(&positions).newest()
    };
    let id = TopicId::new(9);
    assert_eq!(newest([id, id]), 13);
    assert_eq!(newest([id, None]), 12);
}

#[test]
fn the_last_epoch_is_sent_since_version_12() {
    let positions = [Position {
        topic_id: TopicId::new(9),
        ..at("a", 0)
    }];
    let encoded = |version: i16| {
        let mut out = Vec::new();
        request(&positions).encode(version, &mut Encoder::new(&mut out, version >= 12));
        out
    };
    let (twelve, thirteen) = (encoded(12), encoded(13));
    let epochs = b"\0\0\0\x06\0\0\0\0\0\0\0\x05\0\0\0\x04\xff";
    for out in [&twelve, &thirteen] {
        assert_eq!(
            out.windows(epochs.len()).filter(|at| at == epochs).count(),
            1
        );
    }
    // An id of 16 bytes in place of a name of one.
    assert_eq!(thirteen.len(), twelve.len() + 16 - 2);
}

fn at(topic: &str, partition: i32) -> Position<'_> {
    Position {
        topic,
        topic_id: None,
        partition,
        leader_epoch: 6,
        offset: 5,
        last_epoch: 4,
    }
}

fn request<'r>(positions: &'r [Position<'r>]) -> FetchRequest<'r> {
    FetchRequest {
        max_wait_ms: 1,
        min_bytes: 1,
        max_bytes: 1,
        partition_max_bytes: 1,
        rack: "",
        positions,
    }
}

#[test]
fn an_unknown_last_stable_offset_is_the_high_watermark() {
    let response = response_with(-1);
    let fetched = decode(&response).unwrap();
    assert_eq!(fetched.partitions[0].end.last_stable_offset, 20);
}

#[test]
fn topics_are_named_once_for_their_partitions() {
    let positions = [at("a", 0), at("a", 1), at("b", 0)];
    let request = request(&positions);
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

    #[test]
    fn any_flexible_response_is_read_or_rejected(at in 0..100_usize, byte: u8, cut in 0..=100_usize) {
        let mut bytes = by_id(b"\x02\0\x0d\0\0\0\x04\0\0\0\0\0\0\0\x12\0\x01\x01\0");
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        bytes.truncate(cut);
        let _ = FetchRequest::decode(13, &mut Decoder::new(&bytes, true));
    }
}
