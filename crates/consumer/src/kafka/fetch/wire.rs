//! The few requests that fetching takes, in versions that brokers have had since
//! Kafka 2.3 (<https://kafka.apache.org/protocol>). Integers are big-endian; a text has
//! its length before it in 16 bits, bytes and arrays in 32, and -1 is null.

use bytes::{Buf, BufMut, TryGetError};

use super::records::Aborted;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Fetch,
    Metadata,
    SaslHandshake,
    Versions,
    SaslAuthenticate,
}

impl Api {
    /// Number in the protocol, and the version that is spoken.
    pub(super) fn number(self) -> (i16, i16) {
        match self {
            Self::Fetch => (1, 11),
            Self::Metadata => (3, 7),
            Self::SaslHandshake => (17, 1),
            Self::Versions => (18, 0),
            Self::SaslAuthenticate => (36, 0),
        }
    }
}

/// An answer is not what the protocol says.
#[derive(Debug, thiserror::Error)]
#[error("the broker's answer can't be read: {0}")]
pub(super) struct Malformed(&'static str);

impl From<TryGetError> for Malformed {
    fn from(_: TryGetError) -> Self {
        Self("it ends too early")
    }
}

type Result<T> = std::result::Result<T, Malformed>;

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_i16(text.len() as i16);
    out.extend_from_slice(text.as_bytes());
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, rest) = input
        .split_at_checked(length)
        .ok_or(Malformed("it ends too early"))?;
    *input = rest;
    Ok(taken)
}

fn text<'a>(input: &mut &'a [u8]) -> Result<Option<&'a str>> {
    let length = input.try_get_i16()?;
    let Ok(length) = usize::try_from(length) else {
        return Ok(None);
    };
    let bytes = take(input, length)?;
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a text is not UTF-8"))?;
    Ok(Some(text))
}

fn bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = input.try_get_i32()?;
    take(input, usize::try_from(length).unwrap_or(0))
}

fn each<T>(input: &mut &[u8], mut read: impl FnMut(&mut &[u8]) -> Result<T>) -> Result<Vec<T>> {
    let count = input.try_get_i32()?;
    (0..count).map(|_| read(input)).collect()
}

/// A request up to its body; its length, the first four bytes, is filled in last.
pub(super) fn begin(api: Api, correlation: i32, client_id: &str, out: &mut Vec<u8>) {
    let (key, version) = api.number();
    out.clear();
    out.put_i32(0);
    out.put_i16(key);
    out.put_i16(version);
    out.put_i32(correlation);
    put_text(out, client_id);
}

/// Ends a request.
pub(super) fn end(out: &mut [u8]) {
    let length = out.len() as i32 - 4;
    out[..4].copy_from_slice(&length.to_be_bytes());
}

/// Whether a broker that answered this speaks our version.
pub(super) fn is_spoken(mut answer: &[u8], api: Api) -> Result<bool> {
    let input = &mut answer;
    let (wanted, version) = api.number();
    if input.try_get_i16()? != 0 {
        return Ok(false);
    }
    let ranges = each(input, |input| {
        let key = input.try_get_i16()?;
        Ok((key, input.try_get_i16()?..=input.try_get_i16()?))
    })?;
    let spoken = |(key, range): &(i16, std::ops::RangeInclusive<i16>)| {
        *key == wanted && range.contains(&version)
    };
    Ok(ranges.iter().any(spoken))
}

/// What the broker says to a mechanism: the ones that it has, if not this one.
pub(super) fn handshake(mut answer: &[u8]) -> Result<std::result::Result<(), String>> {
    let input = &mut answer;
    let error = input.try_get_i16()?;
    let has = each(input, |input| {
        Ok(text(input)?.unwrap_or_default().to_owned())
    })?;
    Ok(match error {
        0 => Ok(()),
        _ => Err(has.join(", ")),
    })
}

/// The broker's part of a login, or why it refuses.
pub(super) fn authenticated(mut answer: &[u8]) -> Result<std::result::Result<&[u8], String>> {
    let input = &mut answer;
    let error = input.try_get_i16()?;
    let reason = text(input)?;
    let part = bytes(input)?;
    Ok(match error {
        0 => Ok(part),
        error => Err(reason.map_or_else(|| name(error), str::to_owned)),
    })
}

/// Asks who leads the partitions of topics, without making Kafka create them.
pub(super) fn put_metadata(topics: &[&str], out: &mut Vec<u8>) {
    out.put_i32(topics.len() as i32);
    for topic in topics {
        put_text(out, topic);
    }
    out.put_u8(0);
}

/// Brokers and leaders.
#[derive(Debug)]
pub(super) struct Metadata {
    /// Number and `host:port`.
    pub(super) brokers: Vec<(i32, String)>,
    pub(super) topics: Vec<TopicMetadata>,
}

/// Who leads the partitions of a topic.
#[derive(Debug)]
pub(super) struct TopicMetadata {
    pub(super) error: i16,
    pub(super) name: String,
    pub(super) partitions: Vec<PartitionMetadata>,
}

/// Who leads a partition.
#[derive(Debug)]
pub(super) struct PartitionMetadata {
    pub(super) partition: i32,
    /// -1 if it has none.
    pub(super) leader: i32,
    pub(super) epoch: i32,
}

pub(super) fn metadata(mut answer: &[u8]) -> Result<Metadata> {
    let input = &mut answer;
    input.try_get_i32()?;
    let brokers = each(input, |input| {
        let number = input.try_get_i32()?;
        let host = text(input)?.unwrap_or_default().to_owned();
        let port = input.try_get_i32()?;
        text(input)?;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        Ok((number, format!("{host}:{port}")))
    })?;
    text(input)?;
    input.try_get_i32()?;
    let topics = each(input, |input| {
        let error = input.try_get_i16()?;
        let name = text(input)?.unwrap_or_default().to_owned();
        input.try_get_u8()?;
        let partitions = each(input, partition)?;
        Ok(TopicMetadata {
            error,
            name,
            partitions,
        })
    })?;
    Ok(Metadata { brokers, topics })
}

fn partition(input: &mut &[u8]) -> Result<PartitionMetadata> {
    // Says of the leader what its number does, or is about replicas.
    input.try_get_i16()?;
    let found = PartitionMetadata {
        partition: input.try_get_i32()?,
        leader: input.try_get_i32()?,
        epoch: input.try_get_i32()?,
    };
    for _ in ["replicas", "in sync", "offline"] {
        each(input, |input| Ok(input.try_get_i32()?))?;
    }
    Ok(found)
}

/// What is wanted of the partitions of a fetch.
#[derive(Debug)]
pub(super) struct Fetch<'a> {
    /// How long the broker may wait for the fewest bytes, milliseconds.
    pub(super) max_wait: i32,
    pub(super) min_bytes: i32,
    pub(super) max_bytes: i32,
    /// Of one partition.
    pub(super) partition_bytes: i32,
    pub(super) rack: &'a str,
}

/// From where a partition is wanted.
#[derive(Debug)]
pub(super) struct Position<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    /// Of the leader that it is asked of; -1 for any.
    pub(super) epoch: i32,
    pub(super) offset: i64,
}

impl Fetch<'_> {
    /// Of committed records only, without a session.
    pub(super) fn put(&self, positions: &[Position<'_>], out: &mut Vec<u8>) {
        const CONSUMER: i32 = -1;
        const READ_COMMITTED: i8 = 1;
        out.put_i32(CONSUMER);
        out.put_i32(self.max_wait);
        out.put_i32(self.min_bytes);
        out.put_i32(self.max_bytes);
        out.put_i8(READ_COMMITTED);
        out.put_i32(0);
        out.put_i32(-1);
        let by_topic = || positions.chunk_by(|one, next| one.topic == next.topic);
        out.put_i32(by_topic().count() as i32);
        for positions in by_topic() {
            put_text(out, positions[0].topic);
            out.put_i32(positions.len() as i32);
            for position in positions {
                out.put_i32(position.partition);
                out.put_i32(position.epoch);
                out.put_i64(position.offset);
                out.put_i64(-1);
                out.put_i32(self.partition_bytes);
            }
        }
        out.put_i32(0);
        put_text(out, self.rack);
    }
}

/// What a fetch brought.
#[derive(Debug)]
pub(super) struct Fetched<'a> {
    /// How long to ask nothing, milliseconds.
    pub(super) throttle: i32,
    pub(super) error: i16,
    pub(super) partitions: Vec<FetchedPartition<'a>>,
}

/// What a fetch brought of one partition.
#[derive(Debug)]
pub(super) struct FetchedPartition<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) error: i16,
    /// Up to where records are committed.
    pub(super) end: i64,
    pub(super) aborted: Vec<Aborted>,
    /// The broker to ask rather than this one.
    pub(super) preferred: Option<i32>,
    /// Batches as they are in the log; the last may be cut.
    pub(super) records: &'a [u8],
}

pub(super) fn fetched(mut answer: &[u8]) -> Result<Fetched<'_>> {
    let input = &mut answer;
    let (throttle, error) = (input.try_get_i32()?, input.try_get_i16()?);
    input.try_get_i32()?;
    let mut partitions = Vec::new();
    for _ in 0..input.try_get_i32()? {
        let topic = text(input)?.unwrap_or_default();
        for _ in 0..input.try_get_i32()? {
            partitions.push(fetched_partition(topic, input)?);
        }
    }
    Ok(Fetched {
        throttle,
        error,
        partitions,
    })
}

fn fetched_partition<'a>(topic: &'a str, input: &mut &'a [u8]) -> Result<FetchedPartition<'a>> {
    let (partition, error) = (input.try_get_i32()?, input.try_get_i16()?);
    let (high, stable) = (input.try_get_i64()?, input.try_get_i64()?);
    input.try_get_i64()?;
    let aborted = each(input, |input| {
        Ok(Aborted {
            producer: input.try_get_i64()?,
            first: input.try_get_i64()?,
        })
    })?;
    let preferred = input.try_get_i32()?;
    Ok(FetchedPartition {
        topic,
        partition,
        error,
        end: if stable < 0 { high } else { stable },
        aborted,
        preferred: (preferred >= 0).then_some(preferred),
        records: bytes(input)?,
    })
}

/// The offset is not in the log.
pub(super) const OUT_OF_RANGE: i16 = 1;

/// What an error is called (<https://kafka.apache.org/protocol#protocol_error_codes>).
pub(super) fn name(error: i16) -> String {
    let name = match error {
        1 => "the offset is not in the log",
        2 => "the broker finds the record corrupt",
        3 => "no such topic or partition",
        5 => "the partition has no leader",
        6 => "the broker does not lead the partition any more",
        9 => "the replica is not available",
        29 => "not authorised to read the topic",
        31 => "not authorised",
        33 => "the broker does not have this SASL mechanism",
        35 => "the broker does not speak this version of the protocol",
        56 => "the broker's disk fails",
        58 => "the login is refused",
        74 | 75 => "the partition has another leader",
        78 => "the broker does not know yet what is committed",
        other => return format!("Kafka's error {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer() -> Vec<u8> {
        let mut out = Vec::new();
        out.put_i32(7);
        out.put_i16(0);
        out.put_i32(0);
        out.put_i32(1);
        put_text(&mut out, "t");
        out.put_i32(1);
        out.put_i32(3);
        out.put_i16(0);
        out.put_i64(20);
        out.put_i64(15);
        out.put_i64(0);
        out.put_i32(1);
        out.put_i64(9);
        out.put_i64(12);
        out.put_i32(-1);
        out.put_i32(2);
        out.extend_from_slice(b"ab");
        out
    }

    #[test]
    fn a_fetch_is_read() {
        let answer = answer();
        let fetched = fetched(&answer).unwrap();
        assert_eq!((fetched.throttle, fetched.error), (7, 0));
        let [one] = &fetched.partitions[..] else {
            panic!("{fetched:?}")
        };
        let what = (one.topic, one.partition, one.error, one.end, one.preferred);
        assert_eq!(what, ("t", 3, 0, 15, None));
        assert_eq!((one.aborted[0].producer, one.aborted[0].first), (9, 12));
        assert_eq!(one.records, b"ab");
    }

    #[test]
    fn a_topic_is_named_once_for_its_partitions() {
        let fetch = Fetch {
            max_wait: 1,
            min_bytes: 1,
            max_bytes: 1,
            partition_bytes: 1,
            rack: "",
        };
        let at = |topic, partition| Position {
            topic,
            partition,
            epoch: -1,
            offset: 5,
        };
        let mut out = Vec::new();
        fetch.put(&[at("a", 0), at("a", 1), at("b", 0)], &mut out);
        // Head, two names with a count each, three partitions, nothing forgotten, no rack.
        assert_eq!(out.len(), 29 + 2 * (3 + 4) + 3 * 28 + 4 + 2);
    }

    proptest! {
        #[test]
        fn nothing_that_a_broker_sends_is_trusted(
            at in 0..answer().len(), byte: u8, cut in 0..=answer().len()
        ) {
            let mut bytes = answer();
            bytes[at] = byte;
            bytes.truncate(cut);
            if let Ok(fetched) = fetched(&bytes) {
                prop_assert!(fetched.partitions.iter().all(|one| one.records.len() <= 2));
            }
            let _ = (metadata(&bytes), handshake(&bytes), authenticated(&bytes));
            let _ = is_spoken(&bytes, Api::Fetch);
        }
    }
}
