//! The command line.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use iot_service::cli::{self, ConfigArgs, ConfigCommand};

use crate::config::SimulatorConfig;

/// Simulate a fleet of devices that sends to Kafka, MQTT, standard output or a file.
#[derive(Debug, Parser)]
#[command(name = "iot-simulator", version, about)]
pub struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send messages (the default)
    Run,
    #[command(flatten)]
    Config(ConfigCommand),
}

/// Flags for common settings.
#[derive(Debug, Clone, Default, Args)]
struct RunArgs {
    /// Set the number of devices [fleet.devices]
    #[arg(long, value_name = "N", global = true)]
    devices: Option<String>,
    /// Set how often each device sends, such as 5s [fleet.interval]
    #[arg(long, value_name = "D", global = true)]
    interval: Option<String>,
    /// Set the messages per second of the whole fleet, or max [fleet.rate]
    #[arg(long, value_name = "N|max", global = true)]
    rate: Option<String>,
    /// Stop after this many messages [run.messages]
    #[arg(long, value_name = "N", global = true)]
    messages: Option<String>,
    /// Stop after this time [run.duration]
    #[arg(long, value_name = "D", global = true)]
    duration: Option<String>,
    /// Simulate only shard I of N of the fleet, I from 0 [fleet.shard]
    #[arg(long, value_name = "I/N", global = true)]
    shard: Option<String>,
    /// Send to kafka, mqtt, stdout, file or null [sink]
    #[arg(long, value_name = "SINK", global = true)]
    sink: Option<String>,
    /// Set the seed of all values [fleet.seed]
    #[arg(long, value_name = "N", global = true)]
    seed: Option<String>,
    /// Exit with 1 if this condition on the figures holds at the end, such as
    /// drops>0; separate several with commas [run.fail_when]
    #[arg(long, value_name = "CONDITION", global = true, value_parser = conditions)]
    fail_when: Option<String>,
    /// Print the figures as JSON at the end [run.json]
    #[arg(long, global = true)]
    json: bool,
}

impl RunArgs {
    fn flags(&self) -> impl Iterator<Item = (String, String)> {
        let json = self.json.then(|| "true".to_owned());
        let flags = [
            ("fleet.devices", &self.devices),
            ("fleet.interval", &self.interval),
            ("fleet.rate", &self.rate),
            ("run.messages", &self.messages),
            ("run.duration", &self.duration),
            ("fleet.shard", &self.shard),
            ("sink", &self.sink),
            ("fleet.seed", &self.seed),
            ("run.fail_when", &self.fail_when),
            ("run.json", &json),
        ];
        flags
            .map(|(path, value)| Some((path.to_owned(), value.clone()?)))
            .into_iter()
            .flatten()
    }
}

/// Refuses empty conditions; the settings refuse invalid ones. An empty entry of a list in a
/// variable is an unset part of it, but on the command line it is a mistake in a script that
/// relies on the exit code.
fn conditions(text: &str) -> Result<String, String> {
    if text.split(',').any(|condition| condition.trim().is_empty()) {
        return Err("a condition is empty".into());
    }
    Ok(text.to_owned())
}

impl Cli {
    /// Runs the command and returns the exit code of the process.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        let sources = self.config.sources(self.run.flags().collect());
        match self.command {
            Some(Command::Config(command)) => command.execute::<SimulatorConfig>(&sources),
            Some(Command::Run) | None => cli::run(sources, crate::run),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Vec<(String, String)> {
        let cli = Cli::try_parse_from(line.split_whitespace()).expect(line);
        cli.run.flags().collect()
    }

    #[test]
    fn run_is_the_default_command() {
        let line = "iot-simulator --devices 5 --rate max --sink mqtt";
        let with = "iot-simulator run --devices 5 --rate max --sink mqtt";
        assert_eq!(flags(line), flags(with));
        assert_eq!(flags(line)[0], ("fleet.devices".into(), "5".into()));
    }

    #[test]
    fn every_option_is_a_setting() {
        let line = "iot-simulator run --devices 1 --interval 1s --rate 5 --messages 9 \
                    --duration 1m --sink null --seed 3 --shard 1/3 --json \
                    --fail-when drops>0,errors>9";
        let (sources, count) = (flags(line), 10);
        assert_eq!(sources.len(), count);
        let sources = iot_service::config::Sources {
            flags: sources,
            ..Default::default()
        };
        let config: SimulatorConfig = iot_service::config::load(&sources).unwrap();
        assert_eq!((config.run.messages, config.fleet.seed), (9, 3));
        assert_eq!((config.run.fail_when.len(), config.run.json), (2, true));
    }

    #[test]
    fn empty_conditions_are_rejected() {
        for conditions in ["", " ", "drops>0,", ",drops>0", "drops>0,,errors>0"] {
            let line = ["iot-simulator", "run", "--fail-when", conditions];
            let error = Cli::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains("--fail-when <CONDITION>"), "{error}");
            assert!(error.contains("a condition is empty"), "{error}");
        }
    }

    #[test]
    fn the_config_commands_are_parsed() {
        for line in ["check-config", "config example", "check-config --devices 5"] {
            let line = format!("iot-simulator {line}");
            let cli = Cli::try_parse_from(line.split_whitespace()).expect(&line);
            assert!(matches!(cli.command, Some(Command::Config(_))));
        }
    }
}
