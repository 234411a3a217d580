//! What an earlier process has written already: found in Kafka, so that the
//! broker's redeliveries after a crash are acknowledged and not written again.
//!
//! Reading takes its time, on another thread: what has to wait for it stays in
//! the ring, and so does what comes later for the same topic.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use iot_core::headers::BRIDGE_SESSIONS_TOPIC;
use iot_service::Backoff;
use tokio::sync::mpsc;

use crate::config::KafkaConfig;
use crate::deliveries::{Checkpoint, Deliveries, Fingerprint};
use crate::ring::Seq;
use crate::tail;

/// Answers from Kafka's log.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Where the last process was, if there was one and Kafka lets it be read.
    Checkpoint(Restored),
    /// What was written to some topics.
    Tail {
        topics: HashSet<Arc<str>>,
        found: HashMap<u64, u128>,
    },
}

/// What a start finds.
#[derive(Debug)]
pub(crate) enum Restored {
    /// The last checkpoint; there is none before the first run.
    Last(Option<Checkpoint>),
    /// Kafka does not let the bridge read checkpoints.
    Denied,
}

/// The memory of one session's deliveries.
pub(crate) struct Redelivery {
    kafka: KafkaConfig,
    dead_letters: Arc<str>,
    deliveries: Option<Deliveries>,
    restoring: bool,
    /// The connection that came up meanwhile: broker, and whether it resumed.
    waiting_connection: Option<(Arc<str>, bool)>,
    /// Records of unacknowledged messages are not older.
    since: i64,
    topics: HashMap<Arc<str>, Reading>,
    found: HashMap<u64, u128>,
    wanted: HashSet<Arc<str>>,
    reading: bool,
    answers: mpsc::UnboundedReceiver<Answer>,
    // One answer to each question, and few questions.
    answer: mpsc::UnboundedSender<Answer>,
}

#[derive(Debug)]
enum Reading {
    /// These messages wait for it.
    Under(Vec<Seq>),
    Done,
}

impl Redelivery {
    /// Begins to read the last checkpoint of `client_id`; without `enabled`
    /// deliveries are not told apart.
    pub(crate) fn new(
        kafka: &KafkaConfig,
        client_id: &str,
        dead_letters: Arc<str>,
        enabled: bool,
    ) -> Self {
        let (answer, answers) = mpsc::unbounded_channel();
        if enabled {
            tokio::spawn(restore(kafka.clone(), client_id.into(), answer.clone()));
        }
        Self {
            kafka: kafka.clone(),
            dead_letters,
            deliveries: None,
            restoring: enabled,
            waiting_connection: None,
            since: 0,
            topics: HashMap::new(),
            found: HashMap::new(),
            wanted: HashSet::new(),
            reading: false,
            answers,
            answer,
        }
    }

    /// Whether nothing may be received yet: the last checkpoint is being read.
    pub(crate) fn is_restoring(&self) -> bool {
        self.restoring
    }

    /// The deliveries, unless they can't be told apart.
    pub(crate) fn deliveries(&mut self) -> Option<&mut Deliveries> {
        self.deliveries.as_mut()
    }

    /// No checkpoint can be written: nothing is recognised from now on.
    pub(crate) fn give_up(&mut self) {
        self.deliveries = None;
    }

    pub(crate) fn connected(&mut self, broker: &Arc<str>, resumed: bool) {
        match &mut self.deliveries {
            Some(deliveries) => deliveries.connected(broker, resumed),
            None => self.waiting_connection = Some((broker.clone(), resumed)),
        }
    }

    /// Waits for the next answer. Cancel safe.
    pub(crate) async fn next(&mut self) -> Answer {
        match self.answers.recv().await {
            Some(answer) => answer,
            // Never: a sender is kept here.
            None => std::future::pending().await,
        }
    }

    /// Messages may be received from now on.
    pub(crate) fn restored(&mut self, restored: Restored) {
        self.restoring = false;
        let checkpoint = match restored {
            Restored::Last(checkpoint) => checkpoint,
            Restored::Denied => {
                tracing::warn!(
                    topic = BRIDGE_SESSIONS_TOPIC,
                    "Kafka does not let the bridge read its checkpoints: what MQTT delivers again after a crash is written again"
                );
                return;
            }
        };
        self.since = checkpoint.as_ref().map_or(0, |last| last.oldest_at);
        let mut deliveries = Deliveries::new(checkpoint);
        if let Some((broker, resumed)) = self.waiting_connection.take() {
            deliveries.connected(&broker, resumed);
        }
        self.deliveries = Some(deliveries);
    }

    /// Whether a message may go on to its topic. If not, because the topic's
    /// log is being read, `seq` waits and is given back by [`Self::read`].
    pub(crate) fn admit(&mut self, topic: &Arc<str>, seq: Seq, asks: bool) -> bool {
        if self.topics.is_empty() && !asks {
            return true;
        }
        match self.topics.get_mut(topic) {
            Some(Reading::Done) => true,
            Some(Reading::Under(waiting)) => {
                waiting.push(seq);
                false
            }
            None if asks => {
                let reading = Reading::Under(vec![seq]);
                self.topics.insert(topic.clone(), reading);
                self.wanted.insert(topic.clone());
                self.ask();
                false
            }
            None => true,
        }
    }

    /// Whether Kafka has the delivery. Each one is found once.
    pub(crate) fn is_written(&mut self, print: &Fingerprint) -> bool {
        self.found.remove(&print.number) == Some(print.hash)
    }

    /// Takes what was read; returns the messages that waited, in their order.
    pub(crate) fn read(
        &mut self,
        topics: &HashSet<Arc<str>>,
        found: HashMap<u64, u128>,
    ) -> Vec<Seq> {
        self.reading = false;
        self.found.extend(found);
        let mut waited = Vec::new();
        for topic in topics {
            if let Some(Reading::Under(waiting)) = self.topics.insert(topic.clone(), Reading::Done)
            {
                waited.extend(waiting);
            }
        }
        self.ask();
        waited.sort_unstable();
        waited.dedup();
        waited
    }

    /// Forgets what was read, once nothing of an earlier process can come again.
    pub(crate) fn end_lookups(&mut self) {
        let under = |reading: &Reading| matches!(reading, Reading::Under(_));
        if !self.topics.is_empty() && !self.topics.values().any(under) {
            self.topics = HashMap::new();
            self.found = HashMap::new();
        }
    }

    /// One question at a time, about all topics that are wanted by then.
    fn ask(&mut self) {
        let Some(deliveries) = &self.deliveries else {
            return;
        };
        if self.reading || self.wanted.is_empty() {
            return;
        }
        self.reading = true;
        let mut topics = std::mem::take(&mut self.wanted);
        if !self.topics.contains_key(&self.dead_letters) {
            // Any message may have become a dead letter.
            topics.insert(self.dead_letters.clone());
        }
        let (kafka, answer) = (self.kafka.clone(), self.answer.clone());
        let (session, since) = (deliveries.session(), self.since);
        tokio::task::spawn_blocking(move || {
            let found = tail::deliveries(&kafka, &topics, session, since).unwrap_or_else(|error| {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "what was written before can't be read: it may be written again"
                );
                HashMap::new()
            });
            // The session has ended meanwhile.
            let _ = answer.send(Answer::Tail { topics, found });
        });
    }
}

/// Reads the last checkpoint, as soon as Kafka answers.
async fn restore(kafka: KafkaConfig, client_id: String, answer: mpsc::UnboundedSender<Answer>) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let restored = loop {
        let (kafka, client_id) = (kafka.clone(), client_id.clone());
        let read = tokio::task::spawn_blocking(move || tail::checkpoint(&kafka, &client_id));
        match read.await {
            Ok(Ok(restored)) => break restored,
            Ok(Err(error)) => {
                let error = format!("{error:#}");
                tracing::debug!(error, "the last checkpoint can't be read yet");
            }
            // The runtime ends.
            Err(_) => return,
        }
        tokio::time::sleep(backoff.next_delay()).await;
    };
    // The session has ended meanwhile.
    let _ = answer.send(Answer::Checkpoint(restored));
}
