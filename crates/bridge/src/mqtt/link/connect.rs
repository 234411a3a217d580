//! The CONNECT of a session.

use iot_mqtt::{Connect, Login};

use crate::config::MqttConfig;
use crate::mqtt::connection::BrokerConnectionError;

/// Made for every connection, because passwords are rotated.
pub(super) fn connect(
    config: &MqttConfig,
    client_id: &str,
    clean: bool,
) -> Result<Connect, BrokerConnectionError> {
    let login = if config.username.is_empty() {
        None
    } else {
        Some(Login {
            username: config.username.clone(),
            password: password(config).map_err(BrokerConnectionError::PasswordFile)?,
        })
    };
    // Values are in range: the configuration was validated.
    Ok(Connect {
        client_id: client_id.to_string(),
        clean_start: clean,
        login,
        keep_alive: u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX),
        session_expiry: Some(u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX)),
        receive_maximum: Some(config.receive_maximum),
    })
}

fn password(config: &MqttConfig) -> std::io::Result<String> {
    if config.password_file.is_empty() {
        return Ok(config.password.expose().to_string());
    }
    let text = std::fs::read_to_string(&config.password_file)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_string())
}
