//! What the services have in common as clients of Kafka: the settings of a connection, the
//! look-ups, the creation of topics, and the reconnection of a client that has lost every broker.
//!
//! Two third-party clients are in use. What writes with idempotence or joins a group uses
//! librdkafka (feature `rdkafka`); what writes in bulk without idempotence, or reads partitions
//! by offset, uses rskafka (feature `rskafka`). The consumer fetches records with our own
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
