//! Why a partition is not read: for now ([`FetchError`]), or not any further
//! ([`SubscriptionError`]).

use crate::connection::ConnectionError;
use crate::protocol::ErrorCode;
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
    /// There is no broker to ask.
    #[error("no broker is known")]
    NoBroker,
}

/// Why a subscription has no further records. It never recovers: to continue, subscribe again.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// The offset to be read is not in the log: deleted by retention, or beyond the end of a
    /// log that was truncated or created again.
    #[error("offset {0} is not in the log (OFFSET_OUT_OF_RANGE)")]
    OffsetOutOfRange(i64),
    /// The next batch can't be read. Nothing of it is skipped.
    #[error(transparent)]
    Corrupt(CorruptBatch),
    /// The last [`Fetcher`](crate::Fetcher) is gone, or an earlier call returned
    /// [`OffsetOutOfRange`](Self::OffsetOutOfRange).
    #[error("the subscription has ended")]
    Stopped,
}
