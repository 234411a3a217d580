//! Fetching records: a connection to each broker that leads an assigned partition, one
//! fetch on its way for all of those together, and for each a [`Reader`] that its owner
//! takes batches from. An owner that is behind is not fetched for: nothing is thrown
//! away, and what waits is bounded.
//!
//! librdkafka, which keeps the membership in the group, would do this too, but made a
//! message cost more than twice as much (docs/decisions/0010).

mod broker;
mod connection;
mod leaders;
mod records;
mod wire;

use iot_core::partition::TopicPartition;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_service::kafka::KafkaSecurity;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::progress::Progress;
use crate::config::KafkaConfig;
use crate::metrics::Metrics;
use crate::record::Batch;
use leaders::Leaders;
pub(crate) use records::BadBatch;
use records::Chunk;
use wire::FetchedPartition;

/// Fetches that wait for the owner of a partition, besides the one that it works on.
const AHEAD: usize = 2;

/// How fetches are asked for, by the names that librdkafka has for it.
#[derive(Debug)]
struct Settings {
    /// Addresses to begin with.
    brokers: Vec<String>,
    security: KafkaSecurity,
    max_wait: Duration,
    min_bytes: i32,
    max_bytes: i32,
    partition_bytes: i32,
    rack: String,
    client_id: String,
}

impl Settings {
    fn new(kafka: &KafkaConfig) -> anyhow::Result<Self> {
        let number = |names: &[&str], default: i32| {
            let mut given = names.iter().filter_map(|name| kafka.properties.get(*name));
            given.next().map_or(Ok(default), |value| {
                let path = || format!("kafka.properties.{}", names[0]);
                value.trim().parse().with_context(path)
            })
        };
        let text = |name: &str| kafka.properties.get(name).cloned();
        let wait = number(&["fetch.wait.max.ms"], 500)?;
        let partition = ["fetch.message.max.bytes", "max.partition.fetch.bytes"];
        Ok(Self {
            brokers: kafka.brokers.clone(),
            security: kafka.security.clone(),
            max_wait: Duration::from_millis(wait.unsigned_abs().into()),
            min_bytes: number(&["fetch.min.bytes"], 1)?,
            max_bytes: number(&["fetch.max.bytes"], 8 << 20)?,
            partition_bytes: number(&partition, 512 << 10)?,
            rack: text("client.rack").unwrap_or_default(),
            client_id: text("client.id").unwrap_or_else(|| "iot-consumer".to_owned()),
        })
    }
}

/// Lets partitions be read. Clones are the same; fetching ends with the last.
#[derive(Clone)]
pub(crate) struct Fetcher {
    readings: mpsc::UnboundedSender<Reading>,
    _stop: Arc<DropGuard>,
}

/// A partition that is being read. Who holds it fetches for it: there is one at a time.
#[derive(Debug)]
struct Reading {
    partition: TopicPartition,
    /// Next offset to fetch.
    offset: i64,
    /// Of the leader that it is fetched from.
    epoch: i32,
    /// A replica that the leader wants asked instead of itself.
    preferred: Option<i32>,
    /// Whether it has just failed.
    failed: bool,
    chunks: mpsc::Sender<Result<Chunk, OutOfRange>>,
    progress: Arc<Progress>,
}

impl Reading {
    /// Its owner is not there any more.
    fn is_over(&self) -> bool {
        self.chunks.is_closed()
    }

    fn has_room(&self) -> bool {
        self.chunks.capacity() > 0
    }

    fn receive(&mut self, fetched: FetchedPartition<'_>) {
        self.progress.ends_at(fetched.end);
        // Damage that waits for its turn must not pass for nothing at all.
        if fetched.records.is_empty() && self.progress.waiting() == 0 {
            self.progress.set_read();
        }
        let (records, aborted) = (fetched.records, fetched.aborted);
        if let Some((chunk, next)) = Chunk::new(records, self.offset, aborted, &self.progress)
            && self.chunks.try_send(Ok(chunk)).is_ok()
        {
            self.offset = next;
        }
    }

    fn fail(&mut self, reason: String) {
        (self.failed, self.preferred) = (true, None);
        tracing::debug!(partition = ?self.partition, reason, "can't be fetched");
        self.progress.troubled(reason);
    }
}

/// The offset to be read is not in the log.
#[derive(Debug)]
struct OutOfRange;

/// Why a partition can't be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the offset to be read is not in the log")]
    OutOfRange,
    #[error(transparent)]
    Bad(BadBatch),
    #[error("nobody fetches any more")]
    Ended,
}

/// Takes the records of one partition in order.
pub(crate) struct Reader {
    chunks: mpsc::Receiver<Result<Chunk, OutOfRange>>,
    chunk: Option<Chunk>,
    batch: Batch,
    progress: Arc<Progress>,
}

impl Fetcher {
    /// Fetches in tasks of this runtime.
    ///
    /// # Errors
    /// A property makes no sense.
    pub(crate) fn start(kafka: &KafkaConfig, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let settings = Arc::new(Settings::new(kafka)?);
        // Holds each reading once at most, so there are no more than partitions.
        let (readings, inbox) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let leaders = Leaders::new(settings, metrics, readings.clone(), stop.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(leaders.run(inbox)).await });
        Ok(Self {
            readings,
            _stop: Arc::new(stop.drop_guard()),
        })
    }

    /// Reads a partition from an offset on, until the reader is dropped.
    pub(crate) fn read(
        &self,
        partition: &TopicPartition,
        offset: i64,
        progress: Arc<Progress>,
    ) -> Reader {
        let (sender, chunks) = mpsc::channel(AHEAD);
        // Only a runtime that ends has no task any more that takes it.
        let _ = self.readings.send(Reading {
            partition: partition.clone(),
            offset,
            epoch: -1,
            preferred: None,
            failed: false,
            chunks: sender,
            progress: progress.clone(),
        });
        Reader {
            chunks,
            chunk: None,
            batch: Batch::default(),
            progress,
        }
    }
}

impl Reader {
    /// The next records, or where they would be if all were aborted. May be dropped while
    /// it waits.
    ///
    /// # Errors
    /// There is nothing to be read.
    pub(crate) async fn next(&mut self) -> Result<&Batch, Unreadable> {
        loop {
            if let Some(chunk) = self.chunk.as_mut().filter(|chunk| !chunk.is_done()) {
                chunk.unpack(&mut self.batch).map_err(Unreadable::Bad)?;
                self.progress.set_read();
                return Ok(&self.batch);
            }
            // Only now are its records no longer waiting.
            self.chunk = None;
            match self.chunks.recv().await {
                Some(Ok(chunk)) => self.chunk = Some(chunk),
                Some(Err(OutOfRange)) => return Err(Unreadable::OutOfRange),
                None => return Err(Unreadable::Ended),
            }
        }
    }
}

#[cfg(test)]
mod tests;
