//! `iot-ledger push-load`: the load for measuring a push server that speaks the Centrifuge client
//! protocol, the consumer or another one. `publish` sends the changes of a fleet, `watch` plays
//! many clients at a low cost for each delivery.

mod client;
mod fleet;
mod publish;
mod tally;
mod watch;
mod web_socket;

use std::process::ExitCode;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Publish the messages of a fleet to Kafka at a steady rate.
    Publish(publish::Args),
    /// Subscribe many clients and count what they receive.
    ///
    /// Each line on standard input asks for the figures since the line before, as a line of
    /// JSON. The end of the input ends the clients.
    Watch(watch::Args),
}

impl Command {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Publish(args) => publish::run(args).await,
            Self::Watch(args) => watch::run(args).await,
        }
    }
}
