//! The command `iot-bridge`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use iot_bridge::BridgeConfig;
use iot_service::cli::{self, ConfigArgs, ConfigCommand};

/// Carries messages from MQTT to Kafka, and loses none.
#[derive(Parser)]
#[command(name = "iot-bridge", version)]
struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM or Ctrl-C (the default)
    Run,
    /// Show where messages of an MQTT topic would go
    Route {
        /// The MQTT topic
        topic: String,
    },
    #[command(flatten)]
    Config(ConfigCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let sources = cli.config.sources(Vec::new());
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => cli::run(sources, iot_bridge::run),
        Command::Route { topic } => iot_bridge::show_route(&sources, &topic),
        Command::Config(command) => command.execute::<BridgeConfig>(&sources),
    }
}
