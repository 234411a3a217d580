//! What the tests share: the ledger's binary, the services around it, and what they
//! write to Kafka and Redis.

mod kafka;
mod redis;
mod system;

use testkit::process::{Program, Run};

pub(crate) use kafka::{Transaction, create_topic, delete_before, produce, produce_at, produce_to};
pub(crate) use redis::Redis;
pub(crate) use system::{Service, Way};

/// Runs the ledger to its end.
pub(crate) async fn run(args: &[&str]) -> Run {
    let ledger = Program::new(env!("CARGO_BIN_EXE_iot-ledger"));
    ledger.args(args).run().await
}

/// A number from the environment, for longer runs than CI's.
pub(crate) fn setting(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => default,
    }
}
