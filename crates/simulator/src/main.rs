//! Binary `iot-simulator`.

use std::process::ExitCode;

use clap::Parser;
use iot_simulator::args::Cli;

fn main() -> ExitCode {
    Cli::parse().execute()
}
