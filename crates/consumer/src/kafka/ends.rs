//! The ends of logs that are not being fetched. A fetch reports the end of its log; without
//! one, new records would go unnoticed in the lag.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use iot_core::partition::TopicPartition;
use tokio::sync::{mpsc, watch};

use super::lookups::Lookups;

/// How long one round of look-ups may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long one look-up may take: a partition without a leader must not hide the others.
const ONE: Duration = Duration::from_secs(2);

/// The ends of logs, as of the last look-up.
pub(crate) type LogEnds = HashMap<TopicPartition, i64>;

/// Looks ends up in another thread, as the group's must not wait.
pub(crate) struct Ends {
    questions: mpsc::Sender<Vec<TopicPartition>>,
    answers: watch::Receiver<LogEnds>,
}

impl Ends {
    /// Starts the task of look-ups; it ends when this is dropped.
    pub(crate) fn start(lookups: Lookups) -> Self {
        // One round waits at most: a further one would not be newer.
        let (questions, asked) = mpsc::channel(1);
        let (answer, answers) = watch::channel(LogEnds::new());
        tokio::spawn(answer_all(lookups, asked, answer));
        Self { questions, answers }
    }

    /// Looks up the ends of these, unless a round is already waiting.
    pub(crate) fn ask(&self, partitions: Vec<TopicPartition>) {
        if !partitions.is_empty() {
            // The next call asks again.
            let _ = self.questions.try_send(partitions);
        }
    }

    /// The ends that are known.
    pub(crate) fn known(&self) -> watch::Ref<'_, LogEnds> {
        self.answers.borrow()
    }
}

async fn answer_all(
    lookups: Lookups,
    mut asked: mpsc::Receiver<Vec<TopicPartition>>,
    answer: watch::Sender<LogEnds>,
) {
    while let Some(partitions) = asked.recv().await {
        let lookups = lookups.clone();
        // Partitions without an answer come last.
        let mut asked = partitions.clone();
        asked.sort_by_key(|partition| !answer.borrow().contains_key(partition));
        match tokio::task::spawn_blocking(move || find(&lookups, asked)).await {
            Ok(ends) => answer.send_modify(|known| {
                known.retain(|partition, _| partitions.contains(partition));
                known.extend(ends);
            }),
            Err(error) => tracing::warn!(%error, "asking Kafka for the ends of logs failed"),
        }
    }
}

/// The ends that Kafka reports in time.
fn find(lookups: &Lookups, partitions: Vec<TopicPartition>) -> LogEnds {
    let deadline = Instant::now() + ANSWER;
    let ends = partitions.into_iter().filter_map(|partition| {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let found = lookups.watermarks(&partition, left.min(ONE)).ok()?;
        Some((partition, found.high))
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{FutureProducer, FutureRecord};

    use super::*;
    use crate::config::ConsumerConfig;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ends_of_logs_are_looked_up() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("device-data", 2, 1).unwrap();
        let mut client = rdkafka::ClientConfig::new();
        client.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer: FutureProducer = client.create().unwrap();
        for _ in 0..3 {
            let record = FutureRecord::<(), str>::to("device-data");
            let record = record.partition(1).payload("x");
            let sent = producer.send(record, Duration::from_secs(30)).await;
            sent.map_err(|(error, _)| error).unwrap();
        }
        let mut config = ConsumerConfig::default();
        config.kafka.brokers = vec![cluster.bootstrap_servers()];
        let mut ends = Ends::start(Lookups::new(&config.kafka).unwrap());
        let partitions = [0, 1].map(|partition| TopicPartition::new("device-data", partition));
        ends.ask(partitions.to_vec());
        let answered = tokio::time::timeout(Duration::from_secs(60), ends.answers.changed());
        answered.await.expect("an answer").unwrap();
        assert_eq!(*ends.known(), partitions.into_iter().zip([0, 3]).collect());
    }
}
