//! Contexts of librdkafka clients: what happens to its log lines and errors.

use std::sync::Arc;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

use crate::rebootstrap::Rebootstrap;

/// Context of a client whose callers report its failures themselves: a tool, an admin
/// client, a short look-up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka reports an error");
    }
}

impl ConsumerContext for Quiet {}

/// Context of a client that lives as long as its service: quiet, and reconnects after it
/// has lost every broker. Clones share one state.
#[derive(Debug, Clone)]
pub struct Lasting(Arc<Rebootstrap>);

impl Lasting {
    /// For a client of these brokers, `host:port` each.
    ///
    /// # Errors
    /// A name has a NUL in it.
    pub fn new(brokers: &[String]) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Rebootstrap::new(brokers)?)))
    }

    /// Reconnects the client that has this context, or wraps it: see [`Rebootstrap::serve`].
    pub fn serve<C: ClientContext>(&self, client: &Client<C>) {
        self.0.serve(client);
    }
}

impl ClientContext for Lasting {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(&error);
        Quiet.error(error, reason);
    }
}

impl ConsumerContext for Lasting {}

/// Logs a line of librdkafka. It repeats connection errors at every attempt, which health
/// and metrics report once; so only what is worse than an error is shown by default.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "librdkafka");
        }
        _ => tracing::debug!(?level, facility, message, "librdkafka"),
    }
}

/// librdkafka's reason for an error without how long the attempt took and how often it
/// happened, so that the same reason stays the same text.
#[must_use]
pub fn without_times(reason: &str) -> &str {
    reason.split(" (after ").next().unwrap_or(reason).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_loses_only_its_times() {
        let reason = "b:1: SASL authentication error (after 3ms in state AUTH_REQ)";
        assert_eq!(without_times(reason), "b:1: SASL authentication error");
        assert_eq!(without_times("b:1 (of 3) failed"), "b:1 (of 3) failed");
    }
}
