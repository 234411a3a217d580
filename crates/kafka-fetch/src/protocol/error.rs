//! Error codes (<https://kafka.apache.org/protocol#protocol_error_codes>): those that
//! brokers answer the requests of this crate with.

use std::fmt;

/// What helps against an error, by Kafka's table and its Java client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Nothing that a client can do: configuration or rights have to change.
    None,
    /// Trying again.
    Retry,
    /// Trying again with new metadata: the client asked the wrong broker
    /// (`InvalidMetadataException` in Java).
    NewMetadata,
}

macro_rules! error_codes {
    ($($code:literal $variant:ident $name:literal $remedy:ident $meaning:literal)*) => {
        /// An error code of a broker, other than 0.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = concat!("`", $name, "`: ", $meaning, ".")] $variant,)*
            /// A code that is not in this table.
            Other(i16),
        }

        impl ErrorCode {
            /// The error of a code; `None` for 0, which is no error.
            pub(crate) fn new(code: i16) -> Option<Self> {
                match code {
                    0 => None,
                    $($code => Some(Self::$variant),)*
                    other => Some(Self::Other(other)),
                }
            }

            /// The number in the protocol.
            #[must_use]
            pub fn code(self) -> i16 {
                match self {
                    $(Self::$variant => $code,)*
                    Self::Other(code) => code,
                }
            }

            fn remedy(self) -> Remedy {
                match self {
                    $(Self::$variant => Remedy::$remedy,)*
                    // It may be transient, so trying again is the safe choice.
                    Self::Other(_) => Remedy::Retry,
                }
            }
        }

        /// Kafka's name, and what it means.
        impl fmt::Display for ErrorCode {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str(concat!($name, " (", $meaning, ")")),)*
                    Self::Other(code) => write!(f, "error code {code}"),
                }
            }
        }
    };
}

error_codes! {
    -1 UnknownServerError "UNKNOWN_SERVER_ERROR" None "the broker failed unexpectedly"
    1 OffsetOutOfRange "OFFSET_OUT_OF_RANGE" None "the offset is not in the log"
    2 CorruptMessage "CORRUPT_MESSAGE" Retry "the broker found a corrupt record"
    3 UnknownTopicOrPartition "UNKNOWN_TOPIC_OR_PARTITION" NewMetadata "the broker does not host the partition, or may not show it"
    4 InvalidFetchSize "INVALID_FETCH_SIZE" None "the requested size is invalid"
    5 LeaderNotAvailable "LEADER_NOT_AVAILABLE" NewMetadata "the partition has no leader"
    6 NotLeaderOrFollower "NOT_LEADER_OR_FOLLOWER" NewMetadata "the broker has no replica of the partition to read"
    7 RequestTimedOut "REQUEST_TIMED_OUT" Retry "the broker did not finish in time"
    8 BrokerNotAvailable "BROKER_NOT_AVAILABLE" None "the broker is not available"
    9 ReplicaNotAvailable "REPLICA_NOT_AVAILABLE" NewMetadata "the replica is not available"
    17 InvalidTopicException "INVALID_TOPIC_EXCEPTION" None "the topic's name is invalid"
    29 TopicAuthorizationFailed "TOPIC_AUTHORIZATION_FAILED" None "not authorized to read the topic"
    31 ClusterAuthorizationFailed "CLUSTER_AUTHORIZATION_FAILED" None "not authorized to use the cluster"
    33 UnsupportedSaslMechanism "UNSUPPORTED_SASL_MECHANISM" None "the broker does not offer the SASL mechanism"
    34 IllegalSaslState "ILLEGAL_SASL_STATE" None "the request does not fit the state of the login"
    35 UnsupportedVersion "UNSUPPORTED_VERSION" None "the broker does not support the version of the request"
    42 InvalidRequest "INVALID_REQUEST" None "the broker can't handle the request"
    43 UnsupportedForMessageFormat "UNSUPPORTED_FOR_MESSAGE_FORMAT" None "the message format of the log is too old"
    56 KafkaStorageError "KAFKA_STORAGE_ERROR" NewMetadata "the broker's disk fails"
    58 SaslAuthenticationFailed "SASL_AUTHENTICATION_FAILED" None "the login is rejected"
    70 FetchSessionIdNotFound "FETCH_SESSION_ID_NOT_FOUND" Retry "the fetch session does not exist"
    71 InvalidFetchSessionEpoch "INVALID_FETCH_SESSION_EPOCH" Retry "the epoch of the fetch session is invalid"
    72 ListenerNotFound "LISTENER_NOT_FOUND" NewMetadata "the leader has no listener of this name"
    74 FencedLeaderEpoch "FENCED_LEADER_EPOCH" NewMetadata "the partition has a newer leader"
    75 UnknownLeaderEpoch "UNKNOWN_LEADER_EPOCH" Retry "the broker does not know of this leader yet"
    76 UnsupportedCompressionType "UNSUPPORTED_COMPRESSION_TYPE" None "the broker can't read the compression"
    78 OffsetNotAvailable "OFFSET_NOT_AVAILABLE" Retry "the new leader does not know yet what is committed"
    89 ThrottlingQuotaExceeded "THROTTLING_QUOTA_EXCEEDED" Retry "the quota is exceeded"
    100 UnknownTopicId "UNKNOWN_TOPIC_ID" NewMetadata "the broker does not host a topic of this id"
    103 InconsistentTopicId "INCONSISTENT_TOPIC_ID" NewMetadata "the topic has another id"
    109 OffsetMovedToTieredStorage "OFFSET_MOVED_TO_TIERED_STORAGE" None "the offset is in tiered storage only"
}

impl ErrorCode {
    /// Whether the same request can succeed later without somebody changing configuration
    /// or rights. The fetcher retries after every error: what is wrong may be repaired.
    #[must_use]
    pub fn is_retriable(self) -> bool {
        self.remedy() != Remedy::None
    }

    /// Whether the client has to look up the partition's leader again. The fetcher does so
    /// after every error, as a lookup costs little.
    #[must_use]
    pub fn needs_new_metadata(self) -> bool {
        self.remedy() == Remedy::NewMetadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_kafka_names_them() {
        assert_eq!(ErrorCode::new(0), None);
        for (code, name) in [
            (-1, "UNKNOWN_SERVER_ERROR ("),
            (1, "OFFSET_OUT_OF_RANGE ("),
            (6, "NOT_LEADER_OR_FOLLOWER ("),
            (74, "FENCED_LEADER_EPOCH ("),
            (12_345, "error code 12345"),
        ] {
            let error = ErrorCode::new(code).unwrap();
            assert_eq!(error.code(), code);
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    #[test]
    fn every_code_is_found_again() {
        let known = (-1..200).filter_map(ErrorCode::new);
        assert!(
            known
                .clone()
                .all(|error| ErrorCode::new(error.code()) == Some(error))
        );
        let named = known.filter(|error| !matches!(error, ErrorCode::Other(_)));
        assert_eq!(named.count(), 31);
    }

    #[test]
    fn remedies_are_those_of_kafkas_clients() {
        for (error, retriable, metadata) in [
            (ErrorCode::OffsetOutOfRange, false, false),
            (ErrorCode::TopicAuthorizationFailed, false, false),
            (ErrorCode::UnknownLeaderEpoch, true, false),
            (ErrorCode::NotLeaderOrFollower, true, true),
            (ErrorCode::UnknownTopicOrPartition, true, true),
            (ErrorCode::Other(200), true, false),
        ] {
            let found = (error.is_retriable(), error.needs_new_metadata());
            assert_eq!(found, (retriable, metadata), "{error}");
        }
    }
}
