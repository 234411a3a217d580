//! The command line.

use clap::Parser;

/// Run devices, an MQTT broker, the bridge, a mock Kafka cluster, the consumer and
/// its page in one process. Half of the devices send through MQTT and the bridge,
/// the other half directly to Kafka.
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
    /// Set the log level: error, warn, info, debug, or directives by module
    #[arg(long, default_value = "error,rumqttd=off", value_parser = iot_service::logs::level)]
    pub(crate) log_level: String,
}
