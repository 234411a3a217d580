//! The client that looks up watermarks. Only the group's thread uses the group member's own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_core::partition::TopicPartition;
use iot_kafka::context::Lasting;
use iot_kafka::lookup::{self, Watermarks};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;

use super::base_config;
use crate::config::KafkaConfig;

/// How often the client is checked for lost brokers.
const KEEP: Duration = Duration::from_secs(1);

/// Looks up watermarks. Clones share one client.
#[derive(Clone)]
pub(crate) struct Lookups(Arc<BaseConsumer<Lasting>>);

impl Lookups {
    /// # Errors
    /// The password file can't be read, or the client can't be created.
    pub(crate) fn new(kafka: &KafkaConfig) -> anyhow::Result<Self> {
        // Without group.id it joins no group.
        let mut config = base_config(kafka)?;
        config.set("client.id", "iot-consumer");
        // Otherwise the end of a log is its last stable offset, and the lag hides what waits
        // behind an open transaction.
        config.set("isolation.level", "read_uncommitted");
        let client = config
            .create_with_context(Lasting::new(&kafka.brokers)?)
            .context("creating the client for look-ups")?;
        Ok(Self(Arc::new(client)))
    }

    /// Reconnects the client whenever it has lost every broker.
    pub(crate) async fn keep(self) {
        loop {
            tokio::time::sleep(KEEP).await;
            self.serve();
        }
    }

    fn serve(&self) {
        // The context only receives errors while somebody polls. There are no records.
        while self.0.poll(Duration::ZERO).is_some() {}
        self.0.context().serve(self.0.client());
    }

    /// The watermarks of a partition. Blocks for up to `deadline`.
    ///
    /// # Errors
    /// Kafka doesn't answer, or there is no such partition.
    pub(crate) fn watermarks(
        &self,
        of: &TopicPartition,
        deadline: Duration,
    ) -> KafkaResult<Watermarks> {
        lookup::watermarks(&self.0, of, deadline)
    }

    /// The id of the cluster. Blocks for up to `deadline`; `None` if Kafka does not answer.
    pub(crate) fn cluster_id(&self, deadline: Duration) -> Option<String> {
        self.0.client().fetch_cluster_id(deadline)
    }

    /// Brokers and topics. Blocks for up to `deadline`.
    ///
    /// # Errors
    /// No broker answers.
    pub(crate) fn cluster(&self, deadline: Duration) -> KafkaResult<lookup::Cluster> {
        lookup::cluster(self.0.client(), deadline)
    }

    /// Whether a topic has partitions that this user may know of. Blocks for up to `deadline`.
    pub(crate) fn is_readable(&self, topic: &str, deadline: Duration) -> bool {
        let found = self.0.client().fetch_metadata(Some(topic), deadline);
        let Ok(metadata) = found else { return false };
        let mut topics = metadata.topics().iter();
        topics.any(|found| found.error().is_none() && !found.partitions().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode::AllBrokersDown;
    use rdkafka::mocking::MockCluster;
    use testkit::wait_for_sync;

    use super::*;

    #[test]
    fn watermarks_are_found_again_after_an_outage() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("device-data", 1, 1).unwrap();
        let kafka = KafkaConfig {
            brokers: vec![cluster.bootstrap_servers()],
            ..KafkaConfig::default()
        };
        let lookups = Lookups::new(&kafka).unwrap();
        let partition = TopicPartition::new("device-data", 0);
        let look_up = || {
            lookups.serve();
            lookups.watermarks(&partition, Duration::from_secs(1))
        };
        let empty = Watermarks { low: 0, high: 0 };
        wait_for_sync("watermarks", || look_up() == Ok(empty));
        cluster.broker_down(1).unwrap();
        // Without polling, these errors would not reach the context, which reconnects.
        wait_for_sync("lost brokers", || {
            let event = lookups.0.poll(Duration::ZERO);
            let error = event.and_then(Result::err);
            error.and_then(|error| error.rdkafka_error_code()) == Some(AllBrokersDown)
        });
        wait_for_sync("no answer", || look_up().is_err());
        cluster.broker_up(1).unwrap();
        wait_for_sync("watermarks again", || look_up() == Ok(empty));
    }
}
