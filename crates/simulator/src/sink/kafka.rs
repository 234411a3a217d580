//! Sink `kafka`: one lane per partition.
//!
//! rskafka retries without end, has no deadlines, and its own batching reorders records
//! inside a partition. So it tries once, every call has a deadline here, and batches come
//! from the lanes. It is not idempotent: a request without an answer is sent again on a new
//! connection, and its records may then be in the topic twice. It also repeats a request
//! that the broker took and throttled: a client quota duplicates records.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context;
use iot_core::headers;
use iot_kafka::rskafka::{is, within};
use iot_service::health::Component;
use rskafka::BackoffConfig;
use rskafka::chrono::DateTime;
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use tokio::sync::mpsc;

use super::{SendError, Sent, Sink, compress};
use crate::config::{CompressionKind, KafkaConfig, OnUnavailable, SimulatorConfig};
use crate::lane::Batch;
use crate::metrics::Metrics;

/// One in this many batches of a partition has its compression measured.
const MEASURED: u64 = 64;
/// Between two attempts to find the leader of a new partition.
const SETTLE: Duration = Duration::from_millis(20);
/// Larger requests are tried again after this many batches.
const GROWS_AFTER: u32 = 100;

/// The topic that records are written to.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    config: KafkaConfig,
    /// Of the payloads.
    media_type: &'static str,
    metrics: Metrics,
}

/// One partition of it.
#[derive(Debug)]
pub(crate) struct Partition {
    topic: Topic,
    partition: i32,
    client: Option<PartitionClient>,
    /// Another partition, used while this one is unavailable.
    detour: Option<PartitionClient>,
    /// How often another one was chosen.
    detours: i32,
    progress: Progress,
    /// Batches so far.
    batches: u64,
}

impl Topic {
    /// The topic in the settings, with their type of payload.
    pub(crate) fn new(config: &SimulatorConfig, metrics: Metrics) -> Self {
        Self {
            config: config.kafka.clone(),
            media_type: config.format.media_type(),
            metrics,
        }
    }

    /// Connects to Kafka, creates the topic unless it exists, and opens every partition.
    /// Retries until it succeeds.
    pub(crate) async fn open(&self, health: &Component) -> Vec<Partition> {
        let mut backoff = super::backoff();
        loop {
            match self.try_open().await {
                Ok(partitions) => return partitions,
                Err(error) => health.not_ready(format!("{error:#}")),
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
                Err(error) => tracing::debug!(error = format!("{error:#}"), "no metadata"),
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

    /// Waits until the partitions of a new topic have leaders: until then brokers reject its
    /// records. The lanes report other errors.
    async fn settle(&self, partitions: &[Partition]) {
        let settled = async {
            for client in partitions.iter().filter_map(|new| new.client.as_ref()) {
                let end = || {
                    within(
                        *self.config.request_timeout,
                        client.get_offset(OffsetAt::Latest),
                    )
                };
                while let Err(error) = end().await {
                    let error = format!("{error:#}");
                    tracing::debug!(error, "a new partition has no leader yet");
                    tokio::time::sleep(SETTLE).await;
                }
            }
        };
        // One deadline for all: a broker that does not answer would cost each its own.
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
        self.open_all(&client, added).await
    }

    async fn open_all(
        &self,
        client: &Client,
        partitions: Vec<i32>,
    ) -> anyhow::Result<Vec<Partition>> {
        let mut opened = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let client = partition_client(client, &self.config, partition).await?;
            opened.push(Partition {
                topic: self.clone(),
                partition,
                client: Some(client),
                detour: None,
                detours: 0,
                progress: Progress::new(),
                batches: 0,
            });
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

impl Partition {
    /// The connection, a new one if need be.
    async fn take_client(&mut self) -> anyhow::Result<PartitionClient> {
        if let Some(client) = self.client.take() {
            return Ok(client);
        }
        let client = connect(&self.topic.config).await?;
        partition_client(&client, &self.topic.config, self.partition).await
    }

    /// A connection to another partition, each in turn; `None` if there is no other.
    async fn take_detour(&mut self) -> anyhow::Result<Option<PartitionClient>> {
        if let Some(client) = self.detour.take() {
            return Ok(Some(client));
        }
        let config = &self.topic.config;
        let client = connect(config).await?;
        let count = partitions(&client, config).await?.len();
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        if count < 2 {
            return Ok(None);
        }
        let steps = 1 + self.detours % (count - 1);
        self.detours += 1;
        let partition = (self.partition + steps) % count;
        partition_client(&client, config, partition).await.map(Some)
    }

    /// Compresses a batch from time to time, because the client does not report how long
    /// that takes.
    fn measure_compression(&mut self, batch: &Batch) {
        if self.batches.is_multiple_of(MEASURED) {
            compress::measure(self.topic.config.compression, batch, &self.topic.metrics);
        }
        self.batches += 1;
    }
}

impl Sink for Partition {
    fn begin(&mut self, batch: &Batch) {
        self.measure_compression(batch);
        self.progress.begin();
    }

    fn give_up(&self, batch: &Batch) -> (usize, Sent) {
        let Progress {
            through, refused, ..
        } = self.progress;
        (batch.len() - through, Sent { refused })
    }

    async fn probe(&mut self) -> Result<(), SendError> {
        self.client = Some(self.take_client().await.map_err(retry)?);
        Ok(())
    }

    async fn attempt(&mut self, batch: &Batch) -> Result<Sent, SendError> {
        let client = self.take_client().await.map_err(retry)?;
        let sent = self.topic.produce(&client, batch, &mut self.progress).await;
        // The connection itself may be broken, even if it looks alive.
        self.client = sent.is_ok().then_some(client);
        sent
    }

    async fn detour(&mut self, batch: &Batch) -> Option<Result<Sent, SendError>> {
        if self.topic.config.on_unavailable == OnUnavailable::Hold {
            return None;
        }
        let client = match self.take_detour().await {
            Ok(client) => client?,
            Err(error) => return Some(Err(retry(error))),
        };
        let before = self.progress.through - self.progress.refused;
        let sent = self.topic.produce(&client, batch, &mut self.progress).await;
        let after = self.progress.through - self.progress.refused;
        let rerouted = &self.topic.metrics.rerouted;
        rerouted.inc_by((after - before) as u64);
        self.detour = sent.is_ok().then_some(client);
        Some(sent)
    }
}

fn retry(error: anyhow::Error) -> SendError {
    SendError::Retry(format!("{error:#}"))
}

/// Progress of a batch, and how many messages a request may have.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// Messages that are done: confirmed or rejected.
    through: usize,
    /// Messages that were rejected.
    refused: usize,
    /// How many messages the next request may have.
    at_once: usize,
    /// How many the first request of a batch may have.
    first: usize,
    /// Once a request was too large: the largest that was not.
    fitting: Option<usize>,
    /// Batches since `first` changed.
    batches: u32,
}

impl Progress {
    fn new() -> Self {
        Self {
            through: 0,
            refused: 0,
            at_once: usize::MAX,
            first: usize::MAX,
            fitting: None,
            batches: 0,
        }
    }

    /// Starts the next batch: with a smaller request if those of the last were too large
    /// without a single message being so, and with a larger one only after many batches.
    fn begin(&mut self) {
        if let Some(fitting) = self.fitting.take()
            && self.refused == 0
        {
            (self.first, self.batches) = (fitting.max(1), 0);
        }
        self.batches += 1;
        if self.batches >= GROWS_AFTER {
            (self.first, self.batches) = (self.first.saturating_mul(2), 0);
        }
        (self.through, self.refused, self.at_once) = (0, 0, self.first);
    }

    fn sent(&mut self, count: usize) {
        self.through += count;
        self.fitting = self.fitting.map(|fitting| fitting.max(count));
        self.at_once = self.at_once.saturating_mul(2).min(self.first);
    }

    /// A request of `count` messages was too large.
    fn halve(&mut self, count: usize) {
        self.at_once = count / 2;
        self.fitting.get_or_insert(0);
    }

    /// The next message is too large by itself.
    fn refuse(&mut self) {
        self.through += 1;
        self.refused += 1;
    }
}

impl Topic {
    /// Sends the rest of a batch to a partition. A request that is too large for the topic is
    /// halved until the message that is too large is alone.
    async fn produce(
        &self,
        client: &PartitionClient,
        batch: &Batch,
        progress: &mut Progress,
    ) -> Result<Sent, SendError> {
        let compression = compression(self.config.compression);
        while progress.through < batch.len() {
            let count = progress.at_once.clamp(1, batch.len() - progress.through);
            let records = records(batch, progress.through, count, self.media_type);
            match within(
                *self.config.request_timeout,
                client.produce(records, compression),
            )
            .await
            {
                Ok(_) => progress.sent(count),
                Err(error) if is_refusal(&error) && count > 1 => {
                    self.metrics.send_errors.inc();
                    progress.halve(count);
                }
                Err(error) if is_refusal(&error) => {
                    let topic = &self.config.topic;
                    tracing::error!(
                        topic,
                        error = format!("{error:#}"),
                        "Kafka rejected a message"
                    );
                    progress.refuse();
                }
                Err(error) => return Err(self.failed(error, count)),
            }
        }
        Ok(Sent {
            refused: progress.refused,
        })
    }

    fn failed(&self, error: anyhow::Error, messages: usize) -> SendError {
        let may_be_written = may_be_written(&error);
        let error = error.context(format!("writing to topic {}", self.config.topic));
        let why = format!("{error:#}");
        if may_be_written {
            SendError::Unanswered { messages, why }
        } else {
            SendError::Retry(why)
        }
    }
}

/// Whether Kafka rejects the records permanently.
fn is_refusal(error: &anyhow::Error) -> bool {
    let refusals = [
        ProtocolError::MessageTooLarge,
        ProtocolError::RecordListTooLarge,
        ProtocolError::InvalidRecord,
    ];
    refusals.into_iter().any(|refusal| is(error, refusal))
}

/// Whether Kafka may have written records that it did not confirm.
fn may_be_written(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        // Rejected before anything is appended, unlike by a leader that is replaced while
        // it waits for replicas.
        Some(Error::ServerError { protocol_error, .. }) => !matches!(
            protocol_error,
            ProtocolError::NotEnoughReplicas
                | ProtocolError::LeaderNotAvailable
                | ProtocolError::UnknownTopicOrPartition
                | ProtocolError::TopicAuthorizationFailed
                | ProtocolError::ClusterAuthorizationFailed
        ),
        // The connection broke, or the deadline has passed.
        _ => true,
    }
}

fn compression(kind: CompressionKind) -> Compression {
    match kind {
        CompressionKind::None => Compression::NoCompression,
        CompressionKind::Gzip => Compression::Gzip,
        CompressionKind::Snappy => Compression::Snappy,
        CompressionKind::Lz4 => Compression::Lz4,
        CompressionKind::Zstd => Compression::Zstd,
    }
}

fn records(batch: &Batch, from: usize, count: usize, media_type: &str) -> Vec<Record> {
    batch
        .messages()
        .skip(from)
        .take(count)
        .map(|message| {
            let media_type = media_type.as_bytes().to_vec();
            let mut record_headers = BTreeMap::new();
            record_headers.insert(headers::CONTENT_TYPE.to_owned(), media_type);
            if let Some(label) = message.label {
                record_headers.insert(headers::LABEL.to_owned(), label.as_bytes().to_vec());
            }
            Record {
                key: Some(message.device_id.to_vec()),
                value: Some(message.payload.to_vec()),
                headers: record_headers,
                timestamp: DateTime::from_timestamp_millis(message.timestamp).unwrap_or_default(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::config::SinkKind;

    /// Sends a batch of messages of these sizes to a topic that takes `most` at once; returns
    /// the sizes of the requests, and how many messages were rejected.
    fn send(progress: &mut Progress, sizes: &[usize], most: usize) -> (Vec<usize>, usize) {
        let mut requests = Vec::new();
        progress.begin();
        while progress.through < sizes.len() {
            let count = progress.at_once.clamp(1, sizes.len() - progress.through);
            requests.push(count);
            let size: usize = sizes[progress.through..][..count].iter().sum();
            if size <= most {
                progress.sent(count);
            } else if count > 1 {
                progress.halve(count);
            } else {
                progress.refuse();
            }
        }
        (requests, progress.refused)
    }

    #[test]
    fn a_message_that_is_too_large_is_isolated() {
        let mut progress = Progress::new();
        let sizes = [1, 1, 1, 1, 1, 99, 1, 1];
        let (requests, refused) = send(&mut progress, &sizes, 10);
        assert_eq!((requests, refused), (vec![8, 4, 4, 2, 1, 2, 1, 1, 1], 1));
        assert_eq!(send(&mut progress, &[1; 8], 10), (vec![8], 0));
    }

    #[test]
    fn requests_shrink_when_too_large_and_grow_again_later() {
        let mut progress = Progress::new();
        assert_eq!(send(&mut progress, &[1; 8], 4).0, [8, 4, 4]);
        for _ in 1..GROWS_AFTER {
            assert_eq!(send(&mut progress, &[1; 8], 4).0, [4, 4]);
        }
        assert_eq!(send(&mut progress, &[1; 8], 8).0, [8]);
    }

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
        let client = opened[0].client.as_ref().unwrap();
        assert_eq!(client.get_offset(OffsetAt::Latest).await.unwrap(), 0);
    }
}
