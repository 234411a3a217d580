//! The command line of `iot-bridge`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use iot_service::cli::{self, ConfigArgs, ConfigCommand};

use crate::config::BridgeConfig;
use crate::show::show_route;

/// Carries messages from MQTT to Kafka, and loses none.
#[derive(Debug, Parser)]
#[command(name = "iot-bridge", version)]
pub struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM or Ctrl-C (the default)
    Run,
    /// Carry what the broker holds for this bridge to Kafka and end its MQTT
    /// session: before a replica goes for good
    Drain,
    /// Show where messages of an MQTT topic would go
    Route {
        /// The MQTT topic
        topic: String,
    },
    #[command(flatten)]
    Config(ConfigCommand),
}

impl Cli {
    /// Does what the command line asks for.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        let sources = self.config.sources(Vec::new());
        match self.command.unwrap_or(Command::Run) {
            Command::Run => cli::run(sources, crate::run),
            Command::Drain => cli::run(sources, crate::drain),
            Command::Route { topic } => show_route(&sources, &topic),
            Command::Config(command) => command.execute::<BridgeConfig>(&sources),
        }
    }
}
