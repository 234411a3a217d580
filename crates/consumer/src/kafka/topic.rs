//! The topics that the consumer writes to.

use std::time::Duration;

use iot_kafka::context::Quiet;
use iot_kafka::errors::{Named, code};
use iot_kafka::topics::{self, Answer, Existing, Outcome, Topic};
use iot_service::Backoff;
use rdkafka::admin::AdminClient;
use rdkafka::error::RDKafkaErrorCode;
use tokio_util::sync::CancellationToken;

use super::base_config;
use crate::config::KafkaConfig;

const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Creates a topic unless it exists; retries until Kafka gives a final answer. If Kafka
/// rejects the topic, the brokers may create it at the first record with settings of their
/// own, or reject that record.
pub(crate) async fn create(kafka: KafkaConfig, topic: Topic, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let answer = try_create(&kafka, &topic).await;
        if is_final(&topic.name, answer) {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

async fn try_create(kafka: &KafkaConfig, topic: &Topic) -> anyhow::Result<Answer> {
    let admin: AdminClient<Quiet> = base_config(kafka)?.create_with_context(Quiet)?;
    let topics = std::slice::from_ref(topic);
    let answers = topics::create(&admin, topics, REQUEST_DEADLINE).await;
    Ok(match answers {
        Ok(answers) => answers.get(&topic.name).copied(),
        Err(error) => Some(Err(code(&error))),
    }
    .unwrap_or(Err(RDKafkaErrorCode::Unknown)))
}

/// Logs the answer.
fn is_final(topic: &str, answer: anyhow::Result<Answer>) -> bool {
    let error = match answer {
        Ok(Ok(Existing::New)) => {
            tracing::info!(topic, "created the topic");
            return true;
        }
        Ok(Ok(Existing::Before)) => return true,
        Ok(Err(code)) => {
            let error = Named(code);
            if matches!(topics::outcome(Err(code)), Outcome::Permanent(_)) {
                tracing::info!(topic, %error, "cannot create the topic; leaving it to the brokers");
                return true;
            }
            error.to_string()
        }
        Err(error) => format!("{error:#}"),
    };
    tracing::debug!(topic, error, "cannot create the topic yet; retrying");
    false
}
