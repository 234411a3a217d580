//! The connection to the MQTT brokers: connects to the first that answers,
//! reconnects after a loss, and fails over to the next when one does not answer.

mod connect;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Context as _;
use iot_mqtt::{
    Defective, Granted, MqttStream, MqttUrl, Oversize, Protocol, Publish, QoS, TlsConfig,
};
use iot_service::Backoff;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::connection::{BrokerConnection, BrokerConnectionError, BrokerEvent, CONNECT_DEADLINE};
use super::subscriptions::Refused;
use crate::config::{MqttConfig, SessionPlan};
use connect::connect;

const RECONNECT_FIRST: Duration = Duration::from_millis(200);
const RECONNECT_MAX: Duration = Duration::from_secs(10);
/// After a connection that lasted so long the backoff starts again.
const SETTLED: Duration = Duration::from_secs(10);

/// To disconnect from a broker before connecting to another.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);

/// What happens on the link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A connection is up, not subscribed yet.
    Connected {
        broker: Arc<str>,
        /// Whether the broker still had the session.
        resumed: bool,
        granted: Granted,
    },
    /// The broker has answered all requests; [`Link::refused`] are those that it refused.
    /// Also after [`Link::set_filters`], and after retries.
    Subscribed,
    /// The broker ended all subscriptions: later messages were queued before that.
    Unsubscribed,
    /// A message.
    Publish(Publish),
    /// A message whose properties are not valid.
    Defective(Box<Defective>),
    /// A truncated message. It is acknowledged like the others.
    Oversize(Box<Oversize>),
    /// The broker has released the packet identifier of a message of QoS 2 (PUBREL).
    Released(u16),
    /// The answer to [`Link::probe`].
    Pong,
    /// A broker that is preferred to the current one is back. The owner decides
    /// what follows: see [`Link::switch_back`].
    PreferredBack,
    /// There is no connection; another attempt follows.
    Lost {
        broker: Arc<str>,
        error: BrokerConnectionError,
        /// How many bytes the connection has written: acknowledgements behind them never left.
        written: u64,
    },
}

/// A connection, or the attempt to get one.
#[derive(Debug)]
pub(crate) struct Link {
    brokers: Vec<Broker>,
    current: usize,
    config: MqttConfig,
    plan: SessionPlan,
    /// Removed filters that brokers may still have in the session.
    gone: Vec<String>,
    /// Whether all subscriptions end.
    leaving: bool,
    backoff: Backoff,
    state: State,
    /// Waits until a broker before the current one is back.
    scout: Option<JoinHandle<usize>>,
    /// The index of that broker.
    back: Option<usize>,
    /// When this connection was subscribed.
    subscribed: Option<Instant>,
    /// Counts connections, so that nothing of an older one is acknowledged on
    /// a newer one.
    connection: u32,
}

#[derive(Debug, Clone)]
struct Broker {
    url: MqttUrl,
    name: Arc<str>,
}

#[derive(Debug)]
enum State {
    /// Waits, then connects, in a task of its own: dropping a future that waits
    /// for the link does not abort the attempt.
    Connecting(JoinHandle<Result<BrokerConnection, BrokerConnectionError>>),
    Up(Box<BrokerConnection>),
    Closed,
}

impl Link {
    pub(crate) fn new(config: &MqttConfig, session: SessionPlan) -> anyhow::Result<Self> {
        let brokers = config.brokers.iter().map(|broker| {
            let url: MqttUrl = broker.parse()?;
            let name = url.to_string().into();
            Ok(Broker { url, name })
        });
        let brokers: anyhow::Result<Vec<Broker>> = brokers.collect();
        let mut link = Self {
            brokers: brokers.context("reading mqtt.brokers")?,
            current: 0,
            config: config.clone(),
            plan: session,
            gone: Vec::new(),
            leaving: false,
            backoff: Backoff::new(RECONNECT_FIRST, RECONNECT_MAX),
            state: State::Closed,
            scout: None,
            back: None,
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

    /// Waits for the next event. Without `may_read` nothing is read from the
    /// broker, while acknowledgements and pings are still written. Cancel safe.
    pub(crate) async fn next(&mut self, may_read: bool) -> LinkEvent {
        std::future::poll_fn(|cx| self.poll(cx, may_read)).await
    }

    /// The next event that [`Self::next`] would return without waiting or reading.
    pub(crate) fn next_buffered(&mut self) -> Option<LinkEvent> {
        let State::Up(current) = &mut self.state else {
            return None;
        };
        match current.next_buffered() {
            Ok(event) => event.map(|event| self.event(event)),
            Err(error) => Some(self.lost(error)),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, may_read: bool) -> Poll<LinkEvent> {
        let attempt = match &mut self.state {
            State::Up(current) => {
                return match current.poll(cx, may_read) {
                    Poll::Ready(Ok(event)) => Poll::Ready(self.event(event)),
                    Poll::Ready(Err(error)) => Poll::Ready(self.lost(error)),
                    Poll::Pending => self.poll_scout(cx),
                };
            }
            State::Connecting(attempt) => ready!(Pin::new(attempt).poll(cx)),
            State::Closed => return Poll::Pending,
        };
        match attempt {
            // The runtime is about to end.
            Err(cancelled) if cancelled.is_cancelled() => {
                self.state = State::Closed;
                Poll::Pending
            }
            Ok(Ok(current)) => Poll::Ready(self.connected(current)),
            Ok(Err(error)) => Poll::Ready(self.lost(error)),
            Err(panic) => Poll::Ready(self.lost(panic.into())),
        }
    }

    fn poll_scout(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        let Some(scout) = &mut self.scout else {
            return Poll::Pending;
        };
        let found = ready!(Pin::new(scout).poll(cx));
        self.scout = None;
        match found {
            Ok(broker) => {
                self.back = Some(broker);
                Poll::Ready(LinkEvent::PreferredBack)
            }
            Err(error) => {
                tracing::warn!(%error, "no longer checking for the preferred MQTT broker");
                Poll::Pending
            }
        }
    }

    fn event(&mut self, event: BrokerEvent) -> LinkEvent {
        match event {
            BrokerEvent::Publish(publish) => LinkEvent::Publish(publish),
            BrokerEvent::Defective(defective) => LinkEvent::Defective(defective),
            BrokerEvent::Oversize(oversize) => LinkEvent::Oversize(oversize),
            BrokerEvent::Subscribed => {
                // A connection that carries nothing does not count as one that worked.
                if self.is_subscribed() {
                    self.subscribed.get_or_insert_with(Instant::now);
                }
                LinkEvent::Subscribed
            }
            BrokerEvent::Unsubscribed => {
                self.subscribed.get_or_insert_with(Instant::now);
                LinkEvent::Unsubscribed
            }
            BrokerEvent::Released(packet_id) => LinkEvent::Released(packet_id),
            BrokerEvent::Pong => LinkEvent::Pong,
        }
    }

    fn connected(&mut self, mut current: BrokerConnection) -> LinkEvent {
        // Also on a resumed session: the filters may have changed since.
        if self.leaving {
            current.unsubscribe(&self.all_filters());
        } else {
            let gone = if current.resumed {
                self.gone.as_slice()
            } else {
                &[]
            };
            current.subscribe(&self.plan.filters, gone);
        }
        let event = LinkEvent::Connected {
            broker: self.brokers[self.current].name.clone(),
            resumed: current.resumed,
            granted: current.granted.clone(),
        };
        self.state = State::Up(Box::new(current));
        self.connection += 1;
        self.send_scout();
        event
    }

    fn send_scout(&mut self) {
        let before = &self.brokers[..self.current];
        let every = *self.config.fail_back;
        if !before.is_empty() && !every.is_zero() {
            let (before, tls) = (before.to_vec(), self.config.tls.clone());
            self.scout = Some(tokio::spawn(look_for(before, tls, every)));
        }
    }

    fn recall_scout(&mut self) {
        self.back = None;
        if let Some(scout) = self.scout.take() {
            scout.abort();
        }
    }

    fn lost(&mut self, error: BrokerConnectionError) -> LinkEvent {
        let broker = self.brokers[self.current].name.clone();
        let written = self.written();
        self.recall_scout();
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
        LinkEvent::Lost {
            broker,
            error,
            written,
        }
    }

    /// Disconnects from the current broker and connects to the one that
    /// [`LinkEvent::PreferredBack`] reported. The current broker redelivers
    /// unacknowledged messages only when it is used again: drain first.
    pub(crate) fn switch_back(&mut self) {
        let Some(broker) = self.back else {
            return;
        };
        self.recall_scout();
        let State::Up(mut current) = std::mem::replace(&mut self.state, State::Closed) else {
            return;
        };
        self.current = broker;
        self.subscribed = None;
        let connect = self.attempt();
        self.state = State::Connecting(tokio::spawn(async move {
            match timeout(GOODBYE_DEADLINE, current.disconnect(false)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "could not disconnect from an MQTT broker")
                }
                Err(_) => tracing::warn!("an MQTT broker did not take the DISCONNECT in time"),
            }
            connect.await
        }));
    }

    /// Queues the acknowledgement of a message that `connection` received, and returns where it
    /// ends among the bytes of the connection. `None` if that connection is gone: the broker
    /// redelivers the message.
    pub(crate) fn acknowledge(&mut self, connection: u32, packet_id: u16, qos: QoS) -> Option<u64> {
        match &mut self.state {
            State::Up(current) if connection == self.connection => {
                Some(current.acknowledge(packet_id, qos))
            }
            _ => None,
        }
    }

    /// How many bytes the current connection has written; 0 without one.
    pub(crate) fn written(&self) -> u64 {
        match &self.state {
            State::Up(current) => current.written(),
            State::Connecting(_) | State::Closed => 0,
        }
    }

    /// Replaces the filters, on this connection and on later ones. Filters that
    /// stay keep their subscription.
    pub(crate) fn set_filters(&mut self, filters: Vec<String>) {
        let old = std::mem::replace(&mut self.plan.filters, filters);
        let now = &self.plan.filters;
        let new: Vec<_> = now.iter().filter(|f| !old.contains(f)).cloned().collect();
        let gone: Vec<_> = old.into_iter().filter(|f| !now.contains(f)).collect();
        self.gone.retain(|filter| !now.contains(filter));
        self.gone.extend_from_slice(&gone);
        if let State::Up(current) = &mut self.state
            && !self.leaving
        {
            current.subscribe(&new, &gone);
        }
    }

    /// What the broker refuses on this connection. It is retried.
    pub(crate) fn refused(&self) -> &[Refused] {
        match &self.state {
            State::Up(current) => current.refused(),
            State::Connecting(_) | State::Closed => &[],
        }
    }

    /// Whether the broker has granted a subscription on this connection.
    pub(crate) fn is_subscribed(&self) -> bool {
        matches!(&self.state, State::Up(current) if current.is_subscribed())
    }

    /// Ends all subscriptions, on this connection and on later ones. The broker
    /// still sends what it has queued. [`LinkEvent::Unsubscribed`] follows once it has
    /// ended all of them.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
        let filters = self.all_filters();
        if let State::Up(current) = &mut self.state {
            current.unsubscribe(&filters);
        }
    }

    fn all_filters(&self) -> Vec<String> {
        let all = self.plan.filters.iter().chain(&self.gone);
        all.cloned().collect()
    }

    /// Pings the broker; [`LinkEvent::Pong`] is the answer, and follows everything
    /// that the broker could send before it. `false` if there is no connection.
    /// There is no answer either when the connection is lost meanwhile.
    pub(crate) fn probe(&mut self) -> bool {
        let State::Up(current) = &mut self.state else {
            return false;
        };
        current.probe();
        true
    }

    /// Writes what is queued and disconnects. The broker keeps the session, and
    /// queues messages for it, unless `end_session`.
    pub(crate) async fn close(&mut self, end_session: bool) {
        self.recall_scout();
        let state = std::mem::replace(&mut self.state, State::Closed);
        match state {
            State::Up(mut current) => {
                if let Err(error) = current.disconnect(end_session).await {
                    tracing::warn!(%error, "could not disconnect from the MQTT broker");
                }
                if end_session && self.config.protocol == Protocol::V311 {
                    self.forget().await;
                }
            }
            State::Connecting(attempt) => {
                attempt.abort();
                if end_session {
                    let client_id = &self.plan.client_id;
                    tracing::warn!(
                        client_id,
                        "not connected: the MQTT broker keeps the session"
                    );
                }
            }
            State::Closed => {}
        }
    }

    /// With MQTT 3.1.1 a session ends when a client asks for a clean one.
    async fn forget(&self) {
        let Broker { url, name } = &self.brokers[self.current];
        let ended = async {
            let connect = connect(&self.config, &self.plan.client_id, true)?;
            let mut current = BrokerConnection::connect(url, &self.config, &connect).await?;
            current.disconnect(true).await
        };
        if let Err(error) = ended.await {
            tracing::warn!(broker = %name, %error, "could not end the session at the MQTT broker");
        }
    }

    fn connect_after(&mut self, delay: Duration) {
        let connect = self.attempt();
        self.state = State::Connecting(tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            connect.await
        }));
    }

    fn attempt(
        &self,
    ) -> impl Future<Output = Result<BrokerConnection, BrokerConnectionError>> + use<> {
        let url = self.brokers[self.current].url.clone();
        let (config, client_id) = (self.config.clone(), self.plan.client_id.clone());
        async move {
            let connect = connect(&config, &client_id, false)?;
            BrokerConnection::connect(&url, &config, &connect).await
        }
    }
}

/// Tries brokers until one accepts a TCP or TLS connection; returns its index.
/// Without CONNECT, which would open a session there.
async fn look_for(brokers: Vec<Broker>, tls: TlsConfig, every: Duration) -> usize {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (index, broker) in brokers.iter().enumerate() {
            match MqttStream::connect(&broker.url, &tls, CONNECT_DEADLINE).await {
                Ok(_) => return index,
                Err(error) => {
                    tracing::debug!(broker = %broker.name, %error, "the preferred MQTT broker is not back; retrying")
                }
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.recall_scout();
        if let State::Connecting(attempt) = &self.state {
            attempt.abort();
        }
    }
}

#[cfg(test)]
mod tests;
