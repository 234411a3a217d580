//! Which partitions there are to follow: Kafka's metadata of all topics, asked for regularly.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_kafka::lookup::Cluster;
use tokio::sync::watch;

use crate::config::{ConsumerConfig, Follow, KafkaConfig};
use crate::kafka::lookups::Lookups;
use crate::kafka::patterns::TopicFilter;

/// Deadline for Kafka's answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often Kafka is asked, unless `kafka.properties` has the interval of the group's member.
const EVERY: Duration = Duration::from_secs(10);
/// How soon it is asked again after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// librdkafka's name of the interval, in milliseconds.
const INTERVAL: &str = "topic.metadata.refresh.interval.ms";

/// The last answer: the partitions, or why there is no answer. `None` before the first.
pub(super) type Known = Option<Result<BTreeSet<TopicPartition>, String>>;

/// The topics that match all of these.
#[derive(Debug, Clone)]
pub(super) struct Filters([TopicFilter; 2]);

impl Filters {
    /// Of the topics whose partitions a replica follows; `None` if it follows none.
    ///
    /// # Errors
    /// A pattern is not valid.
    pub(super) fn new(config: &ConsumerConfig) -> Result<Option<Self>, String> {
        if !config.role.serves() || config.follow == Follow::None {
            return Ok(None);
        }
        let read = TopicFilter::new(&config.kafka.topics)?;
        let followed = match config.follow {
            Follow::Topics => TopicFilter::new(&config.follow_topics)?,
            Follow::All | Follow::None => read.clone(),
        };
        Ok(Some(Self([read, followed])))
    }

    pub(super) fn have(&self, topic: &str) -> bool {
        self.0.iter().all(|filter| filter.has(topic))
    }

    fn partitions(&self, cluster: &Cluster) -> BTreeSet<TopicPartition> {
        let topics = cluster.topics.iter().filter(|(name, _)| self.have(name));
        let partitions = topics.flat_map(|(name, shape)| {
            let name: Arc<str> = name.as_str().into();
            let count = i32::try_from(shape.partitions).unwrap_or(i32::MAX);
            (0..count).map(move |number| TopicPartition::new(name.clone(), number))
        });
        partitions.collect()
    }
}

/// Asks until nobody wants to know.
pub(super) async fn keep(
    lookups: Lookups,
    kafka: KafkaConfig,
    filters: Filters,
    known: watch::Sender<Known>,
) {
    let every = kafka.properties.get(INTERVAL);
    let every = every.and_then(|text| text.trim().parse().ok());
    let every = every.map_or(EVERY, Duration::from_millis);
    while !known.is_closed() {
        let asked = lookups.clone();
        let answer = tokio::task::spawn_blocking(move || asked.cluster(ANSWER)).await;
        let found = match answer {
            Ok(Ok(cluster)) => Ok(filters.partitions(&cluster)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let pause = if found.is_ok() {
            every
        } else {
            RETRY.min(every)
        };
        known.send_replace(Some(found));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = known.closed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_kafka::lookup::Shape;

    use super::*;

    #[test]
    fn partitions_of_topics_that_match_both_filters_are_followed() {
        let filter = |topics: &[&str]| {
            let topics: Vec<_> = topics.iter().map(|topic| (*topic).to_owned()).collect();
            TopicFilter::new(&topics).unwrap()
        };
        let filters = Filters([
            filter(&["device-data", "^acme"]),
            filter(&["^acme\\.", "other"]),
        ]);
        let mut cluster = Cluster::default();
        for (name, partitions) in [("acme.a", 2), ("acme", 1), ("device-data", 3), ("other", 1)] {
            let shape = Shape {
                partitions,
                replication: 1,
            };
            cluster.topics.insert(name.into(), shape);
        }
        let found = filters.partitions(&cluster);
        let expected = [0, 1].map(|number| TopicPartition::new("acme.a", number));
        assert!(found.into_iter().eq(expected));
    }
}
