//! Creates Kafka topics for the bridge.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_core::dead_letter;
use iot_core::headers::BRIDGE_SESSIONS_TOPIC;
use iot_kafka::context::Quiet;
use iot_kafka::errors::{Named, code};
use iot_kafka::topics::{self, Answer, Existing, Permanent, Topic, Transient};
use iot_service::Backoff;
use rdkafka::admin::AdminClient;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::config::{KafkaConfig, TopicsConfig};

/// How many requested topics are taken together.
const BATCH: usize = 100;
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// A topic that a session needs.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: Arc<str>,
    pub(crate) answer: mpsc::UnboundedSender<Created>,
}

/// The state of a creation.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) topic: Arc<str>,
    pub(crate) outcome: Outcome,
}

/// How a creation ended, or why it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The topic exists.
    Ready,
    /// The topic cannot be created yet. The creator retries, and answers again.
    Delayed(RDKafkaErrorCode),
    /// Kafka does not authorise the bridge to create the topic, which may exist. The session
    /// asks again if it does not.
    NotAuthorized(RDKafkaErrorCode),
    /// The bridge can never create the topic, which may exist all the same.
    NotCreatable,
    /// Kafka does not take a topic of this name.
    Refused,
}

/// The admin client, for topics and to probe Kafka.
pub(crate) type Admin = AdminClient<Quiet>;

/// An admin client for the cluster.
pub(crate) fn admin(config: &KafkaConfig) -> anyhow::Result<Arc<Admin>> {
    let admin = AdminClient::from_config_and_context(&config.client()?, Quiet);
    Ok(Arc::new(admin.context("creating the Kafka admin client")?))
}

/// Creates topics, many in one request, and retries for as long as it takes.
pub(crate) struct Creator {
    admin: Arc<Admin>,
    config: TopicsConfig,
    dead_letter: Arc<str>,
    waiting: WaitingTopics,
    /// The last error that was logged for each topic that is not known to exist.
    troubles: HashMap<Arc<str>, RDKafkaErrorCode>,
}

impl Creator {
    pub(crate) fn new(admin: Arc<Admin>, config: &TopicsConfig, dead_letter: Arc<str>) -> Self {
        Self {
            admin,
            config: config.clone(),
            dead_letter,
            waiting: WaitingTopics::new(),
            troubles: HashMap::new(),
        }
    }

    /// Runs until every sender of wanted topics is dropped.
    pub(crate) async fn run(mut self, mut wanted: mpsc::UnboundedReceiver<Wanted>) {
        let mut new = Vec::new();
        loop {
            let retry_at = self.waiting.retry_at;
            let topics = tokio::select! {
                received = wanted.recv_many(&mut new, BATCH) => {
                    if received == 0 {
                        return;
                    }
                    // Without the topics that are being retried, so that a new topic does not share
                    // their request.
                    self.waiting.add(new.drain(..))
                }
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    self.waiting.take_due()
                }
            };
            self.create(topics).await;
        }
    }

    /// Tries once; topics to be retried stay in `waiting`.
    async fn create(&mut self, names: BTreeSet<Arc<str>>) {
        let asked = names.iter().map(|name| self.topic(name));
        let asked: Vec<Topic> = asked.collect();
        let answers = topics::create(&self.admin, &asked, REQUEST_DEADLINE).await;
        for topic in names {
            let answer = match &answers {
                Ok(answers) => answers.get(&*topic).copied(),
                Err(error) => Some(Err(code(error))),
            };
            let answer = answer.unwrap_or(Err(RDKafkaErrorCode::Unknown));
            let outcome = outcome(answer);
            self.log(&topic, answer, outcome);
            self.waiting.answered(&topic, outcome);
        }
        self.waiting.schedule(Instant::now());
    }

    /// Logs an answer, unless it is the last one again.
    fn log(&mut self, topic: &Arc<str>, answer: Answer, outcome: Outcome) {
        let code = match answer {
            Ok(existing) => {
                let was_in_trouble = self.troubles.remove(topic).is_some();
                match existing {
                    Existing::New => tracing::info!(topic = &**topic, "Kafka topic created"),
                    Existing::Before if was_in_trouble => {
                        tracing::info!(topic = &**topic, "the Kafka topic exists now");
                    }
                    Existing::Before => {}
                }
                return;
            }
            Err(code) => code,
        };
        if self.troubles.insert(topic.clone(), code) == Some(code) {
            return;
        }
        let (topic, code) = (&**topic, Named(code));
        match outcome {
            Outcome::Ready => {}
            Outcome::Delayed(_) => {
                tracing::warn!(topic, %code, "the Kafka topic cannot be created yet; its messages wait; retrying");
            }
            Outcome::NotAuthorized(_) => {
                tracing::warn!(topic, %code, "Kafka does not authorise the bridge to create the topic; writing to it in case it exists");
            }
            Outcome::NotCreatable => {
                tracing::warn!(topic, %code, "the bridge cannot create the Kafka topic with these settings; writing to it in case it exists");
            }
            Outcome::Refused => {
                tracing::error!(topic, %code, "Kafka rejected the topic; its messages become dead letters");
            }
        }
    }

    fn topic(&self, name: &str) -> Topic {
        new_topic(name, &self.config, &self.dead_letter)
    }
}

/// The topics that are not created yet, and who waits for each.
#[derive(Debug)]
struct WaitingTopics {
    sessions: BTreeMap<Arc<str>, Vec<mpsc::UnboundedSender<Created>>>,
    backoff: Backoff,
    /// When all of them are tried again; `None` without any.
    retry_at: Option<Instant>,
}

impl WaitingTopics {
    fn new() -> Self {
        Self {
            sessions: BTreeMap::new(),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            retry_at: None,
        }
    }

    /// Adds topics, and returns their names. Several sessions may need the same one.
    fn add(&mut self, wanted: impl IntoIterator<Item = Wanted>) -> BTreeSet<Arc<str>> {
        let mut names = BTreeSet::new();
        for Wanted { topic, answer } in wanted {
            names.insert(topic.clone());
            self.sessions.entry(topic).or_default().push(answer);
        }
        names
    }

    /// The names of all topics, for the next attempt.
    fn take_due(&mut self) -> BTreeSet<Arc<str>> {
        self.retry_at = None;
        self.sessions.keys().cloned().collect()
    }

    /// Passes an outcome on to the sessions. The topic stays only if it is
    /// [`Outcome::Delayed`].
    fn answered(&mut self, topic: &Arc<str>, outcome: Outcome) {
        let stays = matches!(outcome, Outcome::Delayed(_));
        let answers = self.sessions.get(topic).into_iter().flatten();
        for answer in answers {
            let topic = topic.clone();
            // A session that has ended needs no answer.
            let _ = answer.send(Created { topic, outcome });
        }
        if !stays {
            self.sessions.remove(topic);
        }
    }

    /// Plans the next attempt, after one at `now`.
    fn schedule(&mut self, now: Instant) {
        if self.sessions.is_empty() {
            self.backoff.reset();
            self.retry_at = None;
        } else if self.retry_at.is_none() {
            self.retry_at = Some(now + self.backoff.next_delay());
        }
    }
}

/// A topic as the bridge creates it.
pub(crate) fn new_topic(name: &str, config: &TopicsConfig, dead_letter: &str) -> Topic {
    if name == BRIDGE_SESSIONS_TOPIC {
        return sessions_topic(config.replication);
    }
    let configs = if name == dead_letter {
        dead_letter_configs()
    } else {
        config.configs.clone()
    };
    Topic {
        name: name.to_owned(),
        partitions: config.partitions,
        replication: config.replication,
        configs,
    }
}

/// The topic of checkpoints.
pub(crate) fn sessions_topic(replication: i32) -> Topic {
    Topic {
        name: BRIDGE_SESSIONS_TOPIC.to_owned(),
        partitions: 1,
        replication,
        configs: configs(SESSIONS_CONFIG),
    }
}

/// Settings of the dead-letter topic.
pub(crate) fn dead_letter_configs() -> BTreeMap<String, String> {
    let limit = dead_letter::TOPIC_MAX_MESSAGE_BYTES.to_string();
    configs(&[("max.message.bytes", &limit)])
}

/// Only the last record of each session counts, and a start reads them all.
const SESSIONS_CONFIG: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.ms", "600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
];

fn configs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// What an answer means for the sessions.
fn outcome(answer: Answer) -> Outcome {
    match (topics::outcome(answer), answer) {
        (topics::Outcome::Done, _) | (_, Ok(_)) => Outcome::Ready,
        (topics::Outcome::Permanent(Permanent::Name), _) => Outcome::Refused,
        (topics::Outcome::Permanent(Permanent::Settings), _) => Outcome::NotCreatable,
        (topics::Outcome::Transient(Transient::Absent), Err(code)) => Outcome::Delayed(code),
        (topics::Outcome::Transient(Transient::NotAuthorized), Err(code)) => {
            Outcome::NotAuthorized(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_map_to_outcomes() {
        use RDKafkaErrorCode as Code;
        for (answer, expected) in [
            (Ok(Existing::New), Outcome::Ready),
            (Ok(Existing::Before), Outcome::Ready),
            (Err(Code::InvalidTopic), Outcome::Refused),
            (Err(Code::InvalidConfig), Outcome::NotCreatable),
            (
                Err(Code::InvalidReplicationFactor),
                Outcome::Delayed(Code::InvalidReplicationFactor),
            ),
            (
                Err(Code::PolicyViolation),
                Outcome::Delayed(Code::PolicyViolation),
            ),
            (
                Err(Code::BrokerTransportFailure),
                Outcome::Delayed(Code::BrokerTransportFailure),
            ),
            (
                Err(Code::TopicAuthorizationFailed),
                Outcome::NotAuthorized(Code::TopicAuthorizationFailed),
            ),
        ] {
            assert_eq!(outcome(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_topic_is_retried_until_it_exists_and_every_session_is_notified() {
        let delayed = Outcome::Delayed(RDKafkaErrorCode::InvalidReplicationFactor);
        let (mut waiting, now) = (WaitingTopics::new(), Instant::now());
        let sessions = [(); 2].map(|()| mpsc::unbounded_channel());
        let topic: Arc<str> = "t.p".into();
        let wanted = sessions.iter().map(|(answer, _)| Wanted {
            topic: topic.clone(),
            answer: answer.clone(),
        });
        assert_eq!(waiting.add(wanted), BTreeSet::from([topic.clone()]));
        for _ in 0..20 {
            waiting.answered(&topic, delayed);
            waiting.schedule(now);
            let delay = waiting.retry_at.unwrap() - now;
            assert!(delay <= Duration::from_secs(10), "{delay:?}");
            assert_eq!(waiting.take_due(), BTreeSet::from([topic.clone()]));
        }
        waiting.answered(&topic, Outcome::Ready);
        waiting.schedule(now);
        assert_eq!(waiting.retry_at, None);
        for (_, mut created) in sessions {
            let outcomes = std::iter::from_fn(|| Some(created.try_recv().ok()?.outcome));
            let outcomes: Vec<_> = outcomes.collect();
            assert_eq!(outcomes.len(), 21);
            assert_eq!((outcomes[0], outcomes[20]), (delayed, Outcome::Ready));
        }
    }

    #[test]
    fn a_new_topic_does_not_wait_for_those_that_are_retried() {
        let (mut waiting, now) = (WaitingTopics::new(), Instant::now());
        let (answer, _created) = mpsc::unbounded_channel();
        let wanted = |topic: &str| Wanted {
            topic: topic.into(),
            answer: answer.clone(),
        };
        let old = waiting.add([wanted("old")]).pop_first().unwrap();
        waiting.answered(&old, Outcome::Delayed(RDKafkaErrorCode::PolicyViolation));
        waiting.schedule(now);
        let retry_at = waiting.retry_at;
        let new = waiting.add([wanted("new")]);
        assert_eq!(new, BTreeSet::from(["new".into()]), "it is tried alone");
        waiting.answered(&"new".into(), Outcome::Ready);
        waiting.schedule(now);
        assert_eq!(waiting.retry_at, retry_at, "the others keep their time");
    }

    #[test]
    fn the_bridges_own_topics_have_their_own_settings() {
        let config = TopicsConfig {
            partitions: 7,
            configs: configs(&[("retention.ms", "1000")]),
            ..TopicsConfig::default()
        };
        let topic = |name| new_topic(name, &config, "letters");
        assert_eq!(topic("a.b").configs, config.configs);
        assert_eq!(topic("a.b").partitions, 7);
        let limit = configs(&[("max.message.bytes", "8454144")]);
        assert_eq!(topic("letters").configs, limit);
        assert_eq!(
            topic(BRIDGE_SESSIONS_TOPIC).configs["cleanup.policy"],
            "compact"
        );
        assert_eq!(topic(BRIDGE_SESSIONS_TOPIC).partitions, 1);
    }
}
