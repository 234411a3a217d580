//! What is in a Kafka cluster, asked without changing it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rdkafka::admin::{AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::client;
use crate::config::KafkaConfig;
use crate::creator::{Admin, Quiet};

pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
/// How many resources or partitions one request asks about.
const BATCH: usize = 500;

impl ConsumerContext for Quiet {}

/// What the tools' own clients are configured with.
pub(crate) fn client(config: &KafkaConfig) -> anyhow::Result<ClientConfig> {
    client::client(config)
}

/// Brokers and topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Number and address.
    pub(crate) brokers: BTreeMap<i32, String>,
    pub(crate) topics: BTreeMap<String, Shape>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) partitions: usize,
    /// Of the partition that has the fewest.
    pub(crate) replication: usize,
}

/// Settings of a topic or broker, by name.
pub(crate) type Configs = BTreeMap<String, String>;

pub(crate) async fn cluster(admin: &Arc<Admin>) -> anyhow::Result<Cluster> {
    let admin = admin.clone();
    let asked = tokio::task::spawn_blocking(move || {
        // Not by the name of a topic: the broker might create it.
        let metadata = admin.inner().fetch_metadata(None, DEADLINE)?;
        let brokers = metadata.brokers().iter();
        let topics = metadata.topics().iter().map(|topic| {
            let replicas = topic.partitions().iter().map(|p| p.replicas().len());
            let shape = Shape {
                partitions: topic.partitions().len(),
                replication: replicas.min().unwrap_or_default(),
            };
            (topic.name().to_string(), shape)
        });
        Ok::<_, KafkaError>(Cluster {
            brokers: brokers
                .map(|broker| (broker.id(), format!("{}:{}", broker.host(), broker.port())))
                .collect(),
            topics: topics.collect(),
        })
    });
    asked.await?.context("no Kafka broker answers")
}

/// The settings of topics; one whose settings may not be read is left out.
pub(crate) async fn topic_configs(
    admin: &Admin,
    topics: &[&str],
) -> anyhow::Result<HashMap<String, Configs>> {
    let mut found = HashMap::new();
    for topics in topics.chunks(BATCH) {
        let asked: Vec<_> = topics
            .iter()
            .copied()
            .map(ResourceSpecifier::Topic)
            .collect();
        for (name, configs) in describe(admin, &asked).await? {
            if let OwnedResourceSpecifier::Topic(name) = name {
                found.insert(name, configs);
            }
        }
    }
    Ok(found)
}

/// The settings of a broker; none if they may not be read.
pub(crate) async fn broker_configs(admin: &Admin, id: i32) -> anyhow::Result<Configs> {
    let mut found = describe(admin, &[ResourceSpecifier::Broker(id)]).await?;
    Ok(found.pop().map(|(_, configs)| configs).unwrap_or_default())
}

async fn describe(
    admin: &Admin,
    resources: &[ResourceSpecifier<'_>],
) -> anyhow::Result<Vec<(OwnedResourceSpecifier, Configs)>> {
    let options = AdminOptions::new().request_timeout(Some(DEADLINE));
    let described = admin.describe_configs(resources, &options).await;
    let described = described.context("asking Kafka for settings")?;
    let readable = described.into_iter().flatten().filter_map(|resource| {
        let entries = resource.entries.into_iter();
        let configs: Configs = entries.filter_map(|e| Some((e.name, e.value?))).collect();
        // The binding hides the error of a single resource: then it has no settings.
        (!configs.is_empty()).then_some((resource.specifier, configs))
    });
    Ok(readable.collect())
}

/// The code of an error, also of an admin request, for which
/// [`KafkaError::rdkafka_error_code`] has none.
pub(crate) fn code(error: &KafkaError) -> RDKafkaErrorCode {
    match error {
        KafkaError::AdminOp(code) => *code,
        error => error
            .rdkafka_error_code()
            .unwrap_or(RDKafkaErrorCode::Unknown),
    }
}

/// Begin and end of the log of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

impl Bounds {
    /// How many offsets are in it; as many records, unless it is compacted.
    pub(crate) fn len(self) -> u64 {
        u64::try_from(self.end - self.begin).unwrap_or_default()
    }
}

/// The bounds of partitions, in their order.
pub(crate) fn bounds<C: ClientContext + ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[(&str, i32)],
) -> anyhow::Result<Vec<Bounds>> {
    let mut all = Vec::with_capacity(partitions.len());
    for partitions in partitions.chunks(BATCH) {
        let begins = offsets(consumer, partitions, Offset::Beginning)?;
        let ends = offsets(consumer, partitions, Offset::End)?;
        let pairs = begins.into_iter().zip(ends);
        all.extend(pairs.map(|(begin, end)| Bounds { begin, end }));
    }
    Ok(all)
}

/// One request a broker for all partitions: in a request by time the logical
/// offsets stand for begin and end (Kafka protocol, `ListOffsets`).
fn offsets<C: ClientContext + ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[(&str, i32)],
    which: Offset,
) -> anyhow::Result<Vec<i64>> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition_offset(topic, *partition, which)?;
    }
    let answer = consumer.offsets_for_times(list, DEADLINE);
    let answer = answer.context("asking Kafka where partitions begin and end")?;
    let offset = |(topic, partition): &(&str, i32)| {
        let of = || format!("asking Kafka where partition {partition} of {topic} begins and ends");
        let found = answer.find_partition(topic, *partition);
        let found = found.ok_or_else(|| anyhow!("no answer")).with_context(of)?;
        found.error().with_context(of)?;
        match found.offset() {
            Offset::Offset(offset) => Ok(offset),
            _ => Err(anyhow!("no offset")).with_context(of),
        }
    };
    partitions.iter().map(offset).collect()
}
