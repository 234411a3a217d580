//! `iot-bridge route`: what would happen to a message.

use std::process::ExitCode;

use iot_service::config::{self, Sources};

use crate::config::BridgeConfig;

/// Prints the Kafka topic and key that messages of an MQTT topic get, or why
/// they would go to the dead-letter topic. Exits with 2 for a bad
/// configuration and 1 for a topic that is refused.
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
