//! What the services have in common as clients of Kafka: the settings of a connection, the
//! look-ups, the creation of topics, and what keeps a client alive.
//!
//! Two clients are in use. Those that write with idempotence or join a group go through
//! librdkafka (feature `rdkafka`); those that only need offsets and bulk go through rskafka
//! (feature `rskafka`). Section `kafka.security` means the same to both.

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
