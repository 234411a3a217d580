//! Binary `iot-consumer`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use iot_consumer::{ConsumerConfig, ReplayArgs, StateCommand};
use iot_service::cli::{self, ConfigArgs, ConfigCommand};

// A message that is parsed, pushed and stored has a dozen allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Reads devices' messages from Kafka, keeps their state, and streams it to browsers
#[derive(Parser)]
#[command(name = "iot-consumer", version)]
struct Args {
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
    /// Look at what the store holds, or begin anew
    #[command(subcommand)]
    State(StateCommand),
    #[command(flatten)]
    Config(ConfigCommand),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let sources = args.config.sources(Vec::new());
    match args.command {
        None | Some(Command::Run) => cli::run::<ConsumerConfig, _, _>(sources, iot_consumer::run),
        Some(Command::Replay(args)) => iot_consumer::replay(&args, &sources),
        Some(Command::State(command)) => command.execute(&sources),
        Some(Command::Config(command)) => command.execute::<ConsumerConfig>(&sources),
    }
}
