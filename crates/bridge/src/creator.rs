//! Creates Kafka topics for the bridge.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_core::dead_letter;
use iot_core::headers::BRIDGE_SESSIONS_TOPIC;
use iot_kafka::context::Quiet;
use iot_kafka::errors::{Named, code};
use iot_kafka::topics::{self, Answer, Existing, Permanent, Topic};
use iot_service::Backoff;
use rdkafka::admin::AdminClient;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::mpsc;

use crate::config::{KafkaConfig, TopicsConfig};

/// How many topics wait for one request.
const BATCH: usize = 100;
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// A topic that a session needs.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: Arc<str>,
    pub(crate) answer: mpsc::UnboundedSender<Created>,
}

/// The end of a creation.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) topic: Arc<str>,
    pub(crate) outcome: Outcome,
}

/// How a creation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The topic exists.
    Ready,
    /// The bridge can't create the topic, which may exist all the same.
    NotAllowed,
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
    backoff: Backoff,
    /// The last error that was logged for each of the topics at hand.
    troubles: HashMap<Arc<str>, RDKafkaErrorCode>,
}

impl Creator {
    pub(crate) fn new(admin: Arc<Admin>, config: &TopicsConfig, dead_letter: Arc<str>) -> Self {
        Self {
            admin,
            config: config.clone(),
            dead_letter,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
            troubles: HashMap::new(),
        }
    }

    /// Runs until every sender of wanted topics is dropped.
    pub(crate) async fn run(mut self, mut wanted: mpsc::UnboundedReceiver<Wanted>) {
        let mut batch = Vec::new();
        while wanted.recv_many(&mut batch, BATCH).await > 0 {
            while !batch.is_empty() {
                self.create(&mut batch).await;
                if batch.is_empty() {
                    break;
                }
                tokio::time::sleep(self.backoff.next_delay()).await;
                // A topic that is retried must not keep others waiting.
                while let Ok(another) = wanted.try_recv() {
                    batch.push(another);
                }
            }
            self.backoff.reset();
            self.troubles.clear();
        }
    }

    /// Tries once; topics to be retried stay in `batch`.
    async fn create(&mut self, batch: &mut Vec<Wanted>) {
        // Several sessions may need the same topic.
        let names: BTreeSet<Arc<str>> = batch.iter().map(|wanted| wanted.topic.clone()).collect();
        let asked = names.iter().map(|name| self.topic(name));
        let asked: Vec<Topic> = asked.collect();
        let answers = topics::create(&self.admin, &asked, REQUEST_DEADLINE).await;
        for topic in names {
            let answer = match &answers {
                Ok(answers) => answers.get(&*topic).copied(),
                Err(error) => Some(Err(code(error))),
            };
            let answer = answer.unwrap_or(Err(RDKafkaErrorCode::Unknown));
            let Some(outcome) = self.judge(&topic, answer) else {
                continue;
            };
            for wanted in batch.extract_if(.., |wanted| wanted.topic == topic) {
                let topic = topic.clone();
                // A session that has ended needs no answer.
                let _ = wanted.answer.send(Created { topic, outcome });
            }
        }
    }

    /// How the creation ended; `None` to retry. Logs it once.
    fn judge(&mut self, topic: &Arc<str>, answer: Answer) -> Option<Outcome> {
        let outcome = outcome(answer);
        match (answer, outcome) {
            (Ok(Existing::New), _) => tracing::info!(topic = &**topic, "Kafka topic created"),
            (Ok(Existing::Before), _) | (Err(_), Some(Outcome::Ready)) => {}
            (Err(code), None) => {
                if self.troubles.insert(topic.clone(), code) != Some(code) {
                    let code = Named(code);
                    tracing::warn!(topic = &**topic, %code, "the Kafka topic cannot be created yet; retrying");
                }
            }
            (Err(code), Some(Outcome::NotAllowed)) => {
                let code = Named(code);
                tracing::warn!(topic = &**topic, %code, "the bridge cannot create the Kafka topic; writing to it in case it exists");
            }
            (Err(code), Some(Outcome::Refused)) => {
                let code = Named(code);
                tracing::error!(topic = &**topic, %code, "Kafka rejected the topic; its messages become dead letters");
            }
        }
        outcome
    }

    fn topic(&self, name: &str) -> Topic {
        new_topic(name, &self.config, &self.dead_letter)
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

/// How a creation ended with an answer; `None` to retry.
fn outcome(answer: Answer) -> Option<Outcome> {
    match topics::outcome(answer) {
        topics::Outcome::Done => Some(Outcome::Ready),
        topics::Outcome::Permanent(Permanent::Name) => Some(Outcome::Refused),
        topics::Outcome::Permanent(Permanent::NotCreatable) => Some(Outcome::NotAllowed),
        topics::Outcome::Transient => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creation_is_retried_until_there_is_a_final_answer() {
        use RDKafkaErrorCode as Code;
        for (answer, expected) in [
            (Ok(Existing::New), Some(Outcome::Ready)),
            (Ok(Existing::Before), Some(Outcome::Ready)),
            (Err(Code::InvalidTopic), Some(Outcome::Refused)),
            (Err(Code::PolicyViolation), Some(Outcome::NotAllowed)),
            (Err(Code::BrokerTransportFailure), None),
        ] {
            assert_eq!(outcome(answer), expected, "{answer:?}");
        }
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
