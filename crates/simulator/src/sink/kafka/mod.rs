//! Sink `kafka`: one lane per partition.
//!
//! rskafka retries without end, has no deadlines, and its own batching reorders records inside a
//! partition. So it is configured to try once, each call here has a deadline, and the lanes build
//! the batches. It is not idempotent: a request without an answer is sent again on a new
//! connection, and its records may then be in the topic twice. It also repeats a request that
//! the broker accepted and throttled, so a client quota causes duplicates.

mod partition;
mod progress;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_kafka::rskafka::{is, within};
use iot_service::Repeats;
use iot_service::health::Component;
use rskafka::BackoffConfig;
use rskafka::client::error::ProtocolError;
use rskafka::client::partition::{OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use tokio::sync::mpsc;

use crate::config::{KafkaConfig, RetryConfig, SimulatorConfig};
use crate::metrics::Metrics;
pub(crate) use partition::Partition;

/// Between two attempts to find the leader of a new partition.
const SETTLE: Duration = Duration::from_millis(20);

/// The topic that records are written to.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    config: KafkaConfig,
    retry: RetryConfig,
    rejections: Arc<Repeats>,
    /// Of the payloads.
    media_type: &'static str,
    metrics: Metrics,
}

impl Topic {
    /// The topic in the settings, with their type of payload.
    pub(crate) fn new(config: &SimulatorConfig, metrics: Metrics) -> Self {
        Self {
            config: config.kafka.clone(),
            retry: config.retry.clone(),
            rejections: Arc::default(),
            media_type: config.format.media_type(),
            metrics,
        }
    }

    /// Connects to Kafka, creates the topic unless it exists, and opens every partition.
    /// Retries until it succeeds.
    pub(crate) async fn open(&self, health: &Component) -> Vec<Partition> {
        let mut backoff = self.retry.delays();
        loop {
            match self.try_open().await {
                Ok(partitions) => return partitions,
                Err(error) => {
                    self.metrics.send_errors.inc();
                    health.not_ready(format!("{error:#}"));
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Opens partitions that are added after the first `known`.
    pub(crate) async fn follow(
        &self,
        mut known: usize,
        more: mpsc::Sender<Vec<Partition>>,
    ) -> Infallible {
        loop {
            tokio::time::sleep(*self.config.metadata_refresh).await;
            match self.open_more(known).await {
                Ok(added) if added.is_empty() => {}
                Ok(added) => {
                    known += added.len();
                    tracing::info!(
                        topic = self.config.topic,
                        partitions = known,
                        "partitions were added"
                    );
                    // The receiver is dropped at the end of the run.
                    let _ = more.send(added).await;
                }
                // The lanes report what is wrong with Kafka.
                Err(error) => tracing::debug!(
                    error = format!("{error:#}"),
                    "cannot check for new partitions; retrying"
                ),
            }
        }
    }

    async fn try_open(&self) -> anyhow::Result<Vec<Partition>> {
        let (client, config) = (connect(&self.config).await?, &self.config);
        let mut partitions = partitions(&client, config).await?;
        let is_new = partitions.is_empty();
        if is_new {
            create_topic(&client, config)
                .await
                .with_context(|| format!("creating topic {}", config.topic))?;
            partitions = (0..i32::from(config.partitions)).collect();
        } else {
            let partitions = partitions.len();
            tracing::info!(topic = config.topic, partitions, "topic found");
        }
        let opened = self.open_all(&client, partitions).await?;
        if is_new {
            self.settle(&opened).await;
        }
        Ok(opened)
    }

    /// Waits until new partitions have leaders: until then brokers reject their records. The
    /// lanes report other errors.
    async fn settle(&self, partitions: &[Partition]) {
        let settled = async {
            for client in partitions.iter().filter_map(Partition::client) {
                let end = || {
                    within(
                        *self.config.request_timeout,
                        client.get_offset(OffsetAt::Latest),
                    )
                };
                while let Err(error) = end().await {
                    let error = format!("{error:#}");
                    tracing::debug!(error, "cannot read a new partition yet; retrying");
                    tokio::time::sleep(SETTLE).await;
                }
            }
        };
        // One deadline for all partitions: separate ones would add up if a broker does not answer.
        let _ = tokio::time::timeout(*self.config.request_timeout, settled).await;
    }

    /// Opens the partitions after the first `known`.
    async fn open_more(&self, known: usize) -> anyhow::Result<Vec<Partition>> {
        let client = connect(&self.config).await?;
        let mut partitions = partitions(&client, &self.config).await?;
        if partitions.len() < known {
            let (topic, now) = (&self.config.topic, partitions.len());
            tracing::error!(
                topic,
                known,
                now,
                "the topic has fewer partitions than it had: restart the simulator"
            );
            return Ok(Vec::new());
        }
        let added = partitions.split_off(known);
        let opened = self.open_all(&client, added).await?;
        self.settle(&opened).await;
        Ok(opened)
    }

    async fn open_all(
        &self,
        client: &Client,
        partitions: Vec<i32>,
    ) -> anyhow::Result<Vec<Partition>> {
        let mut opened = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let client = partition_client(client, &self.config, partition).await?;
            opened.push(Partition::new(self.clone(), partition, client));
        }
        Ok(opened)
    }
}

async fn connect(config: &KafkaConfig) -> anyhow::Result<Client> {
    // With a deadline of zero the client does not retry: retries are counted and delayed
    // here.
    let once = BackoffConfig {
        deadline: Some(Duration::ZERO),
        ..BackoffConfig::default()
    };
    let builder = ClientBuilder::new(config.brokers.clone())
        .client_id("iot-simulator")
        .backoff_config(once);
    let builder = config.security.secure(builder)?;
    within(*config.request_timeout, builder.build())
        .await
        .with_context(|| format!("connecting to Kafka at {}", config.brokers.join(", ")))
}

/// The partitions of the topic, in order; none if there is no such topic. Their numbers go
/// from 0 without gaps, so the place of a partition is its number.
async fn partitions(client: &Client, config: &KafkaConfig) -> anyhow::Result<Vec<i32>> {
    let topic = &config.topic;
    let found = iot_kafka::rskafka::partitions(client, topic, *config.request_timeout).await?;
    let is_empty = found.as_ref().is_some_and(Vec::is_empty);
    anyhow::ensure!(!is_empty, "topic {topic} has no partitions yet");
    Ok(found.unwrap_or_default())
}

async fn create_topic(client: &Client, config: &KafkaConfig) -> anyhow::Result<()> {
    let timeout = i32::try_from(config.request_timeout.as_millis()).unwrap_or(i32::MAX);
    let partitions = i32::from(config.partitions);
    let controller = client.controller_client()?;
    let create = controller.create_topic(&config.topic, partitions, config.replication, timeout);
    match within(*config.request_timeout, create).await {
        Ok(()) => tracing::info!(topic = config.topic, partitions, "topic created"),
        // Another simulator was faster, and its number of partitions counts.
        Err(error) if is(&error, ProtocolError::TopicAlreadyExists) => {
            anyhow::bail!("another client is creating it at this moment")
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn partition_client(
    client: &Client,
    config: &KafkaConfig,
    partition: i32,
) -> anyhow::Result<PartitionClient> {
    let open = client.partition_client(&config.topic, partition, UnknownTopicHandling::Error);
    within(*config.request_timeout, open)
        .await
        .with_context(|| format!("opening partition {partition} of topic {}", config.topic))
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::config::SinkKind;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_new_partition_is_used_once_it_has_a_leader() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("new", 1, 1).unwrap();
        let mut config = SimulatorConfig::default();
        config.kafka.topic = "new".into();
        config.kafka.brokers = vec![cluster.bootstrap_servers()];
        let metrics = Metrics::new(&prometheus::Registry::new(), SinkKind::Kafka).unwrap();
        let topic = Topic::new(&config, metrics);
        let client = connect(&topic.config).await.unwrap();
        let opened = topic.open_all(&client, vec![0]).await.unwrap();
        let none = RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
        cluster.request_errors(RDKafkaApiKey::ListOffsets, &[none; 5]);
        topic.settle(&opened).await;
        let client = opened[0].client().unwrap();
        assert_eq!(client.get_offset(OffsetAt::Latest).await.unwrap(), 0);
    }
}
