//! Section `store`.

use std::fmt;

use iot_service::config::{HumanDuration, Secret};
use serde::{Deserialize, Serialize, Serializer};

/// URL of the store, in the forms that `configs/consumer.yaml` shows. `Display`, `Debug` and
/// serialisation redact its password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct StoreUrl(String);

impl StoreUrl {
    /// The URL with its password.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for StoreUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for StoreUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What to do when the state of a partition is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// Read the partition again from the earliest record that is still kept.
    Rebuild,
    /// Read nothing, and report it in `/readyz`.
    Refuse,
}

/// Section `store`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// `memory://`, or one or more Redis servers.
    pub url: StoreUrl,
    /// User name, unless `url` has one; empty for the default user of Redis.
    pub username: String,
    /// Password, unless `url` has one.
    pub password: Secret,
    /// File that holds the password, instead of `password`.
    pub password_file: String,
    /// Database number, unless `url` has one.
    pub db: u16,
    /// Number of connections.
    pub connections: usize,
    /// Deadline for connecting, including the login.
    pub connect_timeout: HumanDuration,
    /// Deadline for an answer.
    pub response_timeout: HumanDuration,
    /// PEM file with the certificates to trust; empty for those of the system.
    pub ca_file: String,
    /// Prefix of every key.
    pub key_prefix: String,
    /// What to do when the state of a partition is gone, or its log truncated.
    pub missing: Missing,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "memory://".into(),
            username: String::new(),
            password: Secret::default(),
            password_file: String::new(),
            db: 0,
            connections: 10,
            connect_timeout: HumanDuration::from_secs(3),
            response_timeout: HumanDuration::from_secs(3),
            ca_file: String::new(),
            key_prefix: "iot".into(),
            missing: Missing::Rebuild,
        }
    }
}

/// `text` with the password in a URL redacted.
fn redact(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    match rest.rsplit_once('@') {
        Some((login, rest)) => match login.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:[redacted]@{rest}"),
            None => text.to_owned(),
        },
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        for (text, expected) in [
            ("redis://me:p@x@host/1", "redis://me:[redacted]@host/1"),
            ("redis://:p@host", "redis://:[redacted]@host"),
            ("redis://host", "redis://host"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }
}
