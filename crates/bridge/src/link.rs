//! The way to the MQTT brokers: connects to the first that answers, comes back
//! after a loss, and moves on to the next when one does not answer.

use std::time::Duration;

use anyhow::Context;
use iot_core::mqtt_url::MqttUrl;
use iot_service::Backoff;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::MqttConfig;
use crate::session::{Session, SessionError, SessionEvent};

const RECONNECT_FIRST: Duration = Duration::from_millis(200);
const RECONNECT_MAX: Duration = Duration::from_secs(10);
/// A connection that lasted so long was a good one.
const SETTLED: Duration = Duration::from_secs(10);

/// What happens on the way.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A connection is up, not subscribed yet.
    Connected {
        broker: String,
        /// Whether the broker still had the session.
        resumed: bool,
    },
    /// Messages will come.
    Subscribed,
    /// A message.
    Publish(Publish),
    /// There is no connection; another attempt follows.
    Lost { broker: String, error: SessionError },
}

/// A connection, or the attempt to get one.
#[derive(Debug)]
pub(crate) struct Link {
    brokers: Vec<MqttUrl>,
    current: usize,
    config: MqttConfig,
    backoff: Backoff,
    state: State,
    /// Since when messages come, on this connection.
    subscribed: Option<Instant>,
    /// Counts connections, so that nothing of an older one is acknowledged on
    /// a newer one.
    connection: u32,
}

#[derive(Debug)]
enum State {
    /// Waits, then connects, in a task of its own: whoever waits for the link
    /// may stop waiting without cutting the attempt short.
    Connecting(JoinHandle<Result<Session, SessionError>>),
    Up(Box<Session>),
    Closed,
}

impl Link {
    pub(crate) fn new(config: &MqttConfig) -> anyhow::Result<Self> {
        let brokers = config.brokers.iter().map(|broker| broker.parse());
        let brokers: Result<Vec<MqttUrl>, _> = brokers.collect();
        let mut link = Self {
            brokers: brokers.context("reading mqtt.brokers")?,
            current: 0,
            config: config.clone(),
            backoff: Backoff::new(RECONNECT_FIRST, RECONNECT_MAX),
            state: State::Closed,
            subscribed: None,
            connection: 0,
        };
        link.connect_after(Duration::ZERO);
        Ok(link)
    }

    /// The number of the current connection, from 1.
    pub(crate) fn connection(&self) -> u32 {
        self.connection
    }

    /// Waits for what happens next. Cancel safe.
    pub(crate) async fn next(&mut self, may_read: bool) -> LinkEvent {
        let broker = self.brokers[self.current].to_string();
        let error = match &mut self.state {
            State::Up(session) => match session.next(may_read).await {
                Ok(SessionEvent::Publish(publish)) => return LinkEvent::Publish(publish),
                Ok(SessionEvent::Subscribed) => {
                    self.subscribed = Some(Instant::now());
                    return LinkEvent::Subscribed;
                }
                Err(error) => error,
            },
            State::Connecting(attempt) => match attempt.await {
                // The runtime is about to end.
                Err(cancelled) if cancelled.is_cancelled() => return std::future::pending().await,
                Ok(Ok(session)) => {
                    let resumed = session.resumed;
                    self.state = State::Up(Box::new(session));
                    self.connection += 1;
                    return LinkEvent::Connected { broker, resumed };
                }
                Ok(Err(error)) => error,
                Err(panic) => SessionError::Protocol(panic.to_string()),
            },
            State::Closed => return std::future::pending().await,
        };
        self.current = match self.subscribed.take() {
            // The preferred broker first, after a connection that worked.
            Some(since) => {
                if since.elapsed() > SETTLED {
                    self.backoff.reset();
                }
                0
            }
            None => (self.current + 1) % self.brokers.len(),
        };
        let delay = self.backoff.next_delay();
        self.connect_after(delay);
        LinkEvent::Lost { broker, error }
    }

    /// Queues the acknowledgement of a message; `false` if the connection that
    /// brought it is gone, so that the broker will send it again.
    pub(crate) fn acknowledge(&mut self, connection: u32, packet_id: u16, qos: QoS) -> bool {
        let State::Up(session) = &mut self.state else {
            return false;
        };
        if connection != self.connection {
            return false;
        }
        let queued = session.acknowledge(packet_id, qos);
        if let Err(error) = &queued {
            tracing::error!(%error, packet_id, "an acknowledgement could not be written");
        }
        queued.is_ok()
    }

    /// Writes what is queued and says goodbye.
    pub(crate) async fn close(&mut self) {
        if let State::Up(session) = &mut self.state
            && let Err(error) = session.disconnect().await
        {
            tracing::warn!(%error, "could not say goodbye to the MQTT broker");
        }
        self.state = State::Closed;
    }

    fn connect_after(&mut self, delay: Duration) {
        let broker = self.brokers[self.current].clone();
        let config = self.config.clone();
        self.state = State::Connecting(tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            // Every time, because passwords are rotated.
            let password = password(&config).map_err(SessionError::PasswordFile)?;
            Session::connect(broker, config, password).await
        }));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let State::Connecting(attempt) = &self.state {
            attempt.abort();
        }
    }
}

fn password(config: &MqttConfig) -> std::io::Result<String> {
    if config.password_file.is_empty() {
        return Ok(config.password.expose().to_string());
    }
    let text = std::fs::read_to_string(&config.password_file)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_string())
}
