//! Which records of a partition are of no aborted transaction. rskafka does not
//! tell, so this one question is librdkafka's.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iot_service::kafka::KafkaSecurity;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::log::Partition;

/// How long the next record, or the end, may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How librdkafka reaches Kafka.
#[derive(Debug, Clone)]
pub(super) struct Committed {
    pub(super) brokers: String,
    pub(super) security: KafkaSecurity,
}

impl Committed {
    /// Offsets of the records that count, from `begin` on.
    ///
    /// # Errors
    /// Kafka does not answer, or asks for what librdkafka is built without.
    pub(super) async fn offsets(
        &self,
        partition: &Partition,
        begin: i64,
    ) -> anyhow::Result<BTreeSet<i64>> {
        let mut config = ClientConfig::new();
        for (name, value) in self.security.librdkafka_properties()? {
            config.set(name, value);
        }
        for (name, value) in [
            ("bootstrap.servers", self.brokers.as_str()),
            ("client.id", "iot-ledger"),
            // Never joined: partitions are assigned by hand.
            ("group.id", "iot-ledger"),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            ("enable.partition.eof", "true"),
        ] {
            config.set(name, value);
        }
        let partition = partition.clone();
        // librdkafka's calls block.
        let read = tokio::task::spawn_blocking(move || read(&config, &partition, begin));
        read.await?
            .context("asking which transactions were aborted")
    }
}

fn read(
    config: &ClientConfig,
    (topic, partition): &Partition,
    begin: i64,
) -> anyhow::Result<BTreeSet<i64>> {
    let consumer: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, *partition, Offset::Offset(begin))?;
    consumer.assign(&assignment)?;
    let mut offsets = BTreeSet::new();
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(message)) => {
                offsets.insert(message.offset());
                deadline = Instant::now() + PATIENCE;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(offsets),
            // It connects anew by itself.
            Some(Err(error)) if Instant::now() < deadline => drop(error),
            Some(Err(error)) => return Err(error.into()),
            None if Instant::now() < deadline => {}
            None => bail!("no answer within {PATIENCE:?}"),
        }
    }
}
