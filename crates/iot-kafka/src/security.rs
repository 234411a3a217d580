//! Section `kafka.security`: the same in every service, whichever Kafka client it uses.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context;
use iot_service::config::{Problems, Secret};
use iot_service::tls::{self, FileError};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Section `kafka.security`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaSecurity {
    /// Whether connections are encrypted, and whether the client logs in.
    pub protocol: SecurityProtocol,
    /// How the client logs in.
    pub mechanism: SaslMechanism,
    /// User name of the login.
    pub username: String,
    /// Password of the login.
    pub password: Secret,
    /// File that holds the password, instead of `password`.
    pub password_file: String,
    /// PEM file with the certificates to trust; empty for those of the system.
    pub ca_file: String,
    /// PEM file with the client's own certificate, if it has one.
    pub cert_file: String,
    /// PEM file with the key of the client's certificate.
    pub key_file: String,
}

/// A setting that is one of some names, in upper or lower case.
macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal $(| $alias:literal)*,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)*
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $name,)* })
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                $(if [$name $(, $alias)*].iter().any(|name| name.eq_ignore_ascii_case(text)) {
                    return Ok(Self::$variant);
                })*
                Err(format!("{text:?} is none of {}", [$($name),*].join(", ")))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

names! {
    /// Protocol of the brokers' listener, by Kafka's own names.
    SecurityProtocol {
        /// Neither encryption nor login.
        #[default]
        Plaintext = "plaintext",
        /// Encryption (TLS).
        Ssl = "ssl" | "tls",
        /// Login without encryption.
        SaslPlaintext = "sasl_plaintext",
        /// Encryption (TLS) and login.
        SaslSsl = "sasl_ssl" | "sasl_tls",
    }
}

names! {
    /// How the client proves its password, by the names of SASL.
    SaslMechanism {
        /// It sends the password (RFC 4616).
        #[default]
        Plain = "PLAIN",
        /// Challenge and response (RFC 7677).
        ScramSha256 = "SCRAM-SHA-256",
        /// Challenge and response with SHA-512.
        ScramSha512 = "SCRAM-SHA-512",
    }
}

impl SecurityProtocol {
    /// Whether connections are encrypted.
    #[must_use]
    pub fn tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// Whether the client logs in.
    #[must_use]
    pub fn sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// What the Kafka client of a build supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Everything.
    Complete,
    /// librdkafka in a build without OpenSSL: neither TLS nor SCRAM.
    WithoutOpenssl,
}

/// Adds a problem for each broker that is not `host:port`, and one if there is none.
pub fn check_brokers(brokers: &[String], problems: &mut Problems) {
    if brokers.is_empty() {
        problems.add("kafka.brokers", "needs at least one host:port");
    }
    for broker in brokers {
        let is_valid = broker
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && matches!(port.parse::<u16>(), Ok(1..)));
        if !is_valid {
            problems.add("kafka.brokers", format!("{broker:?} is not host:port"));
        }
    }
}

impl KafkaSecurity {
    /// Adds every problem of the section: what `client` does not support, settings without
    /// effect, missing settings, and files that can't be used.
    pub fn validate(&self, client: Client, problems: &mut Problems) {
        let mut add = |name: &str, message: &str| {
            problems.add(format!("kafka.security.{name}"), message);
        };
        if client == Client::WithoutOpenssl {
            const BUILD: &str = "this build has no TLS and no SCRAM to Kafka: \
                                 build it with --features tls";
            if self.protocol.tls() {
                add("protocol", BUILD);
            } else if self.mechanism != SaslMechanism::Plain {
                add("mechanism", BUILD);
            }
        }
        self.check_login(&mut add);
        self.check_files(&mut add);
    }

    fn check_login(&self, add: &mut impl FnMut(&str, &str)) {
        let given = [
            ("mechanism", self.mechanism != SaslMechanism::default()),
            ("username", !self.username.is_empty()),
            ("password", !self.password.is_empty()),
            ("password_file", !self.password_file.is_empty()),
        ];
        if !self.protocol.sasl() {
            for (name, _) in given.iter().filter(|(_, given)| *given) {
                add(
                    name,
                    "has no effect unless protocol is sasl_plaintext or sasl_ssl",
                );
            }
            return;
        }
        if self.username.is_empty() {
            add("username", "is needed to log in");
        }
        match (self.password.is_empty(), self.password_file.is_empty()) {
            (true, true) => add("password", "is needed to log in, or password_file"),
            (false, false) => add("password_file", "set either this or password"),
            (true, false) => match self.password() {
                Ok(password) if password.is_empty() => add("password_file", "is empty"),
                Ok(_) => {}
                Err(error) => add("password_file", &format!("can't be read: {error}")),
            },
            (false, true) => {}
        }
    }

    fn check_files(&self, add: &mut impl FnMut(&str, &str)) {
        let files = [
            ("ca_file", &self.ca_file),
            ("cert_file", &self.cert_file),
            ("key_file", &self.key_file),
        ];
        if !self.protocol.tls() {
            for (name, _) in files.iter().filter(|(_, file)| !file.is_empty()) {
                add(name, "has no effect unless protocol is ssl or sasl_ssl");
            }
            return;
        }
        match (self.cert_file.is_empty(), self.key_file.is_empty()) {
            (true, false) => add("cert_file", "is needed with key_file"),
            (false, true) => add("key_file", "is needed with cert_file"),
            _ => {
                let problems = tls::file_problems(&self.ca_file, &self.cert_file, &self.key_file);
                for FileError { setting, problem } in problems {
                    add(setting, &problem);
                }
            }
        }
    }

    /// The password, read from its file each time if it has one.
    ///
    /// # Errors
    /// The file can't be read.
    fn password(&self) -> std::io::Result<String> {
        if self.password_file.is_empty() {
            return Ok(self.password.expose().to_owned());
        }
        let text = fs::read_to_string(&self.password_file)?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    pub(crate) fn login_password(&self) -> anyhow::Result<String> {
        self.password()
            .with_context(|| format!("reading the password of Kafka in {}", self.password_file))
    }

    /// Encryption and login for a client that is written in Rust.
    ///
    /// # Errors
    /// A file can't be read or used.
    pub fn access(&self) -> anyhow::Result<Access> {
        let (ca, cert, key) = (&self.ca_file, &self.cert_file, &self.key_file);
        let tls = || {
            let tls = tls::client_config(ca, cert, key);
            tls.map_err(|error| anyhow::anyhow!("kafka.security.{error}"))
        };
        let login = || {
            anyhow::Ok(Login {
                mechanism: self.mechanism,
                username: self.username.clone(),
                password: self.login_password()?.into(),
            })
        };
        Ok(Access {
            tls: self.protocol.tls().then(tls).transpose()?,
            login: self.protocol.sasl().then(login).transpose()?,
        })
    }
}

/// Encryption and login of a client that is written in Rust.
#[derive(Debug, Clone)]
pub struct Access {
    /// Encryption, if the protocol has it.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Login, if the protocol has it.
    pub login: Option<Login>,
}

/// A login.
#[derive(Debug, Clone)]
pub struct Login {
    /// How the client proves its password.
    pub mechanism: SaslMechanism,
    /// User name.
    pub username: String,
    /// The password, read from its file if it has one.
    pub password: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(client: Client, change: impl FnOnce(&mut KafkaSecurity)) -> String {
        let mut security = KafkaSecurity::default();
        change(&mut security);
        let mut problems = Problems::default();
        security.validate(client, &mut problems);
        problems.to_string()
    }

    fn login(security: &mut KafkaSecurity) {
        security.protocol = SecurityProtocol::SaslPlaintext;
        security.username = "bridge".into();
        security.password = "hunter2".into();
    }

    #[test]
    fn the_defaults_and_a_login_need_no_openssl() {
        assert_eq!(problems(Client::WithoutOpenssl, |_| {}), "");
        assert_eq!(problems(Client::WithoutOpenssl, login), "");
    }

    #[test]
    fn a_client_without_openssl_rejects_tls_and_scram() {
        let scram = |security: &mut KafkaSecurity| {
            login(security);
            security.mechanism = SaslMechanism::ScramSha256;
        };
        let found = problems(Client::WithoutOpenssl, scram);
        assert!(
            found.starts_with("kafka.security.mechanism: this build has no TLS"),
            "{found}"
        );
        assert_eq!(problems(Client::Complete, scram), "");
        let found = problems(Client::WithoutOpenssl, |s| {
            s.protocol = SecurityProtocol::Ssl
        });
        assert!(
            found.contains("kafka.security.protocol: this build has no TLS"),
            "{found}"
        );
    }

    #[test]
    fn settings_without_effect_are_rejected() {
        let found = problems(Client::Complete, |security| {
            login(security);
            security.protocol = SecurityProtocol::Plaintext;
            security.mechanism = SaslMechanism::ScramSha512;
            security.password_file = "/nowhere".into();
            security.ca_file = "/nowhere".into();
        });
        for name in [
            "mechanism",
            "username",
            "password",
            "password_file",
            "ca_file",
        ] {
            let line = format!("kafka.security.{name}: has no effect");
            assert!(found.contains(&line), "{line} is not in:\n{found}");
        }
    }

    #[test]
    fn a_login_needs_a_name_and_one_password() {
        let found = problems(Client::Complete, |s| {
            s.protocol = SecurityProtocol::SaslPlaintext
        });
        assert!(
            found.contains("kafka.security.username: is needed"),
            "{found}"
        );
        assert!(
            found.contains("kafka.security.password: is needed"),
            "{found}"
        );
        let found = problems(Client::Complete, |security| {
            login(security);
            security.password_file = "/nowhere/password".into();
        });
        assert_eq!(
            found,
            "kafka.security.password_file: set either this or password"
        );
        let found = problems(Client::Complete, |security| {
            login(security);
            security.password = Secret::default();
            security.password_file = "/nowhere/password".into();
        });
        assert!(
            found.starts_with("kafka.security.password_file: can't be read"),
            "{found}"
        );
    }

    #[test]
    fn certificate_files_are_checked() {
        let found = problems(Client::Complete, |security| {
            security.protocol = SecurityProtocol::Ssl;
            security.ca_file = "/nowhere/ca.pem".into();
        });
        assert!(
            found.starts_with("kafka.security.ca_file: /nowhere/ca.pem: No such file"),
            "{found}"
        );
        let found = problems(Client::Complete, |security| {
            security.protocol = SecurityProtocol::Ssl;
            security.cert_file = "/nowhere/cert.pem".into();
        });
        assert_eq!(found, "kafka.security.key_file: is needed with cert_file");
    }

    #[test]
    fn names_are_read_in_any_case_and_printed_in_one() {
        for (text, printed) in [
            ("SASL_SSL", "sasl_ssl"),
            ("tls", "ssl"),
            ("plaintext", "plaintext"),
        ] {
            assert_eq!(
                text.parse::<SecurityProtocol>().unwrap().to_string(),
                printed
            );
        }
        assert_eq!("scram-sha-512".parse(), Ok(SaslMechanism::ScramSha512));
        assert!("GSSAPI".parse::<SaslMechanism>().is_err());
    }

    #[test]
    fn brokers_are_hosts_with_ports() {
        let mut problems = Problems::default();
        check_brokers(&["kafka:9092".into(), "[::1]:9092".into()], &mut problems);
        assert!(problems.is_empty(), "{problems}");
        for broker in ["kafka", "kafka:0", ":9092", "kafka:http"] {
            let mut problems = Problems::default();
            check_brokers(&[broker.into()], &mut problems);
            assert!(
                problems.to_string().contains("is not host:port"),
                "{broker}"
            );
        }
    }
}
