//! The topics that the consumer writes to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_kafka::context::Quiet;
use iot_kafka::errors::{Named, code};
use iot_kafka::lookup;
use iot_kafka::topics::{self, Answer, Existing, Outcome, Topic, Transient};
use iot_service::Backoff;
use iot_service::health::Component;
use rdkafka::admin::AdminClient;
use rdkafka::error::RDKafkaErrorCode;
use tokio_util::sync::CancellationToken;

use super::base_config;
use crate::config::KafkaConfig;

const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Creates the topics that do not exist. Retries until each exists or Kafka permanently
/// rejects it; `health` says which are missing, and why. If Kafka rejects a topic, the brokers
/// may create it at the first record with settings of their own, or reject that record.
pub(crate) async fn create(
    kafka: KafkaConfig,
    mut topics: Vec<Topic>,
    health: Component,
    stop: CancellationToken,
) {
    // What cannot be written yet waits, and says so itself.
    health.ready();
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    let attempts = async {
        loop {
            let answers = try_create(&kafka, &topics).await;
            let missing = match answers {
                Ok(answers) => settle(&mut topics, &answers),
                Err(error) => Some(format!("{error:#}")),
            };
            let Some(missing) = missing else {
                health.ready();
                return;
            };
            health.degraded(format!("{missing}; retrying"));
            tokio::time::sleep(backoff.next_delay()).await;
        }
    };
    // Without a result, the consumer stops.
    stop.run_until_cancelled(attempts).await;
}

/// Removes the topics that need no further attempt; returns why the others do, for people.
fn settle(topics: &mut Vec<Topic>, answers: &HashMap<String, Answer>) -> Option<String> {
    let mut reasons = Vec::new();
    topics.retain(|Topic { name, .. }| {
        let answer = answers.get(name).copied();
        let answer = answer.unwrap_or(Err(RDKafkaErrorCode::Unknown));
        match (topics::outcome(answer), answer) {
            (Outcome::Done, Ok(Existing::New)) => tracing::info!(topic = name, "created the topic"),
            (Outcome::Done, _) | (_, Ok(_)) => {}
            (Outcome::Permanent(_), Err(code)) => {
                let error = Named(code);
                tracing::warn!(topic = name, %error, "cannot create the topic; leaving it to the brokers");
            }
            (Outcome::Transient(_), Err(code)) => {
                reasons.push(format!("topic {name} cannot be created yet: {}", Named(code)));
                return true;
            }
        }
        false
    });
    (!topics.is_empty()).then(|| reasons.join("; "))
}

/// Tries once. A topic that exists although this user may not create it counts as existing.
async fn try_create(
    kafka: &KafkaConfig,
    topics: &[Topic],
) -> anyhow::Result<HashMap<String, Answer>> {
    let admin: AdminClient<Quiet> = base_config(kafka)?.create_with_context(Quiet)?;
    let admin = Arc::new(admin);
    let mut answers = match topics::create(&admin, topics, REQUEST_DEADLINE).await {
        Ok(answers) => answers,
        Err(error) => {
            let answer = Err(code(&error));
            let names = topics.iter().map(|topic| topic.name.clone());
            names.map(|name| (name, answer)).collect()
        }
    };
    let is_denied =
        |answer: &Answer| topics::outcome(*answer) == Outcome::Transient(Transient::NotAuthorized);
    if answers.values().any(is_denied) {
        let asked = admin.clone();
        let asked =
            tokio::task::spawn_blocking(move || lookup::cluster(asked.inner(), REQUEST_DEADLINE));
        let cluster = asked.await?.context("asking Kafka for its topics")?;
        for (name, answer) in &mut answers {
            if is_denied(answer) && cluster.topics.contains_key(name) {
                *answer = Ok(Existing::Before);
            }
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn topics_are_tried_again_until_kafka_takes_them() {
        use RDKafkaErrorCode as Code;
        let topic = |name: &str| Topic {
            name: name.into(),
            partitions: -1,
            replication: -1,
            configs: BTreeMap::new(),
        };
        let names = ["iot.dead-letter", "alert-events", "wrong"];
        let mut topics: Vec<Topic> = names.into_iter().map(topic).collect();
        let answers = |answers: [Answer; 3]| -> HashMap<String, Answer> {
            let names = names.into_iter().map(str::to_owned);
            names.zip(answers).collect()
        };
        let first = settle(
            &mut topics,
            &answers([
                Err(Code::InvalidReplicationFactor),
                Err(Code::PolicyViolation),
                Err(Code::InvalidConfig),
            ]),
        );
        assert_eq!(
            first.as_deref(),
            Some(
                "topic iot.dead-letter cannot be created yet: INVALID_REPLICATION_FACTOR; \
                 topic alert-events cannot be created yet: POLICY_VIOLATION"
            )
        );
        let denied = Err(Code::TopicAuthorizationFailed);
        let second = settle(&mut topics, &answers([Ok(Existing::New), denied, denied]));
        assert_eq!(
            second.as_deref(),
            Some("topic alert-events cannot be created yet: TOPIC_AUTHORIZATION_FAILED")
        );
        let before = Ok(Existing::Before);
        assert_eq!(settle(&mut topics, &answers([before; 3])), None);
        assert_eq!(topics, []);
    }
}
