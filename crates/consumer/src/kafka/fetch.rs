//! The consumer's side of [`kafka_fetch`]: its settings from section `kafka`, and what it
//! reports of a partition.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_kafka::security::{KafkaSecurity, SaslMechanism};
use kafka_fetch::{
    Answer, BoxError, Budget, FetchError, LogEnd, Observer, Sasl, Security, SecuritySource,
    Settings, SubscriptionError,
};
use prometheus::{IntCounter, IntGauge};

use super::KafkaMetrics;
use super::marks::MarkKeeper;
use super::progress::Progress;
use crate::config::{KafkaConfig, LimitsConfig};

/// Settings of the fetcher, taken from `kafka.properties` by the names of librdkafka. Changes are
/// `gather`ed for clients: records that came more often would only wait there.
///
/// # Errors
/// A property is not a number.
pub(crate) fn settings(
    kafka: &KafkaConfig,
    gather: Duration,
    budget: Budget,
) -> anyhow::Result<Settings> {
    let number = |names: &[&str], default: i32| {
        let mut given = names.iter().filter_map(|name| kafka.properties.get(*name));
        given.next().map_or(Ok(default), |value| {
            let path = || format!("kafka.properties.{}", names[0]);
            value.trim().parse().with_context(path)
        })
    };
    let text = |name: &str| kafka.properties.get(name).cloned();
    let wait = number(&["fetch.wait.max.ms"], 500)?;
    let partition = ["fetch.message.max.bytes", "max.partition.fetch.bytes"];
    let secured = kafka.security.clone();
    let defaults = Settings::new(&kafka.brokers);
    Ok(Settings {
        security: SecuritySource::new(move || security(&secured)),
        max_wait: Duration::from_millis(wait.unsigned_abs().into()),
        min_bytes: number(&["fetch.min.bytes"], 1)?,
        min_interval: defaults.min_interval.min(gather),
        max_bytes: number(&["fetch.max.bytes"], 8 << 20)?,
        max_partition_bytes: number(&partition, 512 << 10)?,
        rack: text("client.rack").unwrap_or_default(),
        client_id: text("client.id").unwrap_or_else(|| "iot-consumer".to_owned()),
        budget,
        ..defaults
    })
}

/// The bytes that may be in memory, reported by the metric.
pub(crate) fn budget(limits: &LimitsConfig, gauge: IntGauge) -> Budget {
    let report = move |held| gauge.set(i64::try_from(held).unwrap_or(i64::MAX));
    Budget::new(limits.buffers.bytes(), report)
}

/// Reads the files that `kafka.security` names.
fn security(kafka: &KafkaSecurity) -> Result<Security, BoxError> {
    let access = kafka.access().map_err(|error| format!("{error:#}"))?;
    let sasl = access.login.map(|login| Sasl {
        mechanism: match login.mechanism {
            SaslMechanism::Plain => kafka_fetch::SaslMechanism::Plain,
            SaslMechanism::ScramSha256 => kafka_fetch::SaslMechanism::ScramSha256,
            SaslMechanism::ScramSha512 => kafka_fetch::SaslMechanism::ScramSha512,
        },
        username: login.username,
        password: login.password.expose().to_owned(),
    });
    let tls = access.tls;
    Ok(Security { tls, sasl })
}

/// How long to wait before a partition that cannot be read is tried again. Another log is
/// recognised by loading the state again; a corrupt batch takes somebody to repair it.
pub(crate) fn retry_after(error: &SubscriptionError) -> Duration {
    Duration::from_secs(match error {
        SubscriptionError::OffsetOutOfRange(_)
        | SubscriptionError::Truncated { .. }
        | SubscriptionError::AnotherLog { .. } => 1,
        SubscriptionError::Corrupt(_) | SubscriptionError::Stopped => 10,
    })
}

/// Keeps what the fetcher reports of a partition, for lag, readiness and metrics.
#[derive(Debug)]
pub(crate) struct Observed {
    progress: Arc<Progress>,
    errors: IntCounter,
    marks: Arc<MarkKeeper>,
}

impl Observed {
    pub(crate) fn new(
        progress: &Arc<Progress>,
        marks: &Arc<MarkKeeper>,
        metrics: &KafkaMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            progress: progress.clone(),
            errors: metrics.fetch_errors.clone(),
            marks: marks.clone(),
        })
    }
}

impl Observer for Observed {
    fn end(&self, end: LogEnd) {
        self.progress.ends_at(end);
    }

    fn answered(&self, answer: &Answer) {
        self.marks.answered(answer);
    }

    fn succeeded(&self) {
        self.progress.set_read();
    }

    fn failed(&self, error: &FetchError) {
        self.errors.inc();
        self.progress.troubled(error.to_string());
    }

    fn paused(&self, paused: bool) {
        self.progress.set_full(paused);
    }

    fn buffered(&self, records: usize) {
        self.progress.buffered(records);
    }

    fn released(&self, records: usize) {
        self.progress.released(records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_have_the_meaning_that_librdkafka_gives_them() {
        let mut config = KafkaConfig::default();
        for (name, value) in [
            ("fetch.wait.max.ms", "10"),
            ("max.partition.fetch.bytes", "1000"),
            ("client.rack", "a"),
        ] {
            config.properties.insert(name.into(), value.into());
        }
        let settings = |config: &_, gather| {
            settings(
                config,
                Duration::from_millis(gather),
                Budget::new(1, |_| ()),
            )
        };
        let found = settings(&config, 50).unwrap();
        assert_eq!(found.max_wait, Duration::from_millis(10));
        assert_eq!((found.max_partition_bytes, found.min_bytes), (1000, 1));
        assert_eq!(found.rack, "a");
        assert_eq!(found.min_interval, Duration::from_millis(10));
        let faster = settings(&config, 1).unwrap();
        assert_eq!(faster.min_interval, Duration::from_millis(1));
        config
            .properties
            .insert("fetch.min.bytes".into(), "x".into());
        let error = settings(&config, 50).unwrap_err().to_string();
        assert_eq!(error, "kafka.properties.fetch.min.bytes");
    }
}
