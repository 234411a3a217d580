//! One MQTT connection: CONNECT, SUBSCRIBE, keep-alive and acknowledgements.
//!
//! rumqttc's event loop is not used: it sends acknowledgements of an old
//! connection on a new one, and can't be paused without losing its keep-alive.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use iot_mqtt::{
    Connect, Connection, ConnectionError, Defective, DisconnectReasonCode, Granted, HandshakeError,
    MqttStream, MqttUrl, Oversize, Packet, Protocol, Publish, QoS, Reader, Writer,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::subscriptions::{AnswerError, Refused, Settled, Subscriptions};
use crate::config::MqttConfig;

/// From the TCP handshake to CONNACK.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_secs(5);
/// A broker that does not answer a ping for so long is gone.
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// Why a connection ended or could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerConnectionError {
    #[error("reading mqtt.password_file: {0}")]
    PasswordFile(std::io::Error),
    #[error(
        "the broker closed the connection without an answer to CONNECT; \
         if it does not support MQTT 5, set mqtt.protocol to a version that it supports"
    )]
    Unanswered,
    #[error(
        "the broker does not support MQTT {0}: set mqtt.protocol to a version that it supports"
    )]
    Version(Protocol),
    #[error(transparent)]
    Handshake(HandshakeError),
    #[error(transparent)]
    Subscriptions(#[from] AnswerError),
    #[error("another client connected with the same client id: every bridge needs its own")]
    TakenOver,
    #[error("no answer to a ping within {} s", PING_DEADLINE.as_secs())]
    Silent,
    #[error(transparent)]
    Connection(ConnectionError),
    #[error("the task that connects panicked")]
    Attempt(#[from] tokio::task::JoinError),
}

impl From<HandshakeError> for BrokerConnectionError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Unanswered => Self::Unanswered,
            HandshakeError::Version(protocol) => Self::Version(protocol),
            HandshakeError::Connection(error) => error.into(),
            error => Self::Handshake(error),
        }
    }
}

impl From<ConnectionError> for BrokerConnectionError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Disconnected {
                reason: DisconnectReasonCode::SessionTakenOver,
                ..
            } => Self::TakenOver,
            error => Self::Connection(error),
        }
    }
}

/// What happens on a connection.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is not stored"
)]
pub(super) enum BrokerEvent {
    /// The broker has answered every request; [`BrokerConnection::refused`] are those that
    /// it refused.
    Subscribed,
    /// The broker has ended all subscriptions.
    Unsubscribed,
    /// A message.
    Publish(Publish),
    /// A message whose properties are not valid.
    Defective(Box<Defective>),
    /// A truncated message.
    Oversize(Box<Oversize>),
    /// The broker has released the packet identifier of a message of QoS 2 (PUBREL).
    Released(u16),
    /// The answer to [`BrokerConnection::probe`].
    Pong,
}

impl From<Settled> for BrokerEvent {
    fn from(settled: Settled) -> Self {
        match settled {
            Settled::Subscribed => Self::Subscribed,
            Settled::Unsubscribed => Self::Unsubscribed,
        }
    }
}

/// An established connection.
#[derive(Debug)]
pub(super) struct BrokerConnection<S = MqttStream> {
    stream: S,
    reader: Reader,
    writer: Writer,
    subscriptions: Subscriptions,
    /// Whether the broker kept the session of an earlier connection.
    pub(super) resumed: bool,
    pub(super) granted: Granted,
    ping_every: Duration,
    ticks: Interval,
    pinged: Instant,
    /// PINGREQs without a PINGRESP.
    pings: u32,
    /// PINGRESPs still to come, up to and including the one for the probe.
    probe: Option<u32>,
    heard: Instant,
    /// When the last message arrived, within a second.
    last_message: Instant,
    /// Whether one has arrived since the last tick.
    has_message: bool,
}

impl BrokerConnection {
    /// Connects, CONNACK included.
    pub(super) async fn connect(
        broker: &MqttUrl,
        config: &MqttConfig,
        connect: &Connect,
    ) -> Result<Self, BrokerConnectionError> {
        let MqttConfig { tls, protocol, .. } = config;
        let opened = Connection::open(broker, tls, *protocol, connect, CONNECT_DEADLINE);
        Ok(Self::new(opened.await?, config))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> BrokerConnection<S> {
    fn new(connection: Connection<S>, config: &MqttConfig) -> Self {
        let Connection {
            stream,
            reader,
            writer,
            session_present,
            granted,
        } = connection;
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let qos = match config.qos {
            0 => QoS::AtMostOnce,
            2 => QoS::ExactlyOnce,
            _ => QoS::AtLeastOnce,
        };
        // Zero is no keep-alive at all.
        let keep_alive = granted
            .keep_alive
            .filter(|keep_alive| !keep_alive.is_zero());
        Self {
            stream,
            reader,
            writer,
            subscriptions: Subscriptions::new(config.protocol, qos),
            resumed: session_present,
            ping_every: keep_alive.map_or(PING_EVERY, |keep_alive| PING_EVERY.min(keep_alive / 2)),
            granted,
            ticks,
            pinged: Instant::now(),
            pings: 0,
            probe: None,
            heard: Instant::now(),
            last_message: Instant::now(),
            has_message: false,
        }
    }

    /// Subscribes to `filters` and unsubscribes from `gone`.
    /// [`BrokerEvent::Subscribed`] follows once the broker has answered, and again when a
    /// retry of what it refused is answered.
    pub(super) fn subscribe(&mut self, filters: &[String], gone: &[String]) {
        self.subscriptions.change(filters, gone, &mut self.writer);
    }

    /// Ends the subscriptions to `filters`. [`BrokerEvent::Unsubscribed`] follows once the
    /// broker has ended all of them.
    pub(super) fn unsubscribe(&mut self, filters: &[String]) {
        self.subscriptions.leave(filters, &mut self.writer);
    }

    /// What the broker refuses.
    pub(super) fn refused(&self) -> &[Refused] {
        self.subscriptions.refused()
    }

    /// Whether the broker has granted a subscription, once it has answered.
    pub(super) fn is_subscribed(&self) -> bool {
        self.subscriptions.is_subscribed()
    }

    /// The next event among what has been read already.
    pub(super) fn next_buffered(&mut self) -> Result<Option<BrokerEvent>, BrokerConnectionError> {
        loop {
            // Reported before the messages that arrived after SUBACK or UNSUBACK.
            if let Some(settled) = self.subscriptions.settled() {
                return Ok(Some(settled.into()));
            }
            let Some(packet) = self.reader.packet()? else {
                return Ok(None);
            };
            if let Some(event) = self.handle(packet)? {
                return Ok(Some(event));
            }
        }
    }

    /// Waits for the next event, and meanwhile writes what is queued and keeps the
    /// connection alive. Without `may_read` nothing is read from the socket, so
    /// that TCP holds the broker back; pings continue, but their answers can't be
    /// seen and have no deadline.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        may_read: bool,
    ) -> Poll<Result<BrokerEvent, BrokerConnectionError>> {
        while self.ticks.poll_tick(cx).is_ready() {
            self.keep_alive(may_read)?;
            if std::mem::take(&mut self.has_message) {
                self.last_message = Instant::now();
            }
            self.subscriptions
                .tick(self.last_message, may_read, &mut self.writer)?;
        }
        loop {
            if may_read && let Some(event) = self.next_buffered()? {
                return Poll::Ready(Ok(event));
            }
            // Reads continue even if the write is pending: a broker that does not read may still
            // send.
            if let Poll::Ready(written) = self.writer.poll_flush(cx, &mut self.stream) {
                written?;
            }
            if !may_read {
                return Poll::Pending;
            }
            ready!(self.reader.poll_fill(cx, &mut self.stream))?;
            self.heard = Instant::now();
        }
    }

    fn handle(&mut self, packet: Packet) -> Result<Option<BrokerEvent>, BrokerConnectionError> {
        match packet {
            Packet::Publish(publish) => {
                self.has_message = true;
                return Ok(Some(BrokerEvent::Publish(publish)));
            }
            Packet::Defective(defective) => {
                self.has_message = true;
                return Ok(Some(BrokerEvent::Defective(defective)));
            }
            Packet::Oversize(oversize) => {
                self.has_message = true;
                return Ok(Some(BrokerEvent::Oversize(oversize)));
            }
            Packet::PubRel(packet_id) => {
                // Also for an unknown identifier: the broker waits for it.
                self.writer.complete(packet_id);
                return Ok(Some(BrokerEvent::Released(packet_id)));
            }
            Packet::SubAck(ack) => self.subscriptions.subscribed(&ack)?,
            Packet::UnsubAck(ack) => self.subscriptions.unsubscribed(&ack)?,
            Packet::PingResp => return Ok(self.ponged()),
            Packet::ConnAck(_) | Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubComp(_) => {
                return Err(ConnectionError::Unexpected(packet.name()).into());
            }
        }
        Ok(None)
    }

    fn ponged(&mut self) -> Option<BrokerEvent> {
        self.pings = self.pings.saturating_sub(1);
        let left = self.probe?.saturating_sub(1);
        self.probe = (left > 0).then_some(left);
        self.probe.is_none().then_some(BrokerEvent::Pong)
    }

    /// Queues the acknowledgement of a message; returns where it ends among the bytes of the
    /// connection.
    pub(super) fn acknowledge(&mut self, packet_id: u16, qos: QoS) -> u64 {
        self.writer.acknowledge(packet_id, qos);
        self.writer.end()
    }

    /// Number of bytes that were written.
    pub(super) fn written(&self) -> u64 {
        self.writer.written()
    }

    /// Queues a ping; [`BrokerEvent::Pong`] is the answer to it.
    pub(super) fn probe(&mut self) {
        self.ping();
        self.probe = Some(self.pings);
    }

    fn ping(&mut self) {
        self.writer.ping();
        self.pinged = Instant::now();
        self.pings += 1;
    }

    fn keep_alive(&mut self, may_read: bool) -> Result<(), BrokerConnectionError> {
        let now = Instant::now();
        if !may_read {
            self.heard = now;
        }
        if self.pings > 0 && now - self.heard > PING_DEADLINE {
            return Err(BrokerConnectionError::Silent);
        }
        if now - self.pinged >= self.ping_every {
            self.ping();
        }
        Ok(())
    }

    /// Sends DISCONNECT, and waits until the broker has closed the connection. The
    /// broker keeps the session unless `end_session`.
    pub(super) async fn disconnect(
        &mut self,
        end_session: bool,
    ) -> Result<(), BrokerConnectionError> {
        if end_session {
            self.writer.disconnect_and_end_session();
        } else {
            self.writer.disconnect();
        }
        self.writer.flush(&mut self.stream).await?;
        self.stream.shutdown().await.map_err(ConnectionError::Io)?;
        // Closing with something unread would reset the connection, and the
        // broker would lose the acknowledgements that it has not read.
        let rest = tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await;
        rest.map_err(ConnectionError::Io)?;
        Ok(())
    }
}

#[cfg(test)]
mod subscription_tests;
#[cfg(test)]
mod tests;
