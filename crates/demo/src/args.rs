//! What a visitor may choose.

use clap::Parser;

/// Devices, an MQTT broker, the bridge, a Kafka stand-in, the consumer and its
/// page, all in one process. Half of the devices send through MQTT and the
/// bridge, the other half straight to Kafka.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
pub(crate) struct Args {
    /// Port of the page; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// Port of the MQTT broker; without it 1883, or a free one if that is taken
    #[arg(long)]
    pub(crate) mqtt_port: Option<u16>,
    /// How many devices
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub(crate) devices: u32,
    /// Messages a second, all devices together
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=2_000))]
    pub(crate) rate: u32,
    /// What to log: error, warn, info, debug, or directives by module
    #[arg(long, default_value = "error,rumqttd=off", value_parser = iot_service::logs::level)]
    pub(crate) log_level: String,
}
