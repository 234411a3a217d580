//! Binary `iot-simulator`.

use std::process::ExitCode;

use clap::Parser;
use iot_simulator::args::Cli;

// A record has five allocations in the Kafka client.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().execute()
}
