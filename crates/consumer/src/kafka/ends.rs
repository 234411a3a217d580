//! The ends of logs that are not fetched now: a fetch tells where its log ends, and what
//! comes in while there is none would not be noticed.

use iot_core::partition::TopicPartition;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::dead_letter::DeadLetters;

/// How long Kafka may take for all ends that are asked for at once.
const ANSWER: Duration = Duration::from_secs(5);
/// How long for one: a partition without a leader must not hide the others.
const ONE: Duration = Duration::from_secs(2);

/// Where logs end, or ended when it was last asked for.
pub(crate) type LogEnds = HashMap<TopicPartition, i64>;

/// Asks for ends, in another thread than the one that must not wait.
pub(crate) struct Ends {
    questions: mpsc::Sender<Vec<TopicPartition>>,
    answers: watch::Receiver<LogEnds>,
}

impl Ends {
    /// Starts the task that asks; it ends when this is dropped.
    pub(crate) fn start(letters: DeadLetters) -> Self {
        // A question that finds another one waiting is not needed.
        let (questions, asked) = mpsc::channel(1);
        let (answer, answers) = watch::channel(LogEnds::new());
        tokio::spawn(answer_all(letters, asked, answer));
        Self { questions, answers }
    }

    /// Asks for the ends of these, unless it is still being asked for others.
    pub(crate) fn ask(&self, partitions: Vec<TopicPartition>) {
        if !partitions.is_empty() {
            // Next time, then.
            let _ = self.questions.try_send(partitions);
        }
    }

    /// What the last answer was.
    pub(crate) fn known(&self) -> watch::Ref<'_, LogEnds> {
        self.answers.borrow()
    }
}

async fn answer_all(
    letters: DeadLetters,
    mut asked: mpsc::Receiver<Vec<TopicPartition>>,
    answer: watch::Sender<LogEnds>,
) {
    while let Some(partitions) = asked.recv().await {
        let letters = letters.clone();
        // Those that did not answer come last.
        let mut asked = partitions.clone();
        asked.sort_by_key(|partition| !answer.borrow().contains_key(partition));
        match tokio::task::spawn_blocking(move || find(&letters, asked)).await {
            Ok(ends) => answer.send_modify(|known| {
                known.retain(|partition, _| partitions.contains(partition));
                known.extend(ends);
            }),
            Err(error) => tracing::warn!(%error, "asking Kafka for the ends of logs failed"),
        }
    }
}

/// Those that Kafka says in time.
fn find(letters: &DeadLetters, partitions: Vec<TopicPartition>) -> LogEnds {
    let deadline = Instant::now() + ANSWER;
    let ends = partitions.into_iter().filter_map(|partition| {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let (_, end) = letters.watermarks(&partition, left.min(ONE)).ok()?;
        Some((partition, end))
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use iot_service::health::Health;
    use prometheus::Registry;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{FutureProducer, FutureRecord};

    use super::*;
    use crate::config::ConsumerConfig;
    use crate::metrics::Metrics;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn kafka_is_asked_where_logs_end() {
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
        let letters = DeadLetters::new(
            &config.kafka,
            &config.dead_letter,
            Arc::new(Metrics::new(&Registry::new()).unwrap()),
            Health::default().component("dead_letter"),
        );
        let mut ends = Ends::start(letters.unwrap());
        let partitions = [0, 1].map(|partition| TopicPartition::new("device-data", partition));
        ends.ask(partitions.to_vec());
        let answered = tokio::time::timeout(Duration::from_secs(60), ends.answers.changed());
        answered.await.expect("an answer").unwrap();
        assert_eq!(*ends.known(), partitions.into_iter().zip([0, 3]).collect());
    }
}
