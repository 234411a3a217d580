//! `iot-bridge preflight`: checks the MQTT brokers and Kafka against the settings, with
//! advice for each problem. A bridge that starts logs the same as warnings.

mod kafka;
mod mqtt;

use std::fmt;
use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::{Outcome, Tool};
use crate::config::BridgeConfig;
use crate::creator;

pub(crate) use kafka::kafka_checks;
pub(crate) use mqtt::mqtt_checks;

/// Logs every warning and problem.
pub(crate) fn warn(checks: &[Check]) {
    for check in checks.iter().filter(|check| check.status != Status::Ok) {
        let Check {
            name,
            found,
            advice,
            ..
        } = check;
        tracing::warn!(check = name, found, advice, "preflight");
    }
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Ok,
    /// It works now, with a risk.
    Warning,
    /// Messages are lost or do not arrive.
    Problem,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// Its name, such as `kafka: largest message`.
    pub(crate) name: &'static str,
    pub(crate) status: Status,
    /// What was found.
    pub(crate) found: String,
    /// What to change; empty if the status is ok.
    pub(crate) advice: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            advice: String::new(),
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Warning,
            found: found.into(),
            advice: advice.into(),
        }
    }

    fn problem(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
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

#[derive(Debug, Args)]
pub(crate) struct Preflight {
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[expect(private_interfaces, reason = "as in the trait")]
impl Tool for Preflight {
    fn run(self, config: &BridgeConfig, runtime: &Runtime) -> anyhow::Result<Outcome> {
        let checks = runtime.block_on(checks(config))?;
        let mut out = io::stdout().lock();
        if self.json {
            for check in &checks {
                serde_json::to_writer(&mut out, check).map_err(io::Error::from)?;
                writeln!(out)?;
            }
        } else {
            table(&mut out, &checks)?;
        }
        let problem = |check: &Check| check.status == Status::Problem;
        Ok(Outcome::when(!checks.iter().any(problem)))
    }
}

async fn checks(config: &BridgeConfig) -> anyhow::Result<Vec<Check>> {
    let admin = creator::admin(&config.kafka)?;
    let (mqtt, kafka) = tokio::join!(mqtt::ask(&config.mqtt), kafka_checks(&admin, config));
    Ok(mqtt.into_iter().chain(kafka).collect())
}

fn table(out: &mut impl Write, checks: &[Check]) -> io::Result<()> {
    let width = checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    for Check {
        name,
        status,
        found,
        advice,
    } in checks
    {
        writeln!(out, "{status:7}  {name:width$}  {found}")?;
        if !advice.is_empty() {
            writeln!(out, "{:7}  {:width$}  -> {advice}", "", "")?;
        }
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    writeln!(
        out,
        "problems: {}, warnings: {}",
        count(Status::Problem),
        count(Status::Warning)
    )
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

    #[test]
    fn the_table_has_advice_and_counts() {
        let checks = [
            Check::ok("kafka: brokers", "1"),
            Check::problem("mqtt: session", "not kept", "allow it"),
        ];
        let mut out = Vec::new();
        table(&mut out, &checks).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ok       kafka: brokers  1\n\
             PROBLEM  mqtt: session   not kept\n\
             \x20                        -> allow it\n\
             problems: 1, warnings: 0\n"
        );
    }
}
