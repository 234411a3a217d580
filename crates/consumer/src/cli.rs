//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use iot_service::cli::{self, ConfigArgs, ConfigCommand};

use crate::{ConsumerConfig, ReplayArgs, StateCommand, TokenCommand};

/// Reads devices' messages from Kafka, keeps their state, and streams it to browsers
#[derive(Parser)]
#[command(name = "iot-consumer", version)]
pub struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service (the default)
    Run,
    /// Read a part of the log again, to look at it or into another topic
    Replay(ReplayArgs),
    /// Inspect the stored state, or reset it
    #[command(subcommand)]
    State(StateCommand),
    /// Make tokens for clients
    #[command(subcommand)]
    Token(TokenCommand),
    #[command(flatten)]
    Config(ConfigCommand),
}

impl Cli {
    /// Does what was asked for.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        let sources = self.config.sources(Vec::new());
        match self.command {
            None | Some(Command::Run) => cli::run::<ConsumerConfig, _, _>(sources, crate::run),
            Some(Command::Replay(args)) => crate::replay(&args, &sources),
            Some(Command::State(command)) => command.execute(&sources),
            Some(Command::Token(command)) => command.execute(),
            Some(Command::Config(command)) => command.execute::<ConsumerConfig>(&sources),
        }
    }
}
