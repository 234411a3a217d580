//! One MQTT connection: CONNECT, SUBSCRIBE, keep-alive and acknowledgements.
//!
//! rumqttc's own event loop is not used: it sends acknowledgements of an old
//! connection on a new one, and can't be paused without losing its keep-alive.

use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use iot_core::mqtt_url::MqttUrl;
use iot_service::mqtt::{ConnectError, MqttStream};
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, Publish, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{self, QoS};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use super::codec::{Hello, Malformed, Packet, Reader, Writer};
use super::oversize::Oversize;
use super::subscriptions::{Refused, Settled, Subscriptions};
use crate::config::{MqttConfig, Protocol};

/// From the TCP handshake to CONNACK.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_secs(5);
/// A broker that leaves a ping unanswered for so long is gone.
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// Messages share the memory they were read into; it is free again when the
/// last of them is.
const READ_BUFFER: usize = 64 * 1024;
/// It does not pay to read less than this.
const READ_LEAST: usize = 4 * 1024;

/// Why a connection ended or could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("reading mqtt.password_file: {0}")]
    PasswordFile(std::io::Error),
    #[error("no answer within {} s", CONNECT_DEADLINE.as_secs())]
    ConnectTimeout,
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the broker closed the connection")]
    Closed,
    #[error(
        "the broker closed the connection without an answer to CONNECT; \
         one that does not know MQTT 5 may do that: mqtt.protocol"
    )]
    ClosedUnanswered,
    #[error("the broker does not take MQTT {0}: set mqtt.protocol to a version that it knows")]
    Version(Protocol),
    #[error("the broker refused the connection: {0:?}")]
    Refused(ConnectReturnCode),
    #[error("the broker refused the subscription to {filter}: {code:?}")]
    SubscriptionRefused {
        filter: String,
        code: SubscribeReasonCode,
    },
    #[error("the broker ended the connection: {0:?}")]
    Disconnected(DisconnectReasonCode),
    #[error("another client connected with the same client id: every bridge needs its own")]
    TakenOver,
    #[error("no answer to a ping within {} s", PING_DEADLINE.as_secs())]
    Silent,
    #[error("the broker sent {0}")]
    Malformed(#[from] Malformed),
    #[error("the broker sent something unexpected: {0}")]
    Protocol(String),
    #[error("the attempt to connect ended: {0}")]
    Attempt(#[from] tokio::task::JoinError),
}

impl From<Refused> for SessionError {
    fn from(Refused { filter, code }: Refused) -> Self {
        Self::SubscriptionRefused { filter, code }
    }
}

/// What a connection brings.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, handed on at once"
)]
pub(super) enum SessionEvent {
    /// All filters are subscribed to.
    Subscribed,
    /// No filter is.
    Unsubscribed,
    /// A message.
    Publish(Publish),
    /// A message without most of its payload.
    Oversize(Box<Oversize>),
    /// The answer to [`Session::probe`].
    Pong,
}

impl From<Settled> for SessionEvent {
    fn from(settled: Settled) -> Self {
        match settled {
            Settled::Subscribed => Self::Subscribed,
            Settled::Unsubscribed => Self::Unsubscribed,
        }
    }
}

/// What the broker said of itself (MQTT 5, section 3.2.2.3); nothing with 3.1.1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    /// How many unacknowledged messages it takes; not how many it sends.
    pub(crate) receive_maximum: Option<u16>,
    /// The largest packet that it takes, bytes.
    pub(crate) maximum_packet_size: Option<u32>,
    /// How long it keeps the session, if not as long as asked for.
    pub(crate) session_expiry: Option<Duration>,
    /// Whether it has shared subscriptions.
    pub(crate) shared_subscriptions: Option<bool>,
    /// Whether filters may have wildcards.
    pub(crate) wildcard_subscriptions: Option<bool>,
    /// The highest quality of service that it takes.
    pub(crate) maximum_qos: Option<u8>,
}

impl From<&ConnAck> for Granted {
    fn from(ack: &ConnAck) -> Self {
        let Some(said) = &ack.properties else {
            return Self::default();
        };
        Self {
            receive_maximum: said.receive_max,
            maximum_packet_size: said.max_packet_size,
            session_expiry: said
                .session_expiry_interval
                .map(|seconds| Duration::from_secs(seconds.into())),
            shared_subscriptions: said.shared_subscription_available.map(|on| on != 0),
            wildcard_subscriptions: said.wildcard_subscription_available.map(|on| on != 0),
            maximum_qos: said.max_qos,
        }
    }
}

/// An established connection.
#[derive(Debug)]
pub(super) struct Session<S = MqttStream> {
    stream: S,
    reader: Reader,
    writer: Writer,
    input: BytesMut,
    output: BytesMut,
    /// Whether the stream may hold back what was written to it.
    unflushed: bool,
    /// Whether the input buffer was enlarged for one packet.
    enlarged: bool,
    subscriptions: Subscriptions,
    /// Whether the broker kept the session of an earlier connection.
    pub(super) resumed: bool,
    pub(super) granted: Granted,
    ping_every: Duration,
    ticks: Interval,
    pinged: Instant,
    /// Pings without an answer.
    pings: u32,
    /// How many answers there are up to that of the probe.
    probe: Option<u32>,
    heard: Instant,
}

impl Session {
    /// Connects and is greeted.
    pub(super) async fn connect(
        broker: &MqttUrl,
        config: &MqttConfig,
        hello: Hello,
    ) -> Result<Self, SessionError> {
        let connected = async {
            let stream = MqttStream::connect(broker, &config.tls, CONNECT_DEADLINE).await?;
            Self::establish(stream, config, hello).await
        };
        let connected = timeout(CONNECT_DEADLINE, connected).await;
        connected.unwrap_or(Err(SessionError::ConnectTimeout))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn establish(stream: S, config: &MqttConfig, hello: Hello) -> Result<Self, SessionError> {
        let mut session = Self::new(stream, config);
        let written = session.writer.connect(hello, &mut session.output);
        written.map_err(SessionError::Protocol)?;
        session.flush().await?;
        let ack = session.connack().await?;
        match ack.code {
            ConnectReturnCode::Success => {}
            ConnectReturnCode::RefusedProtocolVersion
            | ConnectReturnCode::UnsupportedProtocolVersion => {
                return Err(SessionError::Version(config.protocol));
            }
            code => return Err(SessionError::Refused(code)),
        }
        session.resumed = ack.session_present;
        session.granted = Granted::from(&ack);
        let wanted = ack.properties.and_then(|said| said.server_keep_alive);
        // 0 is no keep-alive at all.
        if let Some(seconds @ 1..) = wanted {
            let half = Duration::from_secs(seconds.into()) / 2;
            session.ping_every = session.ping_every.min(half);
        }
        Ok(session)
    }

    fn new(stream: S, config: &MqttConfig) -> Self {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let qos = mqttbytes::qos(config.qos).unwrap_or(QoS::AtLeastOnce);
        Self {
            stream,
            reader: Reader::new(config.protocol),
            writer: Writer(config.protocol),
            input: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            enlarged: false,
            subscriptions: Subscriptions::new(qos),
            resumed: false,
            granted: Granted::default(),
            ping_every: PING_EVERY,
            ticks,
            pinged: Instant::now(),
            pings: 0,
            probe: None,
            heard: Instant::now(),
        }
    }

    async fn connack(&mut self) -> Result<ConnAck, SessionError> {
        loop {
            match self.reader.read(&mut self.input)? {
                Some(Packet::ConnAck(ack)) => return Ok(ack),
                Some(other) => {
                    return Err(SessionError::Protocol(format!("{other:?} before CONNACK")));
                }
                None => {
                    let read = std::future::poll_fn(|cx| self.poll_read(cx)).await;
                    read.map_err(|error| match error {
                        SessionError::Closed => SessionError::ClosedUnanswered,
                        error => error,
                    })?;
                }
            }
        }
    }

    /// Begins a connection: unsubscribes from what an earlier one left behind,
    /// subscribes to `filters`. [`SessionEvent::Subscribed`] tells when that
    /// is granted.
    pub(super) fn subscribe(&mut self, filters: &[String], gone: &[String]) {
        self.request(filters, gone);
        self.subscriptions.announce(Settled::Subscribed);
    }

    /// Ends all subscriptions; [`SessionEvent::Unsubscribed`] tells when they are.
    pub(super) fn unsubscribe(&mut self, filters: &[String]) {
        self.request(&[], filters);
        self.subscriptions.announce(Settled::Unsubscribed);
    }

    fn request(&mut self, wanted: &[String], gone: &[String]) {
        if !gone.is_empty() {
            let id = self.subscriptions.unsubscribe(gone);
            self.writer.unsubscribe(id, gone, &mut self.output);
        }
        if !wanted.is_empty() {
            let id = self.subscriptions.subscribe(wanted);
            let qos = self.subscriptions.qos();
            self.writer.subscribe(id, wanted, qos, &mut self.output);
        }
    }

    /// The next event among what has been read already.
    pub(super) fn ready(&mut self) -> Result<Option<SessionEvent>, SessionError> {
        loop {
            // Before what came behind the answer.
            if let Some(settled) = self.subscriptions.settled() {
                return Ok(Some(settled.into()));
            }
            let Some(packet) = self.reader.read(&mut self.input)? else {
                return Ok(None);
            };
            if let Some(event) = self.handle(packet)? {
                return Ok(Some(event));
            }
        }
    }

    /// Waits for the next event, meanwhile writing what is to be sent and
    /// keeping the connection alive. With `may_read` off nothing is read from
    /// the socket, so that TCP holds the broker back; pings go on, but their
    /// answers can't be seen and are not waited for.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        may_read: bool,
    ) -> Poll<Result<SessionEvent, SessionError>> {
        while self.ticks.poll_tick(cx).is_ready() {
            self.keep_alive(may_read)?;
        }
        loop {
            if may_read && let Some(event) = self.ready()? {
                return Poll::Ready(Ok(event));
            }
            // Not waited for: a broker that does not read may still have
            // something to say.
            if let Poll::Ready(written) = self.poll_write(cx) {
                written?;
            }
            if !may_read {
                return Poll::Pending;
            }
            ready!(self.poll_read(cx))?;
        }
    }

    fn handle(&mut self, packet: Packet) -> Result<Option<SessionEvent>, SessionError> {
        match packet {
            Packet::Publish(publish) => return Ok(Some(SessionEvent::Publish(publish))),
            Packet::Oversize(oversize) => return Ok(Some(SessionEvent::Oversize(oversize))),
            // Also for an identifier that is not known: the broker waits for it.
            Packet::PubRel(packet_id) => self.writer.complete(packet_id, &mut self.output),
            Packet::SubAck(ack) => self.subscriptions.subscribed(&ack)?,
            Packet::UnsubAck(ack) => self.subscriptions.unsubscribed(&ack),
            Packet::PingResp => return Ok(self.ponged()),
            Packet::Disconnect(DisconnectReasonCode::SessionTakenOver) => {
                return Err(SessionError::TakenOver);
            }
            Packet::Disconnect(reason) => return Err(SessionError::Disconnected(reason)),
            Packet::ConnAck(_) => {
                return Err(SessionError::Protocol("a second CONNACK".into()));
            }
        }
        Ok(None)
    }

    fn ponged(&mut self) -> Option<SessionEvent> {
        self.pings = self.pings.saturating_sub(1);
        let left = self.probe?.saturating_sub(1);
        self.probe = (left > 0).then_some(left);
        self.probe.is_none().then_some(SessionEvent::Pong)
    }

    /// Queues the acknowledgement of a message.
    pub(super) fn acknowledge(&mut self, packet_id: u16, qos: QoS) {
        self.writer.acknowledge(packet_id, qos, &mut self.output);
    }

    /// Queues a ping of its own; [`SessionEvent::Pong`] is its answer.
    pub(super) fn probe(&mut self) {
        self.ping();
        self.probe = Some(self.pings);
    }

    fn ping(&mut self) {
        self.writer.ping(&mut self.output);
        self.pinged = Instant::now();
        self.pings += 1;
    }

    fn keep_alive(&mut self, may_read: bool) -> Result<(), SessionError> {
        let now = Instant::now();
        if !may_read {
            self.heard = now;
        }
        if self.pings > 0 && now - self.heard > PING_DEADLINE {
            return Err(SessionError::Silent);
        }
        if now - self.pinged >= self.ping_every {
            self.ping();
        }
        Ok(())
    }

    /// Says goodbye. Unless the session is to end with the connection, the
    /// broker keeps it.
    pub(super) async fn disconnect(&mut self, end_session: bool) -> Result<(), SessionError> {
        self.writer.disconnect(end_session, &mut self.output);
        self.flush().await?;
        self.stream.shutdown().await?;
        // To close with something unread would reset the connection, and the
        // broker would lose the acknowledgements that it has not read.
        loop {
            self.input.clear();
            match std::future::poll_fn(|cx| self.poll_read(cx)).await {
                Ok(()) => {}
                Err(SessionError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    async fn flush(&mut self) -> Result<(), SessionError> {
        std::future::poll_fn(|cx| self.poll_write(cx)).await
    }

    /// Writes all that is queued. Nothing is lost if it is not polled again.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        while !self.output.is_empty() {
            // Takes from the buffer exactly what was written.
            let written = ready!(pin!(self.stream.write_buf(&mut self.output)).poll(cx))?;
            if written == 0 {
                return Poll::Ready(Err(SessionError::Closed));
            }
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(pin!(self.stream.flush()).poll(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once. Nothing is lost if it is not polled again.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        self.make_room();
        match ready!(pin!(self.stream.read_buf(&mut self.input)).poll(cx))? {
            0 => Poll::Ready(Err(SessionError::Closed)),
            _ => {
                self.heard = Instant::now();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Room for a big read, or for all that is missing of a large packet.
    fn make_room(&mut self) {
        let missing = self.reader.missing();
        if self.enlarged && missing == 0 {
            // What follows a large packet is not to keep its memory alive.
            let mut own = BytesMut::with_capacity(READ_BUFFER.max(self.input.len()));
            own.extend_from_slice(&self.input);
            (self.input, self.enlarged) = (own, false);
        }
        let room = self.input.capacity() - self.input.len();
        if room < missing.max(READ_LEAST) {
            self.enlarged |= missing > READ_BUFFER;
            let rest = READ_BUFFER.saturating_sub(self.input.len());
            self.input.reserve(missing.max(READ_LEAST).max(rest));
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
