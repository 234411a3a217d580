//! `iot-bridge route`: shows where messages of an MQTT topic go.

use std::process::ExitCode;

use iot_service::config::{self, Sources};

use crate::config::BridgeConfig;

/// Prints the Kafka topic and key for an MQTT topic, or why its messages go to the
/// dead-letter topic. Exits with 2 if the configuration is invalid, and with 1 if
/// the routing rules reject the topic.
pub(crate) fn show_route(sources: &Sources, mqtt_topic: &str) -> ExitCode {
    let config = match config::load::<BridgeConfig>(sources) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
    };
    match config.route.route(mqtt_topic) {
        Ok(route) => {
            println!("topic: {}", route.topic);
            println!("key:   {}", route.key.as_deref().unwrap_or("(none)"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("topic:  {}", config.dead_letter.topic);
            println!("reason: {} ({error})", error.reason());
            ExitCode::FAILURE
        }
    }
}
