//! What the tests share: the stack, unique names, processes, and waiting.

mod kafka;
mod process;
mod redis;
mod stack;
mod system;

use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) use kafka::{
    Transaction, create_topic, create_topic_at, delete_before, produce, produce_at, produce_to,
    read_topic,
};
pub(crate) use process::{Process, Run, run};
pub(crate) use redis::RedisServer;
pub(crate) use stack::OwnStack;
pub(crate) use system::{Service, Way};

/// Long enough for a busy machine; what is waited for usually takes a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn stack(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: start the stack and take its variables first: scripts/stack up; eval \"$(scripts/stack env)\"")
    })
}

pub(crate) fn kafka_brokers() -> String {
    stack("KAFKA_BROKERS")
}

pub(crate) fn mqtt_url() -> String {
    stack("MQTT_URL")
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

/// A name that no other test, process or earlier run has: letters, digits, `-`.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_micros();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{what}-{:x}-{:x}-{count}",
        std::process::id(),
        micros & 0xffff_ffff
    )
}

/// A port where nothing listens at this moment.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Asks until the answer is `Ok`; panics with the last `Err` after [`PATIENCE`].
pub(crate) async fn wait_for<T, E: Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) if Instant::now() > deadline => {
                panic!("waited for {what}, last seen: {last:?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
