//! Connections and look-ups through rskafka.
//!
//! rskafka has no deadlines, and retries without end by default: each call
//! goes through [`within`].

use std::time::Duration;

use anyhow::{Context, bail};
use iot_service::config::HumanDuration;
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::{Client, ClientBuilder, Credentials, SaslConfig};
use rskafka::{BackoffError, ConnectionError};

use crate::security::{KafkaSecurity, SaslMechanism};

impl KafkaSecurity {
    /// Adds encryption and login to a client. Reads the password file each time, so that a
    /// new password is used for the next connection.
    ///
    /// # Errors
    /// A file can't be read or used.
    pub fn secure(&self, mut client: ClientBuilder) -> anyhow::Result<ClientBuilder> {
        let access = self.access()?;
        if let Some(tls) = access.tls {
            client = client.tls_config(tls);
        }
        if let Some(login) = access.login {
            let as_one = Credentials::new(login.username, login.password.expose().to_owned());
            client = client.sasl_config(match login.mechanism {
                SaslMechanism::Plain => SaslConfig::Plain(as_one),
                SaslMechanism::ScramSha256 => SaslConfig::ScramSha256(as_one),
                SaslMechanism::ScramSha512 => SaslConfig::ScramSha512(as_one),
            });
        }
        Ok(client)
    }
}

/// One call with a deadline.
///
/// # Errors
/// The call fails, without the client's report of its retries, or takes longer.
pub async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(first_cause(error)),
        Err(_) => bail!("no answer within {}", HumanDuration(deadline)),
    }
}

fn first_cause(error: Error) -> anyhow::Error {
    let (Error::RetryFailed(BackoffError::DeadlineExceded { source, .. })
    | Error::Connection(ConnectionError::RetryFailed(BackoffError::DeadlineExceded {
        source,
        ..
    }))) = error
    else {
        return error.into();
    };
    match source.downcast::<Error>() {
        Ok(inner) => first_cause(*inner),
        Err(other) => anyhow::anyhow!("{other}"),
    }
}

/// Whether an error of [`within`] is that answer of a broker.
#[must_use]
pub fn is(error: &anyhow::Error, wanted: ProtocolError) -> bool {
    matches!(
        error.downcast_ref(),
        Some(Error::ServerError { protocol_error, .. }) if *protocol_error == wanted
    )
}

/// The partitions of a topic, in order; `None` if there is no such topic.
///
/// # Errors
/// Kafka does not answer.
pub async fn partitions(
    client: &Client,
    topic: &str,
    deadline: Duration,
) -> anyhow::Result<Option<Vec<i32>>> {
    // Asks for all topics: the broker might create one that it is asked for by name, with a
    // number of partitions that nobody chose.
    let topics = within(deadline, client.list_topics()).await;
    let mut topics = topics.context("listing the topics of Kafka")?.into_iter();
    let topic = topics.find(|found| found.name == topic);
    Ok(topic.map(|topic| topic.partitions.into_iter().collect()))
}
