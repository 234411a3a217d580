//! Sends numbered messages through the system and proves what became of each.

mod connection;
mod histogram;
mod kafka;
mod payload;
mod publish;
mod security;
mod verify;

use std::process::ExitCode;

use clap::Parser;

/// Sends numbered messages through the system and proves what became of each.
///
/// Exit codes: 0 all is well; 1 a message was not acknowledged, or is lost or
/// changed, or a broker could not be reached; 2 bad arguments.
#[derive(Debug, Parser)]
#[command(name = "iot-ledger", version)]
enum Command {
    /// Publish a run of messages over MQTT 5 with QoS 1.
    Publish(publish::Args),
    /// Read Kafka and report what of a run was lost, doubled, reordered or changed.
    VerifyKafka(kafka::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Publish(args) => publish::run(args).await,
        Command::VerifyKafka(args) => kafka::run(args).await,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("iot-ledger: {error:#}");
        ExitCode::FAILURE
    })
}
