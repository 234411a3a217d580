//! Names of Kafka's errors, as its own documentation and tools write them.

/// From code 0 on (<https://kafka.apache.org/protocol#protocol_error_codes>).
const NAMES: [&str; 121] = [
    "NONE",
    "OFFSET_OUT_OF_RANGE",
    "CORRUPT_MESSAGE",
    "UNKNOWN_TOPIC_OR_PARTITION",
    "INVALID_FETCH_SIZE",
    "LEADER_NOT_AVAILABLE",
    "NOT_LEADER_OR_FOLLOWER",
    "REQUEST_TIMED_OUT",
    "BROKER_NOT_AVAILABLE",
    "REPLICA_NOT_AVAILABLE",
    "MESSAGE_TOO_LARGE",
    "STALE_CONTROLLER_EPOCH",
    "OFFSET_METADATA_TOO_LARGE",
    "NETWORK_EXCEPTION",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "COORDINATOR_NOT_AVAILABLE",
    "NOT_COORDINATOR",
    "INVALID_TOPIC_EXCEPTION",
    "RECORD_LIST_TOO_LARGE",
    "NOT_ENOUGH_REPLICAS",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    "INVALID_REQUIRED_ACKS",
    "ILLEGAL_GENERATION",
    "INCONSISTENT_GROUP_PROTOCOL",
    "INVALID_GROUP_ID",
    "UNKNOWN_MEMBER_ID",
    "INVALID_SESSION_TIMEOUT",
    "REBALANCE_IN_PROGRESS",
    "INVALID_COMMIT_OFFSET_SIZE",
    "TOPIC_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED",
    "CLUSTER_AUTHORIZATION_FAILED",
    "INVALID_TIMESTAMP",
    "UNSUPPORTED_SASL_MECHANISM",
    "ILLEGAL_SASL_STATE",
    "UNSUPPORTED_VERSION",
    "TOPIC_ALREADY_EXISTS",
    "INVALID_PARTITIONS",
    "INVALID_REPLICATION_FACTOR",
    "INVALID_REPLICA_ASSIGNMENT",
    "INVALID_CONFIG",
    "NOT_CONTROLLER",
    "INVALID_REQUEST",
    "UNSUPPORTED_FOR_MESSAGE_FORMAT",
    "POLICY_VIOLATION",
    "OUT_OF_ORDER_SEQUENCE_NUMBER",
    "DUPLICATE_SEQUENCE_NUMBER",
    "INVALID_PRODUCER_EPOCH",
    "INVALID_TXN_STATE",
    "INVALID_PRODUCER_ID_MAPPING",
    "INVALID_TRANSACTION_TIMEOUT",
    "CONCURRENT_TRANSACTIONS",
    "TRANSACTION_COORDINATOR_FENCED",
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
    "SECURITY_DISABLED",
    "OPERATION_NOT_ATTEMPTED",
    "KAFKA_STORAGE_ERROR",
    "LOG_DIR_NOT_FOUND",
    "SASL_AUTHENTICATION_FAILED",
    "UNKNOWN_PRODUCER_ID",
    "REASSIGNMENT_IN_PROGRESS",
    "DELEGATION_TOKEN_AUTH_DISABLED",
    "DELEGATION_TOKEN_NOT_FOUND",
    "DELEGATION_TOKEN_OWNER_MISMATCH",
    "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED",
    "DELEGATION_TOKEN_AUTHORIZATION_FAILED",
    "DELEGATION_TOKEN_EXPIRED",
    "INVALID_PRINCIPAL_TYPE",
    "NON_EMPTY_GROUP",
    "GROUP_ID_NOT_FOUND",
    "FETCH_SESSION_ID_NOT_FOUND",
    "INVALID_FETCH_SESSION_EPOCH",
    "LISTENER_NOT_FOUND",
    "TOPIC_DELETION_DISABLED",
    "FENCED_LEADER_EPOCH",
    "UNKNOWN_LEADER_EPOCH",
    "UNSUPPORTED_COMPRESSION_TYPE",
    "STALE_BROKER_EPOCH",
    "OFFSET_NOT_AVAILABLE",
    "MEMBER_ID_REQUIRED",
    "PREFERRED_LEADER_NOT_AVAILABLE",
    "GROUP_MAX_SIZE_REACHED",
    "FENCED_INSTANCE_ID",
    "ELIGIBLE_LEADERS_NOT_AVAILABLE",
    "ELECTION_NOT_NEEDED",
    "NO_REASSIGNMENT_IN_PROGRESS",
    "GROUP_SUBSCRIBED_TO_TOPIC",
    "INVALID_RECORD",
    "UNSTABLE_OFFSET_COMMIT",
    "THROTTLING_QUOTA_EXCEEDED",
    "PRODUCER_FENCED",
    "RESOURCE_NOT_FOUND",
    "DUPLICATE_RESOURCE",
    "UNACCEPTABLE_CREDENTIAL",
    "INCONSISTENT_VOTER_SET",
    "INVALID_UPDATE_VERSION",
    "FEATURE_UPDATE_FAILED",
    "PRINCIPAL_DESERIALIZATION_FAILURE",
    "SNAPSHOT_NOT_FOUND",
    "POSITION_OUT_OF_RANGE",
    "UNKNOWN_TOPIC_ID",
    "DUPLICATE_BROKER_REGISTRATION",
    "BROKER_ID_NOT_REGISTERED",
    "INCONSISTENT_TOPIC_ID",
    "INCONSISTENT_CLUSTER_ID",
    "TRANSACTIONAL_ID_NOT_FOUND",
    "FETCH_SESSION_TOPIC_ID_ERROR",
    "INELIGIBLE_REPLICA",
    "NEW_LEADER_ELECTED",
    "OFFSET_MOVED_TO_TIERED_STORAGE",
    "FENCED_MEMBER_EPOCH",
    "UNRELEASED_INSTANCE_ID",
    "UNSUPPORTED_ASSIGNOR",
    "STALE_MEMBER_EPOCH",
    "MISMATCHED_ENDPOINT_TYPE",
    "UNSUPPORTED_ENDPOINT_TYPE",
    "UNKNOWN_CONTROLLER_ID",
    "UNKNOWN_SUBSCRIPTION_ID",
    "TELEMETRY_TOO_LARGE",
    "INVALID_REGISTRATION",
    "TRANSACTION_ABORTABLE",
];

/// The name of an error that a broker answers with, such as `UNKNOWN_TOPIC_OR_PARTITION`;
/// `None` for a code that is not in the protocol.
#[must_use]
pub fn name(code: i16) -> Option<&'static str> {
    match usize::try_from(code) {
        Ok(index) => NAMES.get(index).copied(),
        Err(_) => (code == -1).then_some("UNKNOWN_SERVER_ERROR"),
    }
}

#[cfg(feature = "rdkafka")]
pub use librdkafka::{Named, code};

#[cfg(feature = "rdkafka")]
mod librdkafka {
    use std::fmt;

    use rdkafka::error::{KafkaError, RDKafkaErrorCode};

    /// The code of an error, also of an admin request, for which
    /// [`KafkaError::rdkafka_error_code`] has none.
    #[must_use]
    pub fn code(error: &KafkaError) -> RDKafkaErrorCode {
        match error {
            KafkaError::AdminOp(code) => *code,
            error => error
                .rdkafka_error_code()
                .unwrap_or(RDKafkaErrorCode::Unknown),
        }
    }

    /// Prints an error of a broker by Kafka's name, and one of librdkafka itself, such as
    /// a broken connection, by librdkafka's description.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Named(pub RDKafkaErrorCode);

    impl fmt::Display for Named {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            // librdkafka keeps the protocol's codes; its own are negative.
            let name = i16::try_from(self.0 as i32).ok().and_then(super::name);
            match name {
                Some(name) => f.write_str(name),
                None => self.0.fmt(f),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_kafkas_names() {
        for (code, expected) in [
            (-1, Some("UNKNOWN_SERVER_ERROR")),
            (0, Some("NONE")),
            (3, Some("UNKNOWN_TOPIC_OR_PARTITION")),
            (44, Some("POLICY_VIOLATION")),
            (58, Some("SASL_AUTHENTICATION_FAILED")),
            (87, Some("INVALID_RECORD")),
            (100, Some("UNKNOWN_TOPIC_ID")),
            (120, Some("TRANSACTION_ABORTABLE")),
            (-2, None),
            (i16::MAX, None),
        ] {
            assert_eq!(name(code), expected, "{code}");
        }
    }

    #[cfg(feature = "rdkafka")]
    #[test]
    fn errors_of_librdkafka_are_described() {
        use rdkafka::error::{KafkaError, RDKafkaErrorCode};
        let named = |code| Named(code).to_string();
        assert_eq!(
            named(RDKafkaErrorCode::NotLeaderForPartition),
            "NOT_LEADER_OR_FOLLOWER"
        );
        let local = named(RDKafkaErrorCode::AllBrokersDown);
        assert!(local.starts_with("AllBrokersDown ("), "{local}");
        let refused = KafkaError::AdminOp(RDKafkaErrorCode::PolicyViolation);
        assert_eq!(code(&refused), RDKafkaErrorCode::PolicyViolation);
    }
}
