use std::io;

use rumqttc::v5::mqttbytes::v5::DisconnectReasonCode;

use crate::codec::Malformed;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// TCP or TLS failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The broker closed the connection without a DISCONNECT.
    #[error("the broker closed the connection")]
    Closed,
    /// The broker sent a DISCONNECT (MQTT 5, section 3.14).
    #[error("the broker ended the connection: {0:?}")]
    Disconnected(DisconnectReasonCode),
    /// The broker sent something that is not MQTT.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The broker sent a packet that has no place here; its name.
    #[error("the broker sent an unexpected {0}")]
    Unexpected(&'static str),
}
