//! The topics that the consumer writes to.

use std::time::Duration;

use iot_service::Backoff;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio_util::sync::CancellationToken;

use super::context::Quiet;
use super::producer_config;
use crate::config::KafkaConfig;

/// A topic, as it is created.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    /// -1 for the brokers' default.
    pub(crate) replication: i32,
    /// Largest record, bytes; none for the brokers' limit.
    pub(crate) max_record: Option<usize>,
}

/// Creates a topic if it is missing; tries until Kafka answers. Otherwise Kafka may
/// create it at the first record, as it likes, or refuse that.
pub(crate) async fn create(kafka: KafkaConfig, topic: Topic, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let name = topic.name.as_str();
    loop {
        match try_create(&kafka, &topic).await {
            Ok(()) => return,
            Err(error) if is_final(&error) => {
                tracing::info!(topic = name, %error, "could not create the topic; it is left to the brokers");
                return;
            }
            Err(error) => tracing::debug!(topic = name, %error, "creating the topic failed"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

async fn try_create(kafka: &KafkaConfig, topic: &Topic) -> anyhow::Result<()> {
    let admin: AdminClient<Quiet> = producer_config(kafka)?.create_with_context(Quiet)?;
    let limit = topic.max_record.map(|bytes| bytes.to_string());
    let replication = TopicReplication::Fixed(topic.replication);
    let mut new = NewTopic::new(&topic.name, topic.partitions, replication);
    if let Some(limit) = &limit {
        new = new.set("max.message.bytes", limit);
    }
    let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(10)));
    for result in admin.create_topics([&new], &options).await? {
        match result {
            Ok(name) => tracing::info!(topic = name, "created the topic"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(KafkaError::AdminOp(code).into()),
        }
    }
    Ok(())
}

/// Whether trying again can't help.
fn is_final(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(KafkaError::AdminOp(
            RDKafkaErrorCode::UnsupportedFeature
                | RDKafkaErrorCode::UnsupportedVersion
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::InvalidReplicationFactor
                | RDKafkaErrorCode::PolicyViolation
        ))
    )
}
