//! One partition of the topic as a sink of its own.

use std::collections::BTreeMap;

use iot_core::headers;
use iot_kafka::rskafka::{is, within};
use rskafka::chrono::DateTime;
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, PartitionClient};
use rskafka::record::Record;

use super::progress::Progress;
use super::{Topic, connect, partition_client, partitions};
use crate::config::{CompressionKind, OnUnavailable};
use crate::lane::Batch;
use crate::sink::{SendError, Sent, Sink, compress};

/// One in this many batches of a partition has its compression measured.
const MEASURED: u64 = 64;

/// The connections to one partition.
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

impl Partition {
    /// Partition number `partition` of `topic`, whose connection is `client`.
    pub(super) fn new(topic: Topic, partition: i32, client: PartitionClient) -> Self {
        Self {
            topic,
            partition,
            client: Some(client),
            detour: None,
            detours: 0,
            progress: Progress::new(),
            batches: 0,
        }
    }

    /// Its connection, unless that failed.
    pub(super) fn client(&self) -> Option<&PartitionClient> {
        self.client.as_ref()
    }

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

impl Topic {
    /// Sends the rest of a batch to a partition. A rejected request is halved until the rejected
    /// message is alone.
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
                    if let Some(left_out) = self.rejections.admit() {
                        tracing::error!(
                            topic = self.config.topic,
                            error = format!("{error:#}"),
                            left_out,
                            "Kafka rejected a message; it is dropped"
                        );
                    }
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
        // The broker returns these before it appends anything. NotLeaderForPartition is not
        // among them: a leader may be replaced after it has appended, while it waits for replicas.
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
