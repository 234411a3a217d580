//! The command `iot-bridge`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    iot_bridge::Cli::parse().execute()
}
