//! What the services have in common as clients of Kafka: the settings of a connection, the
//! look-ups, the creation of topics, and the reconnection of a client that has lost every broker.
//!
//! Two third-party clients are in use. The bridge and the consumer use librdkafka (feature
//! `rdkafka`), also where they read partitions by offset without a group. The simulator writes and
//! the ledger reads with rskafka (feature `rskafka`); the ledger uses librdkafka for what rskafka
//! can't read, and as a bare client. The running consumer fetches records with our own
//! `kafka-fetch`. Section `kafka.security` means the same to all.

#[cfg(feature = "rdkafka")]
pub mod context;
pub mod errors;
#[cfg(feature = "rdkafka")]
pub mod headers;
#[cfg(feature = "rdkafka")]
pub mod librdkafka;
#[cfg(feature = "rdkafka")]
pub mod lookup;
#[cfg(feature = "rdkafka")]
pub mod rebootstrap;
#[cfg(feature = "rskafka")]
pub mod rskafka;
pub mod security;
#[cfg(feature = "rdkafka")]
pub mod topics;
