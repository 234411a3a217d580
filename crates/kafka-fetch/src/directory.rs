//! Who leads partitions, by the metadata of the first broker that answers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::connection::{Connection, ConnectionError};
use crate::error::FetchError;
use crate::protocol::metadata::{Broker, Metadata, MetadataRequest, TopicId};
use crate::settings::Settings;

/// A broker that has not answered a look-up after this time may hang: another one is asked too.
const TURN: Duration = Duration::from_secs(1);

/// The brokers that can be asked for metadata.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) settings: Arc<Settings>,
    /// Addresses from the latest metadata, starting with the broker that answered.
    known: Vec<String>,
}

impl Directory {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            known: Vec::new(),
        }
    }

    /// Asks another broker first the next time: the one that answered last may know less.
    pub(crate) fn rotate(&mut self) {
        if !self.known.is_empty() {
            self.known.rotate_left(1);
        }
    }

    /// The leaders of topics, from the first broker that answers.
    ///
    /// # Errors
    /// No broker answers; the error is that of the last one.
    pub(crate) async fn look_up(&mut self, topics: &[&str]) -> Result<Metadata, FetchError> {
        let configured = self.settings.brokers.iter();
        let configured = configured.filter(|address| !self.known.contains(address));
        let all: Vec<_> = self.known.iter().chain(configured).cloned().collect();
        let (address, metadata) = ask_in_turns(all, topics, &self.settings).await?;
        let all = metadata.brokers.iter().map(|broker| &broker.address);
        let others = all.filter(|other| **other != address).cloned();
        self.known = std::iter::once(address.clone()).chain(others).collect();
        Ok(metadata)
    }
}

/// The first answer, and who gave it. Each further broker is asked when one has failed, or
/// after a [`TURN`] without an answer.
///
/// # Errors
/// That of the last broker to fail, once all have.
async fn ask_in_turns(
    addresses: Vec<String>,
    topics: &[&str],
    settings: &Settings,
) -> Result<(String, Metadata), FetchError> {
    let mut waiting = addresses.into_iter();
    let mut asked = FuturesUnordered::new();
    let mut failed = FetchError::NoBroker;
    loop {
        match waiting.next() {
            Some(address) => asked.push(async move {
                let answer = ask(&address, topics, settings).await;
                (address, answer)
            }),
            None if asked.is_empty() => return Err(failed),
            None => {}
        }
        let turn = if waiting.len() > 0 {
            TURN
        } else {
            Duration::MAX
        };
        match tokio::time::timeout(turn, asked.next()).await {
            Ok(Some((address, Ok(metadata)))) => return Ok((address, metadata)),
            Ok(Some((address, Err(error)))) => failed = FetchError::Broker { address, error },
            Ok(None) | Err(_) => {}
        }
    }
}

/// Asks one broker for the leaders of topics.
///
/// # Errors
/// It does not answer.
pub(crate) async fn ask(
    address: &str,
    topics: &[&str],
    settings: &Settings,
) -> Result<Metadata, ConnectionError> {
    let mut connection = Connection::open(address, settings).await?;
    let request = MetadataRequest { topics };
    connection.request(&request, Duration::ZERO).await
}

/// Where a partition is to be fetched from.
#[derive(Debug)]
pub(crate) struct Source<'m> {
    pub(crate) broker: &'m Broker,
    /// -1 for unknown.
    pub(crate) leader_epoch: i32,
    pub(crate) topic_id: Option<TopicId>,
}

impl<'m> Source<'m> {
    /// The leader of a partition, or the replica that the leader prefers.
    ///
    /// # Errors
    /// The metadata does not have it.
    pub(crate) fn find(
        metadata: &'m Metadata,
        (name, number): (&str, i32),
        preferred: Option<i32>,
    ) -> Result<Self, FetchError> {
        let mut topics = metadata.topics.iter();
        let topic = topics.find(|topic| topic.name == name);
        let topic = topic.ok_or(FetchError::NoTopic)?;
        let mut partitions = topic.partitions.iter();
        let Some(partition) = partitions.find(|one| one.partition_index == number) else {
            let error = topic.error.map(FetchError::Partition);
            return Err(error.unwrap_or(FetchError::NoPartition));
        };
        if partition.leader_id < 0 {
            return Err(FetchError::NoLeader);
        }
        let number = preferred.unwrap_or(partition.leader_id);
        let mut brokers = metadata.brokers.iter();
        let broker = brokers.find(|broker| broker.node_id == number);
        Ok(Self {
            broker: broker.ok_or(FetchError::UnknownBroker(number))?,
            leader_epoch: partition.leader_epoch,
            topic_id: topic.topic_id,
        })
    }

    /// The id of the topic, if it is another one than that. An unknown id is no other one.
    pub(crate) fn other_than(&self, id: Option<TopicId>) -> Option<TopicId> {
        self.topic_id
            .filter(|found| id.is_some_and(|id| id != *found))
    }

    /// Fails if a newer leader of the partition is known.
    ///
    /// # Errors
    /// The broker that told this one is behind.
    pub(crate) fn is_current(&self, newest: i32) -> Result<(), FetchError> {
        match self.leader_epoch {
            epoch @ 0.. if epoch < newest => Err(FetchError::StaleLeader { epoch, newest }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, copy_bidirectional};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::scripted::{Cluster, TOPIC};

    #[tokio::test]
    async fn a_broker_that_hangs_does_not_keep_others_from_being_asked() {
        let cluster = Cluster::start(1, |_, _, _| None).await;
        let (hung, front) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let addresses = [&hung, &front].map(|one| one.local_addr().unwrap().to_string());
        let given_up = Arc::new(AtomicBool::new(false));
        let is_given_up = given_up.clone();
        tokio::spawn(async move {
            let (mut stream, _) = hung.accept().await.unwrap();
            let mut asked = Vec::new();
            let _ = stream.read_to_end(&mut asked).await;
            is_given_up.store(true, Ordering::SeqCst);
        });
        let behind = cluster.brokers[0];
        let forwarding = tokio::spawn(async move {
            let (mut client, _) = front.accept().await.unwrap();
            let given_up = given_up.load(Ordering::SeqCst);
            let mut broker = TcpStream::connect(behind).await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut broker).await;
            given_up
        });
        let settings = Settings::new(addresses.clone());
        let (answered, _) = ask_in_turns(addresses.to_vec(), &[TOPIC], &settings)
            .await
            .unwrap();
        assert_eq!(answered, addresses[1]);
        assert!(!forwarding.await.unwrap(), "the first was waited for");
    }

    #[tokio::test]
    async fn without_any_answer_the_last_failure_is_reported() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap().to_string();
        drop(closed);
        let settings = Settings::new([address.clone()]);
        let failed = ask_in_turns(vec![address.clone()], &[TOPIC], &settings).await;
        let failed = failed.err().unwrap().to_string();
        assert!(failed.contains(&address), "{failed}");
        let nobody = ask_in_turns(Vec::new(), &[TOPIC], &settings).await;
        assert!(matches!(nobody, Err(FetchError::NoBroker)));
    }
}
