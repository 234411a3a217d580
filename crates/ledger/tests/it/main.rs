//! The ledger, and the whole system, against a real Kafka and Mosquitto.
//!
//! Every test here needs `scripts/stack up` and runs the real binaries. Each
//! uses names and ports of its own, so that all of them, and the whole suite
//! twice, can run at once against one stack.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bridge;
mod damage;
mod end_to_end;
mod outage;
mod score;
mod secure;
mod sessions;
mod support;
mod termination;
mod verify_kafka;
mod verify_state;
mod verify_state_alerts;
mod verify_state_faults;
