//! Metrics of dead letters.

use iot_service::metrics::Registrar;
use prometheus::IntCounter;

/// What is counted of dead letters. Clones share the metrics.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetterMetrics {
    pub(crate) written: IntCounter,
    pub(crate) partial: IntCounter,
    pub(crate) truncated: IntCounter,
    pub(crate) retries: IntCounter,
}

impl DeadLetterMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            written: registrar.counter(
                "iot_dead_letters_total",
                "Messages written to the dead-letter topic",
            )?,
            partial: registrar.counter(
                "iot_dead_letters_partial_total",
                "Dead letters of messages of which some readings were accepted",
            )?,
            truncated: registrar.counter(
                "iot_dead_letters_cut_total",
                "Dead letters that were truncated",
            )?,
            retries: registrar.counter(
                "iot_dead_letter_retries_total",
                "Failed attempts to write a dead letter",
            )?,
        })
    }
}
