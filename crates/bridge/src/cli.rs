//! The command line of `iot-bridge`.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use iot_service::cli::{self, ConfigArgs, ConfigCommand};

use crate::config::BridgeConfig;
use crate::show::show_route;
use crate::tools::{self, DeadLettersCommand, Preflight, TopicsCommand};

/// Bridge messages from MQTT to Kafka without loss.
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
    /// Write to Kafka what the MQTT broker has queued for this bridge, and end its
    /// session: before a replica is removed permanently
    Drain,
    /// Show the Kafka topic and key for an MQTT topic
    Route {
        /// The MQTT topic
        topic: String,
    },
    /// Create and list Kafka topics
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// List and replay messages that could not be delivered
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Check the MQTT brokers and Kafka against the configuration; exits with 1 if there is a problem
    Preflight(Preflight),
    /// Print completions for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: Shell,
    },
    #[command(flatten)]
    Config(ConfigCommand),
}

impl Cli {
    /// Runs the command.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        let sources = self.config.sources(Vec::new());
        match self.command.unwrap_or(Command::Run) {
            Command::Run => cli::run(sources, crate::run),
            Command::Drain => cli::run(sources, crate::drain),
            Command::Route { topic } => show_route(&sources, &topic),
            Command::Topics(command) => tools::run(&sources, command),
            Command::DeadLetters(command) => tools::run(&sources, command),
            Command::Preflight(command) => tools::run(&sources, command),
            Command::Completions { shell } => {
                let mut cli = Self::command();
                clap_complete::generate(shell, &mut cli, "iot-bridge", &mut std::io::stdout());
                ExitCode::SUCCESS
            }
            Command::Config(command) => command.execute::<BridgeConfig>(&sources),
        }
    }
}
