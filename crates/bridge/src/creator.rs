//! Creates Kafka topics for the bridge.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_core::headers::BRIDGE_SESSIONS_TOPIC;
use iot_service::Backoff;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::mpsc;

use crate::client;
use crate::config::{KafkaConfig, TopicsConfig};
use crate::kafka::{self, DEAD_LETTER_MAX};

/// How many topics are created in one request.
const BATCH: usize = 100;
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// A topic that is wanted, and who wants it.
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

/// What came of a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The topic is there.
    Ready,
    /// The bridge may not create it; it may be there all the same.
    NotAllowed,
    /// Kafka does not want it.
    Refused,
}

/// The admin client, for topics and to see whether Kafka is there.
pub(crate) type Admin = AdminClient<Quiet>;

/// An admin client for the cluster.
pub(crate) fn admin(config: &KafkaConfig) -> anyhow::Result<Arc<Admin>> {
    let admin = AdminClient::from_config_and_context(&client::client(config)?, Quiet);
    Ok(Arc::new(admin.context("creating the Kafka admin client")?))
}

/// A context that leaves reporting to those who ask.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka admin client");
    }
}

/// Creates topics, many in one request, for as long as it takes.
pub(crate) struct Creator {
    admin: Arc<Admin>,
    config: TopicsConfig,
    dead_letter: Arc<str>,
    backoff: Backoff,
    /// What was said already of the topics at hand.
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

    /// Works until nobody wants a topic any more.
    pub(crate) async fn run(mut self, mut wanted: mpsc::UnboundedReceiver<Wanted>) {
        let mut batch = Vec::new();
        while wanted.recv_many(&mut batch, BATCH).await > 0 {
            while !batch.is_empty() {
                self.create(&mut batch).await;
                if batch.is_empty() {
                    break;
                }
                tokio::time::sleep(self.backoff.next_delay()).await;
                // A topic that can't be created now must not keep others waiting.
                while let Ok(another) = wanted.try_recv() {
                    batch.push(another);
                }
            }
            self.backoff.reset();
            self.troubles.clear();
        }
    }

    /// Tries once; what has to be tried again stays in `batch`.
    async fn create(&mut self, batch: &mut Vec<Wanted>) {
        // Several sessions may want the same one.
        let topics: BTreeSet<&Arc<str>> = batch.iter().map(|wanted| &wanted.topic).collect();
        let requests = topics.iter().map(|topic| self.request(topic));
        let requests: Vec<NewTopic<'_>> = requests.collect();
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_DEADLINE))
            .operation_timeout(Some(REQUEST_DEADLINE));
        let errors: HashMap<String, RDKafkaErrorCode> =
            match self.admin.create_topics(&requests, &options).await {
                Ok(results) => results.into_iter().filter_map(Result::err).collect(),
                Err(error) => {
                    let code = match error {
                        KafkaError::AdminOp(code) => code,
                        _ => RDKafkaErrorCode::Unknown,
                    };
                    let failed = topics.iter().map(|topic| (topic.to_string(), code));
                    failed.collect()
                }
            };
        let topics: Vec<Arc<str>> = topics.into_iter().cloned().collect();
        for topic in topics {
            let Some(outcome) = self.judge(&topic, errors.get(&*topic)) else {
                continue;
            };
            for wanted in batch.extract_if(.., |wanted| wanted.topic == topic) {
                let topic = topic.clone();
                // The session is gone: nobody waits any more.
                let _ = wanted.answer.send(Created { topic, outcome });
            }
        }
    }

    /// What came of it; `None` to try again. Says so once.
    fn judge(&mut self, topic: &Arc<str>, error: Option<&RDKafkaErrorCode>) -> Option<Outcome> {
        let outcome = outcome(error);
        match (error, outcome) {
            (None, _) => tracing::info!(topic = &**topic, "Kafka topic created"),
            (Some(code), None) => {
                if self.troubles.insert(topic.clone(), *code) != Some(*code) {
                    tracing::warn!(topic = &**topic, %code, "the Kafka topic can't be created now, trying on");
                }
            }
            (Some(code), Some(Outcome::NotAllowed)) => {
                tracing::warn!(topic = &**topic, %code, "the Kafka topic can't be created from here");
            }
            (Some(code), Some(Outcome::Refused)) => {
                tracing::error!(topic = &**topic, %code, "Kafka refuses the topic: its messages are dead letters");
            }
            (Some(_), Some(Outcome::Ready)) => {}
        }
        outcome
    }

    fn request<'a>(&'a self, topic: &'a Arc<str>) -> NewTopic<'a> {
        new_topic(topic, &self.config, &self.dead_letter)
    }
}

/// What the bridge asks Kafka for when it creates a topic.
pub(crate) fn new_topic<'a>(
    name: &'a str,
    config: &'a TopicsConfig,
    dead_letter: &str,
) -> NewTopic<'a> {
    let replication = TopicReplication::Fixed(config.replication);
    if name == BRIDGE_SESSIONS_TOPIC {
        let topic = NewTopic::new(name, 1, replication);
        let configs = SESSIONS_CONFIG.iter();
        return configs.fold(topic, |topic, (name, value)| topic.set(name, value));
    }
    let topic = NewTopic::new(name, config.partitions, replication);
    if name == dead_letter {
        return topic.set("max.message.bytes", DEAD_LETTER_LIMIT);
    }
    let configs = config.configs.iter();
    configs.fold(topic, |topic, (name, value)| topic.set(name, value))
}

/// A little more than [`DEAD_LETTER_MAX`], for key and headers.
pub(crate) const DEAD_LETTER_LIMIT: &str = "8454144";
const _: () = assert!(DEAD_LETTER_MAX < 8_454_144);

/// Only the last record of each session counts, and a start reads them all.
const SESSIONS_CONFIG: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.ms", "600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
];

/// What an answer to a request for creation means; `None` to try again.
fn outcome(error: Option<&RDKafkaErrorCode>) -> Option<Outcome> {
    use RDKafkaErrorCode as Code;
    match error {
        None | Some(Code::TopicAlreadyExists) => Some(Outcome::Ready),
        // The name collides with another topic, or is no name.
        Some(Code::InvalidTopic) => Some(Outcome::Refused),
        Some(
            Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::PolicyViolation
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidConfig
            | Code::InvalidReplicationFactor
            | Code::InvalidPartitions,
        ) => Some(Outcome::NotAllowed),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creation_goes_on_until_there_is_an_answer() {
        use RDKafkaErrorCode as Code;
        for (error, expected) in [
            (None, Some(Outcome::Ready)),
            (Some(&Code::TopicAlreadyExists), Some(Outcome::Ready)),
            (Some(&Code::InvalidTopic), Some(Outcome::Refused)),
            (Some(&Code::PolicyViolation), Some(Outcome::NotAllowed)),
            (Some(&Code::BrokerTransportFailure), None),
        ] {
            assert_eq!(outcome(error), expected, "{error:?}");
        }
    }
}
