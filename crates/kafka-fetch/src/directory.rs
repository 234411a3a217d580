//! Who leads partitions, by the metadata of the first broker that answers.

use std::sync::Arc;
use std::time::Duration;

use crate::connection::{Connection, ConnectionError};
use crate::error::FetchError;
use crate::protocol::metadata::{Broker, Metadata, MetadataRequest, TopicId};
use crate::settings::Settings;

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
        let mut failed = FetchError::NoBroker;
        let configured = self.settings.brokers.iter();
        let configured = configured.filter(|address| !self.known.contains(address));
        let all: Vec<_> = self.known.iter().chain(configured).cloned().collect();
        for address in all {
            match ask(&address, topics, &self.settings).await {
                Ok(metadata) => {
                    let all = metadata.brokers.iter().map(|broker| &broker.address);
                    let others = all.filter(|other| **other != address).cloned();
                    self.known = std::iter::once(address.clone()).chain(others).collect();
                    return Ok(metadata);
                }
                Err(error) => failed = FetchError::Broker { address, error },
            }
        }
        Err(failed)
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
