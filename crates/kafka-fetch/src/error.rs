//! Why a partition is not read: for now ([`FetchError`]), or not any further
//! ([`SubscriptionError`]).

use crate::connection::ConnectionError;
use crate::protocol::ErrorCode;
use crate::protocol::metadata::TopicId;
use crate::records::CorruptBatch;

/// Why a partition can't be fetched at the moment. The fetcher looks up the leader again and
/// retries, from the same offset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// A broker can't be used.
    #[error("broker {address}: {error}")]
    Broker {
        /// Its `host:port`.
        address: String,
        /// What is wrong with it.
        error: ConnectionError,
    },
    /// A broker answered for the partition with an error.
    #[error("{0}")]
    Partition(ErrorCode),
    /// The metadata lacks the topic.
    #[error("the broker does not know the topic")]
    NoTopic,
    /// The metadata has the topic, but not this partition.
    #[error("the topic has no such partition")]
    NoPartition,
    /// The partition has no leader.
    #[error("the partition has no leader")]
    NoLeader,
    /// The broker to fetch from is not in the metadata.
    #[error("broker {0}, which has the partition, is not available")]
    UnknownBroker(i32),
    /// The broker that names the leader has not heard of a newer one yet.
    #[error(
        "a broker names a leader of epoch {epoch}, but one of epoch {newest} is known: that broker \
         is behind"
    )]
    StaleLeader {
        /// The leader epoch that it names.
        epoch: i32,
        /// The newest leader epoch that is known.
        newest: i32,
    },
    /// The leader says that the log is not what it was, and no other broker confirms that it is
    /// the leader: it may be a former one.
    #[error(
        "no other broker confirms the leader, which says that the log was truncated or created \
         again"
    )]
    Unconfirmed,
    /// There is no broker to ask.
    #[error("no broker is known")]
    NoBroker,
}

/// Why a subscription has no further records. It never recovers: to continue, subscribe again.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// The offset to be read is not in the log: deleted by retention, or beyond the end of a
    /// log that was truncated or created again. [`Fetcher::log`](crate::Fetcher::log) tells
    /// which; this is the answer of a broker that may be a former leader.
    #[error("offset {0} is not in the log (OFFSET_OUT_OF_RANGE)")]
    OffsetOutOfRange(i64),
    /// The log no longer has the records that were read: it was truncated, by an unclean leader
    /// election. Needs Kafka 2.7.
    #[error(
        "the log was truncated: the records before offset {offset} were read from leader epoch \
         {read}, and the log's records of epoch {epoch} end at {end}"
    )]
    Truncated {
        /// The next offset to read.
        offset: i64,
        /// Leader epoch of the last record before it.
        read: i32,
        /// The newest leader epoch up to that one that the log has.
        epoch: i32,
        /// Where the records of that epoch end.
        end: i64,
    },
    /// The topic was deleted and created again.
    #[error("the topic was deleted and created again: its id was {expected} and is {found}")]
    AnotherLog {
        /// Id of the topic that was read.
        expected: TopicId,
        /// Id of the topic that has its name now.
        found: TopicId,
    },
    /// The next batch can't be read. Nothing of it is skipped.
    #[error(transparent)]
    Corrupt(CorruptBatch),
    /// The last [`Fetcher`](crate::Fetcher) is gone.
    #[error("the subscription has ended")]
    Stopped,
}
