use std::{fmt, io};

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
    #[error("the broker ended the connection: {reason:?}{explanation}")]
    Disconnected {
        /// Its reason code.
        reason: DisconnectReasonCode,
        /// What it adds to that.
        explanation: Explanation,
    },
    /// The broker sent something that is not MQTT.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The broker sent a packet that has no place here; its name.
    #[error("the broker sent an unexpected {0}")]
    Unexpected(&'static str),
}

/// What a broker adds to the reason code of a DISCONNECT or a CONNACK. `Display` begins with a
/// blank, unless it adds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The Reason String, for people.
    pub text: Option<String>,
    /// The Server Reference: other brokers to use.
    pub server: Option<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Characters of a text, which a broker could make as long as it likes.
        const SHOWN: usize = 200;
        let shown = |text: &str| text.chars().take(SHOWN).collect::<String>();
        if let Some(text) = &self.text {
            write!(f, " ({:?})", shown(text))?;
        }
        if let Some(server) = &self.server {
            write!(f, " (it refers to the server {:?})", shown(server))?;
        }
        Ok(())
    }
}
