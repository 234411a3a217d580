//! Addresses of MQTT brokers.

use std::fmt;
use std::str::FromStr;

/// The ports registered for MQTT, without and with TLS.
const PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;

/// Address of an MQTT broker: `mqtt://host:1883` or, with TLS,
/// `mqtts://host:8883`. `tcp` means `mqtt`, `ssl` means `mqtts`; the scheme is
/// `mqtt` if it is missing, the port 1883 or, with TLS, 8883.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttUrl {
    /// DNS name or IP address, an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Why a text is not the address of an MQTT broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MqttUrlError {
    /// Not one of the four schemes.
    #[error("scheme {0:?} is not one of mqtt, mqtts, tcp, ssl")]
    Scheme(String),
    /// User or password in the address, which gets into logs.
    #[error("user and password belong in settings of their own, not in the address")]
    Credentials,
    /// A path, query or fragment.
    #[error("there must be nothing behind the port")]
    Path,
    /// No host.
    #[error("the host is missing")]
    Host,
    /// Not a port.
    #[error("{0:?} is not a port from 1 to 65535")]
    Port(String),
}

impl FromStr for MqttUrl {
    type Err = MqttUrlError;

    fn from_str(text: &str) -> Result<Self, MqttUrlError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("mqtt", text));
        let tls = match scheme {
            "mqtt" | "tcp" => false,
            "mqtts" | "ssl" => true,
            other => return Err(MqttUrlError::Scheme(other.to_owned())),
        };
        if rest.contains('@') {
            return Err(MqttUrlError::Credentials);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(MqttUrlError::Path);
        }
        let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(MqttUrlError::Host);
        }
        let port = match port {
            None if tls => TLS_PORT,
            None => PORT,
            Some(text) => match text.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(MqttUrlError::Port(text.to_owned())),
            },
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

impl fmt::Display for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn schemes_and_ports_have_defaults() {
        for (text, canonical) in [
            ("broker", "mqtt://broker:1883"),
            ("broker:1884", "mqtt://broker:1884"),
            ("tcp://broker", "mqtt://broker:1883"),
            ("mqtt://10.0.0.1:1/", "mqtt://10.0.0.1:1"),
            ("ssl://broker", "mqtts://broker:8883"),
            ("mqtts://broker:1883", "mqtts://broker:1883"),
            ("tcp://[::1]:1884", "mqtt://[::1]:1884"),
            ("[::1]", "mqtt://[::1]:1883"),
        ] {
            let url: MqttUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(url));
        }
    }

    #[test]
    fn invalid_addresses_are_rejected_with_the_reason() {
        let error = |text: &str| text.parse::<MqttUrl>().expect_err(text);
        assert_eq!(error("http://x"), MqttUrlError::Scheme("http".into()));
        assert_eq!(error("mqtt://me:secret@x"), MqttUrlError::Credentials);
        assert_eq!(error("mqtt://x:1/path"), MqttUrlError::Path);
        for text in ["", "mqtt://", ":1883", "a b"] {
            assert_eq!(error(text), MqttUrlError::Host, "{text:?}");
        }
        for text in ["x:", "x:0", "x:65536", "x:y", "[::1]x", "::1"] {
            assert!(text.parse::<MqttUrl>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = text.parse::<MqttUrl>();
        }
    }
}
