//! Reads a partition through librdkafka where rskafka can't: it neither reads the markers that
//! end transactions nor skips aborted ones, and fails at a header with a null value or with a
//! name that is not UTF-8, which any producer can write.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iot_core::partition::TopicPartition;
use iot_kafka::headers;
use iot_kafka::security::KafkaSecurity;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use rskafka::chrono::DateTime;
use rskafka::record::{Record, RecordAndOffset};
use tokio::sync::mpsc;

use crate::security::KafkaArgs;

/// What rskafka says of a marker that ends a transaction.
const MARKER: &str = "control batch";
/// Deadline of the next record or of the end of the partition.
const PATIENCE: Duration = Duration::from_secs(15);
/// Number of records that are read ahead.
const READ_AHEAD: usize = 1_000;

/// Whether rskafka has met a record that it can't decode, for which it has no error of its own.
pub(crate) fn is_foreign(error: &anyhow::Error) -> bool {
    let error = format!("{error:#}");
    error.contains("Malformed data") && !error.contains(MARKER)
}

/// The same for a marker that ends a transaction.
pub(crate) fn is_marker(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains(MARKER)
}

/// Connects librdkafka to Kafka.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) brokers: String,
    pub(crate) security: KafkaSecurity,
}

impl Committed {
    pub(crate) fn new(kafka: &KafkaArgs) -> Self {
        Self {
            brokers: kafka.brokers.join(","),
            security: kafka.security.clone().checked(),
        }
    }

    /// Reads the records of a partition from an offset on, without those of aborted
    /// transactions, to the end of the partition or until the receiver is dropped.
    ///
    /// # Errors
    /// librdkafka is built without a feature that `security` needs. Errors of Kafka are
    /// sent through the channel.
    pub(crate) fn read(
        &self,
        partition: &TopicPartition,
        begin: i64,
    ) -> anyhow::Result<mpsc::Receiver<anyhow::Result<RecordAndOffset>>> {
        let mut config = ClientConfig::new();
        self.security.apply(&mut config)?;
        for (name, value) in [
            ("bootstrap.servers", self.brokers.as_str()),
            ("client.id", "iot-ledger"),
            // Required by librdkafka. The group is not joined: partitions are assigned by hand.
            ("group.id", "iot-ledger"),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            ("enable.partition.eof", "true"),
        ] {
            config.set(name, value);
        }
        let consumer: BaseConsumer = config.create().context("creating a client of librdkafka")?;
        let (topic, number) = partition.parts();
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, number, Offset::Offset(begin))?;
        consumer.assign(&assignment)?;
        let (sender, records) = mpsc::channel(READ_AHEAD);
        // librdkafka's calls block.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read(&consumer, &sender) {
                // Fails if the receiver is gone, which then needs no error.
                let _ = sender.blocking_send(Err(error.context("reading through librdkafka")));
            }
        });
        Ok(records)
    }
}

fn read(
    consumer: &BaseConsumer,
    records: &mpsc::Sender<anyhow::Result<RecordAndOffset>>,
) -> anyhow::Result<()> {
    let mut deadline = Instant::now() + PATIENCE;
    // The receiver may need no more before the end of the partition.
    while !records.is_closed() {
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(message)) => {
                if records.blocking_send(Ok(record(&message)?)).is_err() {
                    return Ok(());
                }
                deadline = Instant::now() + PATIENCE;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            // librdkafka reconnects by itself.
            Some(Err(error)) if Instant::now() < deadline => drop(error),
            Some(Err(error)) => return Err(error.into()),
            None if Instant::now() < deadline => {}
            None => bail!("no answer from Kafka within {PATIENCE:?}"),
        }
    }
    Ok(())
}

fn record(message: &BorrowedMessage<'_>) -> anyhow::Result<RecordAndOffset> {
    let headers = headers::iter(message)
        .map(|(name, value)| (name.into_owned(), value.unwrap_or_default().to_vec()));
    let timestamp = message.timestamp().to_millis().unwrap_or(-1);
    Ok(RecordAndOffset {
        record: Record {
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.collect(),
            timestamp: DateTime::from_timestamp_millis(timestamp).context("a record's time")?,
        },
        offset: message.offset(),
    })
}
