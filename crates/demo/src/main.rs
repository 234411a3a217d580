//! The whole system, without installing anything: `cargo run --release -p demo`.

mod args;
mod brokers;
mod replicas;
mod services;
mod stage;

use std::process::ExitCode;

use args::Args;
use clap::Parser;
use iot_service::config::LogConfig;
use iot_service::logs::{self, LogFormat};

fn main() -> ExitCode {
    let args = Args::parse();
    logs::init(&LogConfig {
        level: args.log_level.clone(),
        format: LogFormat::Auto,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let result = runtime.block_on(stage::run(&args));
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
