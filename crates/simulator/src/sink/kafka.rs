//! Sink `kafka`: one lane per partition.
//!
//! The client retries without end, has no deadlines, and its own batching
//! reorders records inside a partition. So it is told to try once, every call
//! has a deadline here, and batches come from the lanes. It is not idempotent:
//! a request that got no answer is sent again on a new connection, and its
//! records may then be in the topic twice. Nor can it be kept from repeating a
//! request that the broker took and throttled: a client quota multiplies records.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use iot_core::headers;
use iot_service::health::Component;
use rskafka::chrono::DateTime;
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use rskafka::{BackoffConfig, BackoffError, ConnectionError};

use super::{SendError, Sent, Sink};
use crate::config::{CompressionKind, KafkaConfig};
use crate::lane::Batch;

/// One partition.
#[derive(Debug)]
pub(crate) struct Partition {
    config: KafkaConfig,
    /// Of the payloads.
    media_type: &'static str,
    partition: i32,
    client: Option<PartitionClient>,
}

/// Connects to Kafka, creates the topic if there is none, and opens every
/// partition. Tries until it works.
pub(crate) async fn open(
    config: &KafkaConfig,
    media_type: &'static str,
    health: &Component,
) -> Vec<Partition> {
    let mut backoff = super::backoff();
    loop {
        match try_open(config, media_type).await {
            Ok(partitions) => return partitions,
            Err(error) => health.not_ready(format!("{error:#}")),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn try_open(
    config: &KafkaConfig,
    media_type: &'static str,
) -> anyhow::Result<Vec<Partition>> {
    let client = connect(config).await?;
    let partitions = ensure_topic(&client, config).await?;
    let mut opened = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let client = partition_client(&client, config, partition).await?;
        opened.push(Partition {
            config: config.clone(),
            media_type,
            partition,
            client: Some(client),
        });
    }
    Ok(opened)
}

async fn connect(config: &KafkaConfig) -> anyhow::Result<Client> {
    // A deadline of nothing makes every attempt of the client its last:
    // retries are counted and delayed here.
    let once = BackoffConfig {
        deadline: Some(Duration::ZERO),
        ..BackoffConfig::default()
    };
    let builder = ClientBuilder::new(config.brokers.clone())
        .client_id("iot-simulator")
        .backoff_config(once);
    // Reads the password file each time: a new password is used at the next try.
    let builder = config.security.secure(builder)?;
    within(config, builder.build())
        .await
        .with_context(|| format!("connecting to Kafka at {}", config.brokers.join(", ")))
}

/// The partitions of the topic, in order.
async fn ensure_topic(client: &Client, config: &KafkaConfig) -> anyhow::Result<Vec<i32>> {
    // Asking for all topics: asking for one could make the broker create it,
    // with a number of partitions nobody chose.
    let topics = within(config, client.list_topics())
        .await
        .context("listing the topics of Kafka")?;
    if let Some(topic) = topics.into_iter().find(|topic| topic.name == config.topic) {
        let partitions: Vec<i32> = topic.partitions.into_iter().collect();
        anyhow::ensure!(
            !partitions.is_empty(),
            "topic {} has no partitions yet",
            topic.name
        );
        tracing::info!(
            topic = config.topic,
            partitions = partitions.len(),
            "topic found"
        );
        // Partition numbers go from 0 without gaps, so places are numbers.
        return Ok(partitions);
    }
    create_topic(client, config)
        .await
        .with_context(|| format!("creating topic {}", config.topic))?;
    Ok((0..i32::from(config.partitions)).collect())
}

async fn create_topic(client: &Client, config: &KafkaConfig) -> anyhow::Result<()> {
    let timeout = i32::try_from(config.request_timeout.as_millis()).unwrap_or(i32::MAX);
    let partitions = i32::from(config.partitions);
    let controller = client.controller_client()?;
    let create = controller.create_topic(&config.topic, partitions, config.replication, timeout);
    match within(config, create).await {
        Ok(()) => tracing::info!(topic = config.topic, partitions, "topic created"),
        // Another simulator was faster; its number of partitions counts.
        Err(error) if is(&error, ProtocolError::TopicAlreadyExists) => {
            anyhow::bail!("another client is creating it at this moment")
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn is(error: &anyhow::Error, wanted: ProtocolError) -> bool {
    matches!(
        error.downcast_ref(),
        Some(Error::ServerError { protocol_error, .. }) if *protocol_error == wanted
    )
}

async fn partition_client(
    client: &Client,
    config: &KafkaConfig,
    partition: i32,
) -> anyhow::Result<PartitionClient> {
    let open = client.partition_client(&config.topic, partition, UnknownTopicHandling::Error);
    within(config, open)
        .await
        .with_context(|| format!("opening partition {partition} of topic {}", config.topic))
}

async fn within<T>(
    config: &KafkaConfig,
    call: impl Future<Output = Result<T, Error>>,
) -> anyhow::Result<T> {
    let deadline = config.request_timeout;
    match tokio::time::timeout(*deadline, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(first_cause(error)),
        Err(_) => anyhow::bail!("no answer within {deadline}"),
    }
}

/// What went wrong, without the client's talk of the retries it didn't do.
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

impl Partition {
    async fn client(&mut self) -> anyhow::Result<&PartitionClient> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let client = connect(&self.config).await?;
                partition_client(&client, &self.config, self.partition).await?
            }
        };
        Ok(self.client.insert(client))
    }

    /// `Err` if there is no connection; the result of the request if there is.
    async fn produce(&mut self, batch: &Batch) -> anyhow::Result<anyhow::Result<()>> {
        let config = self.config.clone();
        let compression = compression(config.compression);
        let records = records(batch, self.media_type);
        let client = self.client().await?;
        let produced = within(&config, client.produce(records, compression)).await;
        let context = || format!("writing to topic {}", config.topic);
        Ok(produced.map(drop).with_context(context))
    }
}

impl Sink for Partition {
    async fn probe(&mut self) -> Result<(), SendError> {
        match self.client().await {
            Ok(_) => Ok(()),
            Err(error) => Err(SendError::Retry(format!("{error:#}"))),
        }
    }

    async fn attempt(&mut self, batch: &Batch) -> Result<Sent, SendError> {
        let error = match self.produce(batch).await {
            Ok(Ok(())) => return Ok(Sent::default()),
            Ok(Err(error)) => error,
            Err(error) => return Err(SendError::Retry(format!("{error:#}"))),
        };
        if [ProtocolError::MessageTooLarge, ProtocolError::InvalidRecord]
            .into_iter()
            .any(|refusal| is(&error, refusal))
        {
            tracing::error!(
                error = format!("{error:#}"),
                messages = batch.len(),
                "Kafka refuses a batch for good; a smaller kafka.batch_size may help"
            );
            return Ok(Sent {
                refused: batch.len(),
            });
        }
        // What is wrong may be the connection itself, even if it looks alive.
        self.client = None;
        let why = format!("{error:#}");
        if may_be_written(&error) {
            let messages = batch.len();
            return Err(SendError::Unanswered { messages, why });
        }
        Err(SendError::Retry(why))
    }
}

/// Whether Kafka may have written what it did not confirm.
fn may_be_written(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        // Refused before anything is appended. Not so by a leader that lost its
        // place while it waited for replicas.
        Some(Error::ServerError { protocol_error, .. }) => !matches!(
            protocol_error,
            ProtocolError::NotEnoughReplicas
                | ProtocolError::LeaderNotAvailable
                | ProtocolError::UnknownTopicOrPartition
                | ProtocolError::TopicAuthorizationFailed
                | ProtocolError::ClusterAuthorizationFailed
        ),
        // The connection broke, or there was no answer in time.
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

fn records(batch: &Batch, media_type: &str) -> Vec<Record> {
    batch
        .messages()
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
