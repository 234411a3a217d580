//! Sends numbered messages through the system and proves what became of each.

mod connection;
mod histogram;
mod kafka;
mod payload;
mod publish;
mod security;
mod subscribe;
mod verify;
mod verify_state;

use std::process::ExitCode;

/// Sends numbered messages through the system and proves what became of each.
///
/// Exit codes: 0 all is well; 1 a message was not acknowledged, is lost or changed,
/// state is not what the log says, or a server is not reached; 2 bad arguments.
#[derive(Debug, clap::Parser)]
#[command(name = "iot-ledger", version)]
enum Command {
    /// Publish a run of messages over MQTT 5 with QoS 1.
    Publish(publish::Args),
    /// Subscribe with MQTT 5 and QoS 1, take messages and throw them away.
    Subscribe(subscribe::Args),
    /// Read Kafka and report what of a run was lost, doubled, reordered or changed.
    VerifyKafka(kafka::Args),
    /// Fold the log and compare what a consumer keeps in Redis with it, exactly.
    VerifyState(verify_state::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match <Command as clap::Parser>::parse() {
        Command::Publish(args) => publish::run(args).await,
        Command::Subscribe(args) => subscribe::run(args).await,
        Command::VerifyKafka(args) => kafka::run(args).await,
        Command::VerifyState(args) => verify_state::run(args).await,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("iot-ledger: {error:#}");
        ExitCode::FAILURE
    })
}
