//! The whole system in one process: `cargo run --release -p demo`.

mod brokers;
mod services;
mod stage;

use std::process::ExitCode;

use clap::Parser;
use iot_service::config::LogConfig;
use iot_service::logs::{self, LogFormat};

/// Devices, an MQTT broker, the bridge, a Kafka stand-in, the consumer and its
/// page, all in one process. Half of the devices send through MQTT and the
/// bridge, the other half straight to Kafka.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
pub(crate) struct Args {
    /// Port of the page; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Port of the MQTT broker; without it 1883, or a free one if that is taken
    #[arg(long)]
    mqtt_port: Option<u16>,
    /// How many devices
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    devices: u32,
    /// Messages a second, all devices together
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=2_000))]
    rate: u32,
    /// What to log: error, warn, info, debug, or directives by module
    #[arg(long, default_value = "error,rumqttd=off")]
    log_level: String,
}

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
