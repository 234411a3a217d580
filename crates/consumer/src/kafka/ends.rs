//! What fetches do not report: the ends of logs that are not being fetched, without which new
//! records would go unnoticed in the lag, and whether a topic that was refused can be read now.

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

/// What is to be looked up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Question {
    /// Partitions whose ends are not known otherwise.
    pub(crate) partitions: Vec<TopicPartition>,
    /// Topics that were refused.
    pub(crate) topics: Vec<String>,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) ends: LogEnds,
    /// Topics of the last question that can be read.
    pub(crate) readable: Vec<String>,
}

/// Looks these up in another thread, as the group's must not wait.
pub(crate) struct Ends {
    questions: mpsc::Sender<Question>,
    answers: watch::Receiver<Answer>,
}

impl Ends {
    /// Starts the task of look-ups; it ends when this is dropped.
    pub(crate) fn start(lookups: Lookups) -> Self {
        // One round waits at most: a further one would not be newer.
        let (questions, asked) = mpsc::channel(1);
        let (answer, answers) = watch::channel(Answer::default());
        tokio::spawn(answer_all(lookups, asked, answer));
        Self { questions, answers }
    }

    /// Looks these up, unless a round is already waiting.
    pub(crate) fn ask(&self, question: Question) {
        if !question.partitions.is_empty() || !question.topics.is_empty() {
            // The next call asks again.
            let _ = self.questions.try_send(question);
        }
    }

    /// What is known.
    pub(crate) fn known(&self) -> watch::Ref<'_, Answer> {
        self.answers.borrow()
    }
}

async fn answer_all(
    lookups: Lookups,
    mut asked: mpsc::Receiver<Question>,
    answer: watch::Sender<Answer>,
) {
    while let Some(question) = asked.recv().await {
        let lookups = lookups.clone();
        // Partitions without an answer come last.
        let mut asked = question.clone();
        let known = |partition: &TopicPartition| answer.borrow().ends.contains_key(partition);
        asked.partitions.sort_by_key(|partition| !known(partition));
        match tokio::task::spawn_blocking(move || find(&lookups, asked)).await {
            Ok(found) => answer.send_modify(|known| {
                known
                    .ends
                    .retain(|partition, _| question.partitions.contains(partition));
                known.ends.extend(found.ends);
                known.readable = found.readable;
            }),
            Err(error) => tracing::warn!(%error, "asking Kafka for the ends of logs failed"),
        }
    }
}

/// What Kafka answers in time.
fn find(lookups: &Lookups, asked: Question) -> Answer {
    let deadline = Instant::now() + ANSWER;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.min(ONE))
    };
    let ends = asked.partitions.into_iter().filter_map(|partition| {
        let found = lookups.watermarks(&partition, left()?).ok()?;
        Some((partition, found.high))
    });
    let ends = ends.collect();
    let topics = asked.topics.into_iter();
    let readable =
        topics.filter(|topic| left().is_some_and(|left| lookups.is_readable(topic, left)));
    Answer {
        ends,
        readable: readable.collect(),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{FutureProducer, FutureRecord};

    use super::*;
    use crate::config::ConsumerConfig;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ends_of_logs_and_topics_are_looked_up() {
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
        ends.ask(Question {
            partitions: partitions.to_vec(),
            topics: vec!["device-data".to_owned(), "missing".to_owned()],
        });
        let answered = tokio::time::timeout(Duration::from_secs(60), ends.answers.changed());
        answered.await.expect("an answer").unwrap();
        let known = ends.known();
        assert_eq!(known.ends, partitions.into_iter().zip([0, 3]).collect());
        assert_eq!(known.readable, ["device-data"]);
    }
}
