//! What the tests of all crates share.
//!
//! | module | for |
//! |---|---|
//! | [`wait`] | waiting for a condition, with a deadline and a message that names it |
//! | [`process`] | a binary as a child process: its output, its signals, its exit status |
//! | [`port`] | ports where nothing listens |
//! | [`http`] | a service's `/metrics` and `/readyz` |
//! | [`stack`] | the real Kafka, Mosquitto and Redis of `scripts/stack`, shared or the test's own |
//! | [`kafka`] | a mock cluster, topics, records written and read |
//! | [`redis`] | Redis servers and sentinels of the test's own |
//! | [`mqtt_broker`] | an MQTT broker that does what the test says |
//!
//! Everything here panics where it fails, as a test does: there are no errors to
//! handle. What only one crate needs stays in that crate's tests.
#![allow(clippy::unwrap_used, reason = "a helper that fails ends its test")]

pub mod http;
pub mod kafka;
pub mod mqtt_broker;
pub mod port;
pub mod process;
pub mod redis;
pub mod stack;
pub mod wait;

pub use wait::{DEADLINE, in_time, wait_for, wait_for_sync};
