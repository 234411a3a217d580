//! Binary `iot-consumer`.

use std::process::ExitCode;

use clap::Parser;
use iot_consumer::Cli;

// A message that is parsed, pushed and stored has a dozen allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().execute()
}
