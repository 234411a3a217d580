//! Restores the numbering at the start, from the session's last checkpoint.

use std::time::{Duration, Instant};

use iot_core::headers::BRIDGE_SESSIONS_TOPIC;
use iot_service::Backoff;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use tokio::sync::mpsc;

use super::Event;
use super::checkpoint::Checkpoint;
use super::log_reader::{self, READ_DEADLINE};
use crate::config::KafkaConfig;

/// What the checkpoint topic says about a session.
#[derive(Debug)]
pub(crate) enum Restored {
    /// Its last checkpoint; `None` before the first run, or if it is invalid.
    Checkpoint(Option<Checkpoint>),
    /// Kafka does not authorise the bridge to read checkpoints. The checkpoint follows once it
    /// does.
    Denied,
}

/// Reads the last checkpoint of `client_id`, retrying until Kafka answers, and sends
/// [`Event::Restored`]. If Kafka denies access, it sends that, and the checkpoint once Kafka
/// grants access. Returns early if the runtime or the session ends.
pub(super) async fn restore(
    kafka: KafkaConfig,
    client_id: String,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut denied_backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(30));
    let (mut logged, mut denied) = (String::new(), false);
    loop {
        let (kafka, client_id) = (kafka.clone(), client_id.clone());
        let read = tokio::task::spawn_blocking(move || last_checkpoint(&kafka, &client_id));
        let Ok(read) = read.await else {
            return;
        };
        match read {
            Ok(Restored::Denied) => {
                if !std::mem::replace(&mut denied, true)
                    && events.send(Event::Restored(Restored::Denied)).is_err()
                {
                    return;
                }
            }
            Ok(restored) => {
                // Fails if the session has ended.
                let _ = events.send(Event::Restored(restored));
                return;
            }
            Err(error) => {
                let error = format!("{error:#}");
                if error != logged {
                    tracing::warn!(error, "cannot read the last checkpoint yet; retrying");
                }
                logged = error;
            }
        }
        let backoff = if denied {
            &mut denied_backoff
        } else {
            &mut backoff
        };
        tokio::time::sleep(backoff.next_delay()).await;
        if events.is_closed() {
            return;
        }
    }
}

fn last_checkpoint(config: &KafkaConfig, client_id: &str) -> anyhow::Result<Restored> {
    let topic = BRIDGE_SESSIONS_TOPIC;
    let consumer = log_reader::consumer(config)?;
    let mut last = None;
    let deadline = Instant::now() + READ_DEADLINE;
    let read = log_reader::read_topic(&consumer, topic, None, deadline, |record| {
        if record.key() == Some(client_id.as_bytes()) {
            last = record.payload().map(<[u8]>::to_vec);
        }
    });
    match read {
        // The right to write to a topic shows its partitions, but not its records.
        Err(error) if is_denied(&error) => return Ok(Restored::Denied),
        read => read?,
    }
    let Some(json) = last else {
        return Ok(Restored::Checkpoint(None));
    };
    let checkpoint = serde_json::from_slice(&json);
    if let Err(error) = &checkpoint {
        tracing::warn!(topic, client_id, %error, "the last checkpoint is invalid; starting without one");
    }
    Ok(Restored::Checkpoint(checkpoint.ok()))
}

fn is_denied(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<KafkaError>();
    error.and_then(KafkaError::rdkafka_error_code)
        == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
}
