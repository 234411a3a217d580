//! The command line.

use clap::{Parser, Subcommand};

/// Run devices, an MQTT broker, the bridge, a mock Kafka cluster, and three replicas of the
/// consumer with the page, without installing anything. Half of the devices send through MQTT and
/// the bridge, the other half directly to Kafka.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
pub(crate) struct Args {
    /// Set the port of the page; 0 chooses a free one
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// Set the port of the MQTT broker; by default 1883, or a free one if that is in use
    #[arg(long)]
    pub(crate) mqtt_port: Option<u16>,
    /// Set the number of devices
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub(crate) devices: u32,
    /// Set the number of messages per second, of all devices together
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=2_000))]
    pub(crate) rate: u32,
    /// Set the number of replicas of the consumer
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub(crate) replicas: u8,
    /// Set the log level: error, warn, info, debug, or directives by module
    #[arg(
        long,
        default_value = "error,rumqttd=off",
        value_parser = iot_service::logs::level,
        global = true
    )]
    pub(crate) log_level: String,
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
}

/// What the demo starts as processes of their own.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Part {
    /// One replica of the consumer, until standard input ends
    #[command(hide = true)]
    Replica {
        /// Address of the mock Kafka cluster
        #[arg(long)]
        kafka: String,
    },
}
