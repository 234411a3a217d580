//! What a fetcher needs to know: where the brokers are, how to get in, and how much to fetch.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::Budget;

/// Settings of a [`Fetcher`](crate::Fetcher). The fields that Java's consumer has too are
/// named with their property.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses (`host:port`) of brokers to find the cluster by (`bootstrap.servers`).
    pub brokers: Vec<String>,
    /// How to connect to them.
    pub security: SecuritySource,
    /// Name that brokers show in logs and quotas (`client.id`).
    pub client_id: String,
    /// Where this client stands (`client.rack`); brokers with a `replica.selector.class` then
    /// have it fetch from a replica nearby. Empty for unknown.
    pub rack: String,
    /// How long a broker waits for `min_bytes` before it answers (`fetch.max.wait.ms`).
    pub max_wait: Duration,
    /// Bytes that a broker waits for (`fetch.min.bytes`).
    pub min_bytes: i32,
    /// Time from the start of a fetch of little to that of the next one: with less of it records
    /// arrive earlier, in more and smaller fetches.
    pub min_interval: Duration,
    /// About the most bytes of one response (`fetch.max.bytes`).
    pub max_bytes: i32,
    /// About the most bytes of one partition in a response (`max.partition.fetch.bytes`). A
    /// subscription holds up to two such fetches besides the one that is being read.
    pub max_partition_bytes: i32,
    /// How many bytes of fetches and decompressed batches may wait, over all subscriptions.
    /// Batches wait to be decompressed until there is room.
    pub budget: Budget,
}

impl Settings {
    /// The defaults for a cluster without TLS and login: fetches of 8 MiB, 512 KiB of them of
    /// one partition, that wait for 500 ms, and 256 MiB in memory.
    #[must_use]
    pub fn new(brokers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            brokers: brokers.into_iter().map(Into::into).collect(),
            security: SecuritySource::default(),
            client_id: "kafka-fetch".to_owned(),
            rack: String::new(),
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            min_interval: Duration::from_millis(10),
            max_bytes: 8 << 20,
            max_partition_bytes: 512 << 10,
            budget: Budget::new(256 << 20, |_| ()),
        }
    }
}

/// How connections are secured.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// TLS, if the listener has it.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The login, if the listener wants one.
    pub sasl: Option<Sasl>,
}

/// A login with a password.
#[derive(Clone)]
pub struct Sasl {
    /// How the password is proven.
    pub mechanism: SaslMechanism,
    /// Who logs in.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sasl")
            .field("mechanism", &self.mechanism)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A mechanism of SASL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password as it is (RFC 4616).
    Plain,
    /// Challenge and response with SHA-256 (RFC 7677).
    ScramSha256,
    /// Challenge and response with SHA-512.
    ScramSha512,
}

impl SaslMechanism {
    /// Its registered name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Any error of a [`SecuritySource`].
pub type BoxError = Box<dyn Error + Send + Sync>;

type Load = dyn Fn() -> Result<Security, BoxError> + Send + Sync;

/// Where the [`Security`] of a connection comes from. It is asked for each new connection, so
/// that a changed certificate or password is used without a restart. The default is no
/// security.
#[derive(Clone)]
pub struct SecuritySource(Arc<Load>);

impl SecuritySource {
    /// Calls `load` for each new connection, in the task that connects. If it fails, the
    /// fetch fails and is retried.
    pub fn new(load: impl Fn() -> Result<Security, BoxError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(load))
    }

    pub(crate) fn load(&self) -> Result<Security, BoxError> {
        (self.0)()
    }
}

impl From<Security> for SecuritySource {
    fn from(security: Security) -> Self {
        Self::new(move || Ok(security.clone()))
    }
}

impl Default for SecuritySource {
    fn default() -> Self {
        Security::default().into()
    }
}

impl fmt::Debug for SecuritySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecuritySource").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_printed() {
        let sasl = Sasl {
            mechanism: SaslMechanism::Plain,
            username: "iot".into(),
            password: "hunter2".into(),
        };
        let security = Security {
            sasl: Some(sasl),
            ..Security::default()
        };
        let printed = format!("{security:?}");
        assert!(printed.contains("iot") && !printed.contains("hunter2"));
    }
}
