//! Reconnects a librdkafka client that has lost every broker.

use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Answers that were in flight when the last broker went down have arrived by then.
const SETTLED: Duration = Duration::from_secs(3);
/// Not more often, as librdkafka keeps every list that it gets.
const NOT_AGAIN: Duration = Duration::from_secs(30);

/// Gives a client its configured brokers again after all were down.
///
/// librdkafka re-bootstraps itself, but not always: a broker that shuts down may answer a
/// last request with an empty list of brokers. If that answer arrives just after the
/// connection was closed, versions from 2.12 on forget every broker, cancel the
/// re-bootstrap, and wait forever
/// (<https://github.com/confluentinc/librdkafka/issues/5301>).
#[derive(Debug)]
pub struct Rebootstrap {
    brokers: CString,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When all brokers were last down, until the client gets them again.
    all_down: Option<Instant>,
    /// When the client last got its brokers.
    given: Option<Instant>,
}

impl Rebootstrap {
    /// For a client of these brokers, `host:port` each.
    ///
    /// # Errors
    /// A name has a NUL in it.
    pub fn new(brokers: &[String]) -> anyhow::Result<Self> {
        Ok(Self {
            brokers: CString::new(brokers.join(",")).context("kafka.brokers")?,
            state: Mutex::default(),
        })
    }

    /// Takes every error of the client, from its context.
    pub fn note(&self, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.state().all_down = Some(Instant::now());
        }
    }

    /// Takes note that a client can't reach Kafka: for an admin client, whose errors rdkafka
    /// does not pass on.
    pub fn suspect(&self) {
        self.state().all_down.get_or_insert_with(Instant::now);
    }

    /// Gives the client its brokers again if it may need them. Call it about once a second;
    /// it costs nothing while brokers are up.
    #[allow(unsafe_code)]
    pub fn serve<C: ClientContext>(&self, client: &Client<C>) {
        if !self.state().is_due() {
            return;
        }
        // SAFETY: the client outlives the call; any thread may make it, and it copies the
        // string.
        let added = unsafe {
            rdkafka::bindings::rd_kafka_brokers_add(client.native_ptr(), self.brokers.as_ptr())
        };
        tracing::debug!(brokers = ?self.brokers, added, "all Kafka brokers were down; added the configured ones again");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_due(&mut self) -> bool {
        let settled = self.all_down.is_some_and(|at| at.elapsed() > SETTLED);
        let due = settled && self.given.is_none_or(|at| at.elapsed() > NOT_AGAIN);
        if due {
            (self.all_down, self.given) = (None, Some(Instant::now()));
        }
        due
    }
}

#[cfg(test)]
mod tests;
