//! Sink `mqtt`: one lane per connection, MQTT 5.
//!
//! A batch is published with the packet identifiers 1, 2, 3...; it is done when the
//! broker has acknowledged every message (QoS 1) or completed it (QoS 2). After a
//! lost connection the other messages are published again, in order: none is lost,
//! and the first copies of a device's messages stay in order. At QoS 0 there are no
//! answers: a batch is done when it is written.

mod connection;

use std::sync::Arc;

use iot_core::headers;
use iot_mqtt::{MqttUrl, Packet, PubAckReason, PubRecReason, Publish, PublishProperties, QoS};
use iot_service::health::Component;
use iot_service::{Backoff, Repeats};
use tokio::time::Instant;

use self::connection::Connection;
use super::{SendError, Sent, Sink};
use crate::config::{MqttConfig, SimulatorConfig};
use crate::fleet::origins;
use crate::lane::{Batch, Message};
use crate::metrics::Metrics;

/// One connection and the progress of its batch.
#[derive(Debug)]
pub(crate) struct Session {
    config: Arc<MqttConfig>,
    /// Content type of the payloads.
    media_type: &'static str,
    /// Topics by origin.
    topics: Arc<[String]>,
    client_id: String,
    rejections: Arc<Repeats>,
    connection: Option<Connection>,
    backoff: Backoff,
    retry_at: Instant,
    answers: Vec<Option<Answer>>,
    /// Unanswered messages of this connection.
    in_flight: usize,
}

/// What a packet of the broker says about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    /// The answer to the message with this index in the batch.
    Answered(usize, Answer),
    /// The broker has the message with this packet identifier and waits for a
    /// PUBREL (QoS 2).
    Received(u16),
}

/// The broker's answer to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Taken,
    Refused,
}

/// Opens every connection; retries until it succeeds.
pub(crate) async fn open(
    config: &SimulatorConfig,
    metrics: &Metrics,
    health: &Component,
) -> Vec<Session> {
    let (media_type, origins) = (config.format.media_type(), origins(&config.fleet));
    let topics = origins.into_iter().map(|(tenant, project)| {
        let topic = config.mqtt.topic.replace("{tenant}", tenant);
        topic.replace("{project}", project)
    });
    let topics: Arc<[String]> = topics.collect();
    let retry = &config.retry;
    let config = Arc::new(config.mqtt.clone());
    let rejections = Arc::new(Repeats::default());
    // A second simulator with the same client ids would take over the sessions.
    let run: u32 = rand::random();
    let mut sessions = Vec::with_capacity(usize::from(config.connections));
    let mut backoff = retry.delays();
    while sessions.len() < usize::from(config.connections) {
        let client_id = format!("{}-{run:08x}-{}", config.client_id, sessions.len());
        match connect(&config, &client_id).await {
            Ok(connection) => {
                backoff.reset();
                sessions.push(Session {
                    config: Arc::clone(&config),
                    media_type,
                    topics: Arc::clone(&topics),
                    client_id,
                    rejections: Arc::clone(&rejections),
                    connection: Some(connection),
                    backoff: retry.delays(),
                    retry_at: Instant::now(),
                    answers: Vec::new(),
                    in_flight: 0,
                });
            }
            Err(error) => {
                metrics.send_errors.inc();
                health.not_ready(format!("{error:#}"));
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
    sessions
}

/// Connects to the first broker that answers.
async fn connect(config: &MqttConfig, client_id: &str) -> anyhow::Result<Connection> {
    let mut failures = Vec::new();
    for broker in &config.brokers {
        let attempt = async {
            let url: MqttUrl = broker.parse()?;
            Connection::open(&url, config, client_id).await
        };
        match attempt.await {
            Ok(connection) => return Ok(connection),
            Err(error) => failures.push(format!("connecting to {broker}: {error:#}")),
        }
    }
    anyhow::bail!(failures.join("; "))
}

impl Session {
    async fn publish(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.config, &self.client_id).await?,
        };
        let connection = self.connection.insert(connection);
        // Reports a connection that is known to be lost.
        connection.attend().await?;
        let qos = match self.config.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let window = connection.receive_maximum.min(self.config.in_flight);
        let unanswered: Vec<usize> = (0..batch.len())
            .filter(|index| self.answers[*index].is_none())
            .collect();
        let messages: Vec<_> = batch.messages().collect();
        let mut waiting = unanswered.len();
        let mut next = unanswered.into_iter();
        while waiting > 0 {
            let mut written = Vec::new();
            for index in next.by_ref().take(window - self.in_flight) {
                let message = messages[index];
                let topic = &self.topics[message.origin.index()];
                let mut publish = publish(index, topic, message, self.media_type)?;
                publish.qos = qos;
                match connection.writer().publish(&publish) {
                    Ok(()) => {
                        self.in_flight += 1;
                        written.push(index);
                    }
                    // Larger than the broker accepts: a retry can't succeed.
                    Err(_) => {
                        self.answers[index] = Some(Answer::Refused);
                        waiting -= 1;
                    }
                }
            }
            connection.flush().await?;
            if qos == QoS::AtMostOnce {
                for index in &written {
                    self.answers[*index] = Some(Answer::Taken);
                }
                waiting -= written.len();
                self.in_flight = 0;
            }
            if self.in_flight == 0 {
                continue;
            }
            let mut packet = Some(connection.read().await?);
            while let Some(received) = packet {
                match reply(&received) {
                    Some(Reply::Answered(index, answer)) => {
                        match self.answers.get_mut(index) {
                            Some(slot @ None) if self.in_flight > 0 => *slot = Some(answer),
                            _ => {
                                anyhow::bail!("the broker acknowledged a message that was not sent")
                            }
                        }
                        self.in_flight -= 1;
                        waiting -= 1;
                    }
                    Some(Reply::Received(id)) => connection.writer().release(id),
                    None => {}
                }
                packet = connection.buffered()?;
            }
        }
        Ok(())
    }
}

impl Sink for Session {
    fn begin(&mut self, batch: &Batch) {
        self.answers.clear();
        self.answers.resize(batch.len(), None);
    }

    fn give_up(&self, _: &Batch) -> (usize, Sent) {
        let count = |wanted: Option<Answer>| {
            let answers = self.answers.iter();
            answers.filter(|answer| **answer == wanted).count()
        };
        let refused = count(Some(Answer::Refused));
        (count(None), Sent { refused })
    }

    async fn attempt(&mut self, batch: &Batch) -> Result<Sent, SendError> {
        self.in_flight = 0;
        if let Err(error) = self.publish(batch).await {
            self.connection = None;
            let why = format!("{error:#}");
            return Err(match self.in_flight {
                0 => SendError::Retry(why),
                messages => SendError::Unanswered { messages, why },
            });
        }
        self.backoff.reset();
        let (_, Sent { refused }) = self.give_up(batch);
        if refused > 0
            && let Some(left_out) = self.rejections.admit()
        {
            tracing::warn!(
                refused,
                left_out,
                "the MQTT broker permanently rejected messages; they are dropped"
            );
        }
        Ok(Sent { refused })
    }

    async fn probe(&mut self) -> Result<(), SendError> {
        match connect(&self.config, &self.client_id).await {
            Ok(connection) => {
                self.connection = Some(connection);
                Ok(())
            }
            Err(error) => Err(SendError::Retry(format!("{error:#}"))),
        }
    }

    async fn idle(&mut self) {
        match &mut self.connection {
            Some(connection) => connection.wait().await,
            None => tokio::time::sleep_until(self.retry_at).await,
        }
    }

    async fn attend(&mut self) -> Result<(), SendError> {
        let result = match &mut self.connection {
            Some(connection) => connection.attend().await,
            None => match connect(&self.config, &self.client_id).await {
                Ok(connection) => {
                    self.connection = Some(connection);
                    self.backoff.reset();
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        result.map_err(|error| {
            self.connection = None;
            self.retry_at = Instant::now() + self.backoff.next_delay();
            SendError::Retry(format!("{error:#}"))
        })
    }

    async fn close(self) {
        if let Some(connection) = self.connection {
            connection.close().await;
        }
    }
}

fn publish(
    index: usize,
    topic: &str,
    message: Message<'_>,
    media_type: &str,
) -> anyhow::Result<Publish> {
    let label = message.label;
    let labels = label.map(|label| (headers::LABEL.to_owned(), label.to_owned()));
    let properties = PublishProperties {
        content_type: Some(media_type.to_owned()),
        user_properties: labels.into_iter().collect(),
        ..PublishProperties::default()
    };
    let payload = message.payload.to_vec();
    let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload, Some(properties));
    // Packet identifier 0 is not allowed.
    publish.pkid = u16::try_from(index + 1)?;
    Ok(publish)
}

/// What a packet says about a message of the batch, if anything.
fn reply(packet: &Packet) -> Option<Reply> {
    let (id, answer) = match packet {
        Packet::PubAck(ack) => match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => {
                (ack.pkid, Answer::Taken)
            }
            PubAckReason::UnspecifiedError
            | PubAckReason::ImplementationSpecificError
            | PubAckReason::NotAuthorized
            | PubAckReason::TopicNameInvalid
            | PubAckReason::PacketIdentifierInUse
            | PubAckReason::QuotaExceeded
            | PubAckReason::PayloadFormatInvalid => (ack.pkid, Answer::Refused),
        },
        Packet::PubRec(received) => match received.reason {
            PubRecReason::Success | PubRecReason::NoMatchingSubscribers => {
                return Some(Reply::Received(received.pkid));
            }
            PubRecReason::UnspecifiedError
            | PubRecReason::ImplementationSpecificError
            | PubRecReason::NotAuthorized
            | PubRecReason::TopicNameInvalid
            | PubRecReason::PacketIdentifierInUse
            | PubRecReason::QuotaExceeded
            | PubRecReason::PayloadFormatInvalid => (received.pkid, Answer::Refused),
        },
        Packet::PubComp(id) => (*id, Answer::Taken),
        _ => return None,
    };
    // Identifier 0 becomes an index that no batch has.
    Some(Reply::Answered(usize::from(id).wrapping_sub(1), answer))
}

#[cfg(test)]
mod tests;
