//! Kafka topics that messages are routed to: which are known, which are being
//! created, which can't be.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_core::route::{Route, collision_key};
use iot_service::Backoff;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::mpsc;

use crate::config::{KafkaConfig, TopicsConfig};
use crate::kafka::{self, DEAD_LETTER_MAX};
use crate::metrics::Refusal;
use crate::ring::Seq;

/// How many topics are created in one request.
const BATCH: usize = 100;
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// The topics of one bridge, and the messages that wait for one.
#[derive(Debug)]
pub(crate) struct Topics {
    max_per_tenant: usize,
    may_create: bool,
    states: HashMap<Arc<str>, State>,
    /// Topic and tenant by what Kafka compares: it refuses topics that differ
    /// only in `.` and `_`.
    collisions: HashMap<String, (Arc<str>, String)>,
    per_tenant: HashMap<String, usize>,
    // Never longer than the number of topics.
    wanted: mpsc::UnboundedSender<Arc<str>>,
}

#[derive(Debug)]
enum State {
    /// It is there.
    Ready,
    /// It can't be created from here; whether it is there, its records tell.
    Assumed,
    /// Being created; these messages wait for it.
    Creating(Vec<Seq>),
    /// Kafka does not want it.
    Refused,
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

impl Topics {
    pub(crate) fn new(config: &TopicsConfig, wanted: mpsc::UnboundedSender<Arc<str>>) -> Self {
        Self {
            max_per_tenant: config.max_per_tenant,
            may_create: config.create,
            states: HashMap::new(),
            collisions: HashMap::new(),
            per_tenant: HashMap::new(),
            wanted,
        }
    }

    /// How many topics are known.
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// The shared name of the topic of a route, known from now on.
    pub(crate) fn open(&mut self, route: &Route) -> Result<Arc<str>, Refusal> {
        if let Some((topic, state)) = self.states.get_key_value(route.topic.as_str()) {
            return match state {
                State::Refused => Err(Refusal::TopicRefused),
                State::Ready | State::Assumed | State::Creating(_) => Ok(topic.clone()),
            };
        }
        let collision_key = collision_key(&route.topic);
        if self.collisions.contains_key(&collision_key) {
            return Err(Refusal::TopicCollision);
        }
        let count = self.per_tenant.entry(route.tenant.clone()).or_default();
        if *count >= self.max_per_tenant {
            return Err(Refusal::TopicLimit);
        }
        *count += 1;
        let topic: Arc<str> = route.topic.as_str().into();
        let tenant = route.tenant.clone();
        self.collisions
            .insert(collision_key, (topic.clone(), tenant));
        self.create(topic.clone());
        Ok(topic)
    }

    /// The same for the dead-letter topic, which no rule restricts.
    pub(crate) fn open_unrestricted(&mut self, topic: &Arc<str>) {
        if !self.states.contains_key(topic) {
            self.create(topic.clone());
        }
    }

    /// Whether a record may be sent to the topic now. If not, `seq` waits and
    /// is given back by [`Self::created`].
    pub(crate) fn admit(&mut self, topic: &Arc<str>, seq: Seq) -> bool {
        match self.states.get_mut(topic) {
            Some(State::Creating(waiting)) => {
                waiting.push(seq);
                false
            }
            // A refused topic fails again at the producer, which says why.
            Some(State::Ready | State::Assumed | State::Refused) | None => true,
        }
    }

    /// Kafka says that there is no such topic: creates it again. `false` if the
    /// bridge can't, so that there is no use in waiting for it.
    pub(crate) fn gone(&mut self, topic: &Arc<str>) -> bool {
        match self.states.get(topic) {
            Some(State::Creating(_)) => true,
            Some(State::Ready) => {
                tracing::warn!(
                    topic = &**topic,
                    "the Kafka topic is gone: creating it again"
                );
                self.create(topic.clone());
                true
            }
            Some(State::Assumed | State::Refused) | None => false,
        }
    }

    /// Takes the end of a creation; returns the messages that waited, in the
    /// order of their arrival.
    pub(crate) fn created(&mut self, created: &Created) -> Vec<Seq> {
        let state = match created.outcome {
            Outcome::Ready => State::Ready,
            Outcome::NotAllowed => State::Assumed,
            Outcome::Refused => {
                // Another topic, which Kafka does have, may need the place.
                self.forget(&created.topic);
                State::Refused
            }
        };
        match self.states.insert(created.topic.clone(), state) {
            Some(State::Creating(mut waiting)) => {
                waiting.sort_unstable();
                waiting.dedup();
                waiting
            }
            _ => Vec::new(),
        }
    }

    fn forget(&mut self, topic: &Arc<str>) {
        if let Some((_, tenant)) = self.collisions.remove(&collision_key(topic))
            && let Some(count) = self.per_tenant.get_mut(&tenant)
        {
            *count -= 1;
        }
    }

    fn create(&mut self, topic: Arc<str>) {
        if !self.may_create {
            self.states.insert(topic, State::Assumed);
            return;
        }
        self.states
            .insert(topic.clone(), State::Creating(Vec::new()));
        // The creator is gone only at the end of the service.
        let _ = self.wanted.send(topic);
    }
}

/// The admin client, for topics and to see whether Kafka is there.
pub(crate) type Admin = AdminClient<Quiet>;

/// An admin client for the cluster.
pub(crate) fn admin(config: &KafkaConfig) -> anyhow::Result<Arc<Admin>> {
    let admin = AdminClient::from_config_and_context(&kafka::client(config), Quiet);
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
    pub(crate) async fn run(
        mut self,
        mut wanted: mpsc::UnboundedReceiver<Arc<str>>,
        created: mpsc::UnboundedSender<Created>,
    ) {
        let mut batch = Vec::new();
        while wanted.recv_many(&mut batch, BATCH).await > 0 {
            while !batch.is_empty() {
                self.create(&mut batch, &created).await;
                if batch.is_empty() {
                    break;
                }
                tokio::time::sleep(self.backoff.next_delay()).await;
                // A topic that can't be created now must not keep others waiting.
                while let Ok(topic) = wanted.try_recv() {
                    batch.push(topic);
                }
            }
            self.backoff.reset();
            self.troubles.clear();
        }
    }

    /// Tries once; what has to be tried again stays in `batch`.
    async fn create(
        &mut self,
        batch: &mut Vec<Arc<str>>,
        created: &mpsc::UnboundedSender<Created>,
    ) {
        let requests: Vec<NewTopic<'_>> = batch.iter().map(|topic| self.request(topic)).collect();
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
                    let failed = batch.iter().map(|topic| (topic.to_string(), code));
                    failed.collect()
                }
            };
        batch.retain(|topic| {
            let Some(outcome) = self.judge(topic, errors.get(&**topic)) else {
                return true;
            };
            let topic = topic.clone();
            // The bridge is gone: nobody waits any more.
            let _ = created.send(Created { topic, outcome });
            false
        });
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

    fn topics(max_per_tenant: usize) -> (Topics, mpsc::UnboundedReceiver<Arc<str>>) {
        let (wanted, wanted_end) = mpsc::unbounded_channel();
        let config = TopicsConfig {
            max_per_tenant,
            ..TopicsConfig::default()
        };
        (Topics::new(&config, wanted), wanted_end)
    }

    fn route(tenant: &str, project: &str) -> Route {
        Route {
            topic: format!("{tenant}.{project}"),
            tenant: tenant.into(),
            project: project.into(),
            key: None,
        }
    }

    #[test]
    fn messages_wait_for_a_new_topic_in_their_order() {
        let (mut topics, mut wanted) = topics(10);
        let topic = topics.open(&route("t", "p")).unwrap();
        assert!(!topics.admit(&topic, 2));
        assert!(!topics.admit(&topic, 1));
        assert_eq!(wanted.try_recv().as_deref(), Ok("t.p"));
        let created = Created {
            topic: topic.clone(),
            outcome: Outcome::Ready,
        };
        assert_eq!(topics.created(&created), [1, 2]);
        assert!(topics.admit(&topic, 3));
        assert!(topics.gone(&topic));
        for seq in [4, 3] {
            assert!(
                !topics.admit(&topic, seq),
                "must wait while it is created again"
            );
        }
        assert_eq!(topics.created(&created), [3, 4]);
    }

    #[test]
    fn colliding_names_and_too_many_topics_are_refused() {
        let (mut topics, _wanted) = topics(2);
        assert!(topics.open(&route("a_b", "c")).is_ok());
        assert_eq!(
            topics.open(&route("a", "b_c")),
            Err(Refusal::TopicCollision)
        );
        assert!(
            topics.open(&route("a_b", "c")).is_ok(),
            "the first one stays"
        );
        assert!(topics.open(&route("t", "1")).is_ok());
        assert!(topics.open(&route("t", "2")).is_ok());
        assert_eq!(topics.open(&route("t", "3")), Err(Refusal::TopicLimit));
        assert!(topics.open(&route("u", "3")).is_ok(), "another tenant");
    }

    #[test]
    fn what_kafka_refuses_is_refused_from_then_on_and_leaves_its_place() {
        let (mut topics, _wanted) = topics(1);
        let topic = topics.open(&route("a", "b_c")).unwrap();
        topics.created(&Created {
            topic,
            outcome: Outcome::Refused,
        });
        assert_eq!(topics.open(&route("a", "b_c")), Err(Refusal::TopicRefused));
        assert!(
            topics.open(&route("a_b", "c")).is_ok(),
            "the twin that Kafka has"
        );
        assert!(topics.open(&route("a", "d")).is_ok(), "the tenant's count");
    }

    #[test]
    fn a_topic_that_may_not_be_created_is_not_waited_for() {
        let (mut topics, _wanted) = topics(1);
        let topic = topics.open(&route("t", "p")).unwrap();
        topics.created(&Created {
            topic: topic.clone(),
            outcome: Outcome::NotAllowed,
        });
        assert!(topics.admit(&topic, 1), "it may be there all the same");
        assert!(!topics.gone(&topic));
    }

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
