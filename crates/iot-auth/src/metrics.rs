//! Metrics of authentication.

use std::sync::Arc;

use iot_service::Repeats;
use iot_service::metrics::Registrar;
use prometheus::{IntCounter, IntCounterVec};

use crate::refusal::{Reason, Refusal};

/// What is counted. Clones share the metrics.
#[derive(Debug, Clone)]
pub struct AuthMetrics {
    refusals: IntCounterVec,
    fetches: IntCounterVec,
    /// A limit for log lines by reason, in the order of [`Reason::ALL`].
    repeats: Arc<[Repeats; Reason::ALL.len()]>,
}

impl AuthMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        let metrics = Self {
            refusals: registrar.counters(
                "iot_auth_refusals_total",
                "Requests and tokens that were refused, by reason",
                &["reason"],
            )?,
            fetches: registrar.counters(
                "iot_auth_key_fetches_total",
                "Fetches of auth.jwt.jwks_url, by result",
                &["result"],
            )?,
            repeats: Arc::default(),
        };
        for reason in Reason::ALL {
            metrics.refusals.with_label_values(&[reason.label()]);
        }
        for result in ["ok", "failed"] {
            metrics.fetches.with_label_values(&[result]);
        }
        Ok(metrics)
    }

    /// Counts a refusal and logs it, once in a while for each reason. A client without a token
    /// is not logged: browsers first ask without one.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        let reason = refusal.reason();
        self.refusals.with_label_values(&[reason.label()]).inc();
        if refusal.is_missing() {
            return;
        }
        let index = Reason::ALL.iter().position(|other| *other == reason);
        let repeats = index.and_then(|index| self.repeats.get(index));
        if let Some(left_out) = repeats.and_then(Repeats::admit) {
            tracing::warn!(
                reason = reason.label(),
                left_out,
                "a client was refused: {refusal}"
            );
        }
    }

    /// Counts a fetch of keys.
    pub(crate) fn fetched(&self, is_ok: bool) {
        let result = if is_ok { "ok" } else { "failed" };
        self.fetch_counter(result).inc();
    }

    fn fetch_counter(&self, result: &str) -> IntCounter {
        self.fetches.with_label_values(&[result])
    }
}
