use std::fmt;

use serde::{Deserialize, Serialize};

/// The most filters that a SUBSCRIBE or UNSUBSCRIBE should have. MQTT has no limit, but
/// AWS IoT Core refuses more than eight ("Subscriptions per subscribe request" of its
/// quotas).
pub const FILTERS_PER_REQUEST: usize = 8;

/// A version of MQTT; `5` or `3.1.1` in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// MQTT 5.
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5 => "5",
            Self::V311 => "3.1.1",
        })
    }
}
