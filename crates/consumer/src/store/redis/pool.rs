//! A fixed number of connections. Each carries the commands of several partitions
//! at once; those of one partition stay in order on one.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::time::Duration;

use redis::{Cmd, ErrorKind, RedisError, Value};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::link::{Connector, Link};
use crate::store::Partition;

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
        partition: Partition<'_>,
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

    fn place(&self, partition: Partition<'_>) -> &Mutex<Place> {
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
            matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "NOAUTH"))
        }
        _ => true,
    }
}
