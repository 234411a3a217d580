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

use crate::config::{BridgeConfig, KafkaConfig};
use crate::deliveries::{Checkpoint, Deliveries, Fingerprint};
use crate::metrics::Refusal;
use crate::ring::Seq;
use crate::tail;

/// How many seconds a checkpoint is good for, if messages come.
const CHECKPOINT_TICKS: u64 = 5;

/// Answers from Kafka's log.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Where the last process was, if there was one and Kafka lets it be read.
    Checkpoint(Restored),
    /// What was written to some topics.
    Tail {
        topics: HashSet<Arc<str>>,
        found: HashMap<(u64, u64), u128>,
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
    /// How many messages the broker may have on their way.
    window: u16,
    dead_letters: Arc<str>,
    deliveries: Option<Deliveries>,
    restoring: bool,
    /// Kafka has a checkpoint of this session, of this process or another.
    checkpointed: bool,
    ticks: u64,
    /// The connection that came up meanwhile: broker, and whether it resumed.
    waiting_connection: Option<(Arc<str>, bool)>,
    /// Records of unacknowledged messages are not older.
    since: i64,
    last_asking: Option<Seq>,
    found: HashMap<(u64, u64), u128>,
    wanted: HashSet<Arc<str>>,
    asked_dead_letters: bool,
    reading: bool,
    answers: mpsc::UnboundedReceiver<Answer>,
    // One answer to each question, and few questions.
    answer: mpsc::UnboundedSender<Answer>,
}

impl Redelivery {
    /// Begins to read the last checkpoint of `client_id`; without `enabled`
    /// deliveries are not told apart.
    pub(crate) fn new(
        config: &BridgeConfig,
        client_id: &str,
        dead_letters: Arc<str>,
        enabled: bool,
    ) -> Self {
        let kafka = &config.kafka;
        let (answer, answers) = mpsc::unbounded_channel();
        if enabled {
            tokio::spawn(restore(kafka.clone(), client_id.into(), answer.clone()));
        }
        Self {
            kafka: kafka.clone(),
            window: config.mqtt.receive_maximum,
            dead_letters,
            deliveries: None,
            restoring: enabled,
            checkpointed: false,
            ticks: 0,
            waiting_connection: None,
            since: 0,
            last_asking: None,
            asked_dead_letters: false,
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

    /// A checkpoint was refused for good. If none was ever written, nothing is
    /// recognised from now on. Otherwise `false`: a later start would go by an
    /// old one, so this one has to be written.
    pub(crate) fn give_up(&mut self, refusal: Refusal) -> bool {
        if self.checkpointed {
            return false;
        }
        tracing::warn!(
            topic = BRIDGE_SESSIONS_TOPIC,
            reason = refusal.as_str(),
            "checkpoints can't be written: what MQTT delivers again after a crash is written again"
        );
        self.deliveries = None;
        true
    }

    /// A checkpoint is in Kafka.
    pub(crate) fn checkpointed(&mut self) {
        self.checkpointed = true;
    }

    /// Once a second: a checkpoint now and then, so that a start has little to read.
    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(CHECKPOINT_TICKS)
            && let Some(deliveries) = &mut self.deliveries
        {
            deliveries.want_checkpoint();
        }
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
        self.checkpointed = checkpoint.is_some();
        self.since = checkpoint.as_ref().map_or(0, |last| last.oldest_at);
        let mut deliveries = Deliveries::new(checkpoint, self.window);
        if let Some((broker, resumed)) = self.waiting_connection.take() {
            deliveries.connected(&broker, resumed);
        }
        self.deliveries = Some(deliveries);
    }

    /// A message of the ring may have been written by an earlier process.
    pub(crate) fn asks(&mut self, seq: Seq) {
        self.last_asking = Some(seq);
    }

    /// Since when the records of the messages in the ring can be: as long as
    /// `first`, the oldest, may be of an earlier process, longer than `here`.
    pub(crate) fn oldest_at(&self, first: Seq, here: i64) -> i64 {
        match self.last_asking {
            Some(last) if first <= last => here.min(self.since),
            _ => here,
        }
    }

    /// Wants to know what was written to a topic; [`Answer::Tail`] tells.
    pub(crate) fn ask_about(&mut self, topic: Arc<str>) {
        self.wanted.insert(topic);
        self.ask();
    }

    /// Whether Kafka has the delivery. Each one is found once.
    pub(crate) fn is_written(&mut self, print: &Fingerprint) -> bool {
        self.found.remove(&(print.session, print.number)) == Some(print.hash)
    }

    /// Takes what was read.
    pub(crate) fn read(&mut self, found: HashMap<(u64, u64), u128>) {
        self.reading = false;
        self.found.extend(found);
        self.ask();
    }

    /// Nothing waits for an answer any more.
    pub(crate) fn forget_log(&mut self) {
        if !self.reading && self.wanted.is_empty() {
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
        if !self.asked_dead_letters {
            // Any message may have become a dead letter.
            self.asked_dead_letters = true;
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
    let mut said = String::new();
    let restored = loop {
        let (kafka, client_id) = (kafka.clone(), client_id.clone());
        let read = tokio::task::spawn_blocking(move || tail::checkpoint(&kafka, &client_id));
        match read.await {
            Ok(Ok(restored)) => break restored,
            Ok(Err(error)) => {
                let error = format!("{error:#}");
                if error != said {
                    tracing::warn!(error, "the last checkpoint can't be read yet");
                }
                said = error;
            }
            // The runtime ends.
            Err(_) => return,
        }
        tokio::time::sleep(backoff.next_delay()).await;
    };
    // The session has ended meanwhile.
    let _ = answer.send(Answer::Checkpoint(restored));
}
