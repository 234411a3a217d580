//! Checks of the MQTT brokers and of Kafka against the configuration: whether they
//! keep, accept and replicate what the bridge needs. They change nothing there.
//!
//! `iot-bridge preflight` prints them; the bridge logs their findings at its first connection to
//! each MQTT broker and to Kafka.

mod kafka;
mod mqtt;

use std::fmt;

use serde::Serialize;

pub(crate) use kafka::kafka_checks;
pub(crate) use mqtt::{mqtt_broker_checks, mqtt_checks};

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Nothing to do.
    Ok,
    /// It works now and can cause trouble later.
    Warning,
    /// Messages are lost or can't be delivered.
    Problem,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// The subject, such as `kafka: largest message`.
    pub(crate) name: &'static str,
    pub(crate) status: Status,
    /// What was found.
    pub(crate) found: String,
    /// What to change; empty if the status is [`Status::Ok`].
    pub(crate) advice: String,
}

impl Check {
    pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            advice: String::new(),
        }
    }

    pub(crate) fn warning(
        name: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            name,
            status: Status::Warning,
            found: found.into(),
            advice: advice.into(),
        }
    }

    pub(crate) fn problem(
        name: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Problem,
            ..Self::warning(name, found, advice)
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        })
    }
}

/// Logs a warning for each check that found something.
pub(crate) fn warn(checks: &[Check]) {
    for check in checks.iter().filter(|check| check.status != Status::Ok) {
        let Check {
            name,
            status,
            found,
            advice,
        } = check;
        tracing::warn!(check = name, %status, found, advice, "a preflight check failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of the check of that name.
    pub(super) fn status(checks: &[Check], name: &str) -> Status {
        let check = checks.iter().find(|check| check.name == name);
        let check = check.unwrap_or_else(|| panic!("no {name} in {checks:#?}"));
        assert_eq!(
            check.status == Status::Ok,
            check.advice.is_empty(),
            "{check:?}"
        );
        check.status
    }
}
