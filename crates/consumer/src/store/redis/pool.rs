//! A fixed number of connections. Each carries the commands of several partitions
//! at once; those of one partition stay in order on one.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::time::Duration;

use iot_core::partition::TopicPartition;
use redis::{Cmd, ErrorKind, RedisError, Value};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::link::{Connector, Link};

/// Connections, made when they are needed.
pub(super) struct Pool {
    connector: Connector,
    places: Vec<Mutex<Place>>,
}

/// The connection, if there is one, and how many were there before it.
#[derive(Default)]
struct Place {
    link: Option<Link>,
    number: u64,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("connector", &self.connector)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(connector: Connector, size: usize) -> Self {
        let places = (0..size.max(1)).map(|_| Mutex::default()).collect();
        Self { connector, places }
    }

    /// Sends a command; a connection that didn't answer is not used again.
    ///
    /// # Errors
    /// No connection, no answer in time, or an error as the answer.
    pub(super) async fn ask(
        &self,
        partition: &TopicPartition,
        cmd: &Cmd,
    ) -> Result<Value, RedisError> {
        let connecting = self.connector.connect_timeout();
        let answering = self.connector.response_timeout();
        let place = self.place(partition);
        let (number, mut link) = within(connecting, "connecting", self.link(place)).await?;
        let answer = within(answering, "an answer", link.ask(cmd)).await;
        if let Err(error) = &answer
            && is_broken(error)
        {
            let mut place = place.lock().await;
            if place.number == number {
                place.link = None;
            }
        }
        answer
    }

    fn place(&self, partition: &TopicPartition) -> &Mutex<Place> {
        let mut hasher = DefaultHasher::new();
        partition.hash(&mut hasher);
        &self.places[(hasher.finish() % self.places.len() as u64) as usize]
    }

    async fn link(&self, place: &Mutex<Place>) -> Result<(u64, Link), RedisError> {
        let mut place = place.lock().await;
        if let Some(link) = &place.link {
            return Ok((place.number, link.clone()));
        }
        let link = self.connector.connect().await?;
        place.number += 1;
        place.link = Some(link.clone());
        Ok((place.number, link))
    }
}

async fn within<T>(
    deadline: Duration,
    what: &str,
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    match timeout(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{what} took longer than {deadline:?}"),
        )
        .into()),
    }
}

/// Whether another connection may do better: the server is gone, or is no master
/// any more. Errors that a server answers otherwise would be the same there.
fn is_broken(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            is_replica(error) || matches!(error.code(), Some("MASTERDOWN" | "NOAUTH"))
        }
        _ => true,
    }
}

/// Whether the server is no master and so takes no writes. Before version 7 an error of
/// a script has no code of its own: it stands in the text.
pub(super) fn is_replica(error: &RedisError) -> bool {
    let in_script = |detail: &str| detail.contains("-READONLY ");
    error.code() == Some("READONLY") || error.detail().is_some_and(in_script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Trouble, Unavailable};

    fn answer(line: &str) -> RedisError {
        let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
        answer.and_then(Value::extract_error).unwrap_err()
    }

    #[test]
    fn a_replica_is_known_by_its_answer_to_a_script_of_any_version() {
        for line in [
            "READONLY You can't write against a read only replica.",
            "READONLY You can't write against a read only replica. script: 4ca2, on \
             @user_script:42.",
            "ERR Error running script (call to f_4ca2): @user_script:42: @user_script: 42: \
             -READONLY You can't write against a read only replica.",
        ] {
            let error = answer(line);
            assert!(is_broken(&error), "{line}");
            assert_eq!(Unavailable::from(error).trouble, Trouble::Busy, "{line}");
        }
        let other = answer("ERR Error running script (call to f_4ca2): user_script:1: no such key");
        assert!(!is_broken(&other));
        assert_eq!(Unavailable::from(other).trouble, Trouble::Refused);
    }
}
