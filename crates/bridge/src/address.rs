//! Addresses of MQTT brokers.

use std::fmt;
use std::str::FromStr;

/// `mqtt://host:port`; `tcp://` means the same, and the port may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BrokerAddress {
    /// Host and port, as the resolver takes them.
    pub(crate) authority: String,
}

const DEFAULT_PORT: u16 = 1883;

impl FromStr for BrokerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("mqtt", text));
        match scheme {
            "mqtt" | "tcp" => {}
            "mqtts" | "ssl" => {
                return Err(format!(
                    "{text:?}: TLS to the MQTT broker is not supported yet"
                ));
            }
            _ => return Err(format!("{text:?} is not mqtt://host:port")),
        }
        let authority = rest.trim_end_matches('/');
        if authority.contains('@') {
            // A password in an address would end up in logs.
            return Err("user and password belong into mqtt.username and mqtt.password".into());
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (authority, Some(DEFAULT_PORT)),
        };
        match port {
            Some(port) if !host.is_empty() && !host.contains(['/', ' ']) => Ok(Self {
                authority: format!("{host}:{port}"),
            }),
            _ => Err(format!("{text:?} is not mqtt://host:port")),
        }
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mqtt://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_and_ports() {
        for (text, authority) in [
            ("mqtt://broker:1884", "broker:1884"),
            ("tcp://10.0.0.1:1883/", "10.0.0.1:1883"),
            ("broker", "broker:1883"),
            ("mqtt://[::1]", "[::1]:1883"),
            ("mqtt://[::1]:1884", "[::1]:1884"),
        ] {
            let address: BrokerAddress = text.parse().unwrap();
            assert_eq!(address.authority, authority);
        }
        for text in [
            "",
            "http://x:1",
            "mqtt://",
            "mqtt://x:port",
            "ssl://x:8883",
            "mqtt://u:p@x",
        ] {
            assert!(text.parse::<BrokerAddress>().is_err(), "{text:?} was taken");
        }
        let refused = "mqtt://user:hunter2@x"
            .parse::<BrokerAddress>()
            .unwrap_err();
        assert!(!refused.contains("hunter2"), "{refused}");
    }
}
