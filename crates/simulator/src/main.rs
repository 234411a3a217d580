//! Binary `iot-simulator`.

use std::process::ExitCode;

use clap::Parser;
use iot_simulator::args::Cli;

// The Kafka client makes five allocations per record, which mimalloc makes cheaper.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().execute()
}
