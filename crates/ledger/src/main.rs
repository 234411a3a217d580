//! Sends numbered messages through the system and verifies what happened to each.

mod command;
mod committed;
mod connection;
mod consume;
mod histogram;
mod kafka;
mod log;
mod payload;
mod publish;
mod push_load;
mod reading;
mod score;
mod security;
mod subscribe;
mod verify;
mod verify_push;
mod verify_state;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let command = <command::Command as clap::Parser>::parse();
    command.run().await.unwrap_or_else(|error| {
        eprintln!("iot-ledger: {error:#}");
        ExitCode::FAILURE
    })
}
