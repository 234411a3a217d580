//! The topics that replayed records go to.

use std::collections::HashMap;
use std::sync::Arc;

use iot_core::route::collision_key;
use iot_kafka::errors::code;
use iot_kafka::topics;
use rdkafka::error::RDKafkaErrorCode;
use tokio::runtime::Runtime;

use crate::cluster::{DEADLINE, cluster};
use crate::config::BridgeConfig;
use crate::creator::{self, Admin};

/// Where a record goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) topic: String,
    pub(super) tenant: Option<String>,
    pub(super) partition: Option<i32>,
    pub(super) key: Option<Vec<u8>>,
}

/// The topics that exist, or that admitted records make or assume.
pub(super) struct Targets<'a> {
    config: &'a BridgeConfig,
    runtime: &'a Runtime,
    admin: Arc<Admin>,
    /// By their collision keys.
    known: HashMap<String, String>,
    per_tenant: HashMap<String, usize>,
    /// Topics that could not be created, with Kafka's answer. A run asks once for each topic:
    /// further records for it fail without a request.
    not_created: HashMap<String, RDKafkaErrorCode>,
}

impl<'a> Targets<'a> {
    pub(super) fn new(config: &'a BridgeConfig, runtime: &'a Runtime) -> anyhow::Result<Self> {
        let admin = creator::admin(&config.kafka)?;
        let cluster = runtime.block_on(cluster(&admin))?;
        let mut targets = Self {
            config,
            runtime,
            admin,
            known: HashMap::new(),
            per_tenant: HashMap::new(),
            not_created: HashMap::new(),
        };
        for topic in cluster.topics.into_keys() {
            targets.add(topic);
        }
        Ok(targets)
    }

    fn add(&mut self, topic: String) {
        if let Some((Some(tenant), _)) = self.config.route.names_in(&topic) {
            *self.per_tenant.entry(tenant.into()).or_default() += 1;
        }
        self.known.insert(collision_key(&topic), topic);
    }

    /// Checks that the record may go to its topic. Creates a missing topic, except in a dry run or
    /// with `topics.create` off.
    pub(super) fn admit(&mut self, target: &Target, dry_run: bool) -> Result<(), Refused> {
        let topic = &target.topic;
        match self.known.get(&collision_key(topic)) {
            Some(known) if known == topic => return Ok(()),
            Some(_) => return Err(Refused::Stays("topic_collision")),
            None => {}
        }
        if let Some(code) = self.not_created.get(topic) {
            return Err(Refused::Failed(*code));
        }
        let of_tenant = target
            .tenant
            .as_ref()
            .and_then(|tenant| self.per_tenant.get(tenant));
        if of_tenant.is_some_and(|count| *count >= self.config.topics.max_per_tenant) {
            return Err(Refused::Stays("topic_limit"));
        }
        // With creation off, the delivery report of the record says whether the topic exists.
        if self.config.topics.create
            && !dry_run
            && let Err(code) = self.create(topic)
        {
            self.not_created.insert(topic.clone(), code);
            return Err(Refused::Failed(code));
        }
        self.add(topic.clone());
        Ok(())
    }

    fn create(&self, topic: &str) -> Result<(), RDKafkaErrorCode> {
        let dead_letters = &self.config.dead_letter.topic;
        let topic = creator::new_topic(topic, &self.config.topics, dead_letters);
        let created = topics::create(&self.admin, std::slice::from_ref(&topic), DEADLINE);
        let answers = self.runtime.block_on(created);
        let answers = answers.map_err(|error| code(&error))?;
        answers
            .into_values()
            .try_for_each(|answer| answer.map(drop))
    }
}

/// Why a dead letter can't go to its topic.
pub(super) enum Refused {
    /// It is skipped; the short reason.
    Stays(&'static str),
    /// Kafka did not create the topic.
    Failed(RDKafkaErrorCode),
}
