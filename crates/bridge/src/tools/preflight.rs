//! `iot-bridge preflight`: checks the MQTT brokers and Kafka, and prints for each
//! finding what to change.

use std::io::{self, Write};

use clap::Args;
use tokio::runtime::Runtime;

use super::{Outcome, Tool};
use crate::config::BridgeConfig;
use crate::creator;
use crate::preflight::{Check, Status, kafka_checks, mqtt_broker_checks};

#[derive(Debug, Args)]
pub(crate) struct Preflight {
    /// One JSON object a line
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
    let (mqtt, kafka) = tokio::join!(
        mqtt_broker_checks(&config.mqtt),
        kafka_checks(&admin, config)
    );
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

    #[test]
    fn the_table_says_what_to_change_and_counts() {
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
