//! Section `mqtt`.

use std::fmt;

use iot_core::mqtt_url::MqttUrl;
use iot_service::config::{HumanDuration, Problems, Secret};
use iot_service::mqtt::TlsConfig;
use serde::{Deserialize, Serialize};

/// Texts have a length of two bytes (MQTT 5, section 1.5.4); `$share//` is part
/// of a shared filter.
const LONGEST_FILTER: usize = 65_535 - "$share//".len();

/// A version of MQTT.
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

/// Section `mqtt`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// `mqtt://host:port`, or `mqtts://host:port` with TLS, the preferred
    /// broker first.
    pub brokers: Vec<String>,
    /// While connected to another broker than the first: how often to see
    /// whether one before it is back. Zero stays until the connection is lost.
    pub fail_back: HumanDuration,
    /// Certificates, for brokers with TLS.
    pub tls: TlsConfig,
    /// The version that the brokers speak.
    pub protocol: Protocol,
    /// Topic filters to subscribe to.
    pub filters: Vec<String>,
    /// Quality of service of the subscription: 0, 1 or 2.
    pub qos: u8,
    /// Names the session at the broker: stable, and not used by anyone else.
    pub client_id: String,
    /// Shares the subscription among replicas, if not empty.
    pub share_group: String,
    /// User name, if not empty.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// File that holds the password, instead of `password`.
    pub password_file: String,
    /// How long the broker waits for a sign of life.
    pub keep_alive: HumanDuration,
    /// How long the broker keeps the session, and what arrives for it, while
    /// the bridge is away.
    pub session_expiry: HumanDuration,
    /// How many unacknowledged messages the broker may send.
    pub receive_maximum: u16,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["mqtt://localhost:1883".into()],
            fail_back: HumanDuration::default(),
            tls: TlsConfig::default(),
            protocol: Protocol::V5,
            filters: vec!["mtic/msg/client/realtime/+/#".into()],
            qos: 1,
            client_id: "iot-bridge".into(),
            share_group: String::new(),
            username: String::new(),
            password: Secret::default(),
            password_file: String::new(),
            keep_alive: HumanDuration::from_secs(60),
            session_expiry: HumanDuration::from_secs(24 * 3600),
            receive_maximum: 2000,
        }
    }
}

impl MqttConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.brokers.is_empty() {
            problems.add("mqtt.brokers", "needs at least one mqtt://host:port");
        }
        for broker in &self.brokers {
            if let Err(error) = broker.parse::<MqttUrl>() {
                // Without the text itself: a password may be in it.
                problems.add("mqtt.brokers", error.to_string());
            }
        }
        self.tls.validate(&self.brokers, problems);
        if !self.fail_back.is_zero() && self.fail_back.as_secs() < 1 {
            problems.add("mqtt.fail_back", "must be 0s or at least 1s");
        }
        if self.filters.is_empty() {
            problems.add("mqtt.filters", "needs at least one topic filter");
        }
        for filter in &self.filters {
            if !rumqttc::v5::mqttbytes::valid_filter(filter) {
                problems.add("mqtt.filters", format!("{filter:?} is not a topic filter"));
            }
            if filter.len() + self.share_group.len() > LONGEST_FILTER {
                problems.add("mqtt.filters", "a filter is longer than MQTT allows");
            }
        }
        if self.qos > 2 {
            problems.add("mqtt.qos", "must be 0, 1 or 2");
        }
        if self.client_id.is_empty() {
            problems.add("mqtt.client_id", "must not be empty: it names the session");
        }
        if self.share_group.contains(['/', '+', '#']) {
            problems.add("mqtt.share_group", "must not contain /, + or #");
        }
        if !self.password.is_empty() && !self.password_file.is_empty() {
            problems.add("mqtt.password_file", "set either this or mqtt.password");
        }
        let has_password = !self.password.is_empty() || !self.password_file.is_empty();
        if self.username.is_empty() && has_password {
            problems.add("mqtt.username", "is needed with a password");
        }
        if u16::try_from(self.keep_alive.as_secs()).is_err() || self.keep_alive.as_secs() < 10 {
            problems.add("mqtt.keep_alive", "must be between 10s and 18h");
        }
        if !(60..=u64::from(u32::MAX)).contains(&self.session_expiry.as_secs()) {
            let message = "must be at least 1m: the broker drops messages with the session";
            problems.add("mqtt.session_expiry", message);
        }
        if self.receive_maximum == 0 {
            problems.add("mqtt.receive_maximum", "must be at least 1");
        }
    }

    /// The filters as they are subscribed to.
    pub(crate) fn subscriptions(&self) -> impl Iterator<Item = String> {
        self.filters
            .iter()
            .map(|filter| match self.share_group.as_str() {
                "" => filter.clone(),
                group => format!("$share/{group}/{filter}"),
            })
    }
}
