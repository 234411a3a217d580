//! One MQTT 5 connection over rumqttc's codec: CONNECT, SUBSCRIBE, keep-alive
//! and acknowledgements.
//!
//! rumqttc's own event loop is not used: it sends acknowledgements of an old
//! connection on a new one, and can't be paused without losing its keep-alive.

use std::time::Duration;

use bytes::BytesMut;
use iot_core::mqtt_url::MqttUrl;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    Filter, Login, Packet, PingReq, PubAck, PubComp, PubRec, Publish, RetainForwardRule, SubAck,
    Subscribe, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{self, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use crate::config::MqttConfig;

/// From the TCP handshake to CONNACK.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_secs(5);
/// A broker that leaves a ping unanswered for so long is gone.
const PING_DEADLINE: Duration = Duration::from_secs(10);
const READ_BUFFER: usize = 64 * 1024;
/// The one packet identifier that the bridge itself uses: for SUBSCRIBE.
const SUBSCRIBE_ID: u16 = 1;

/// Why a connection ended or could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("reading mqtt.password_file: {0}")]
    PasswordFile(std::io::Error),
    #[error("no answer within {} s", CONNECT_DEADLINE.as_secs())]
    ConnectTimeout,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker refused the connection: {0:?}")]
    Refused(ConnectReturnCode),
    #[error("the broker refused the subscription to {filter}: {code:?}")]
    SubscriptionRefused {
        filter: String,
        code: SubscribeReasonCode,
    },
    #[error("the broker ended the connection: {0:?}")]
    Disconnected(DisconnectReasonCode),
    #[error("another client connected as mqtt.client_id: every bridge needs its own")]
    TakenOver,
    #[error("no answer to a ping within {} s", PING_DEADLINE.as_secs())]
    Silent,
    #[error("the broker sent something unexpected: {0}")]
    Protocol(String),
}

impl From<mqttbytes::Error> for SessionError {
    fn from(error: mqttbytes::Error) -> Self {
        match error {
            // A DISCONNECT without a reason is two bytes, which the codec does not take.
            mqttbytes::Error::PayloadRequired => Self::Closed,
            error => Self::Protocol(error.to_string()),
        }
    }
}

/// What a connection brings.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, handed on at once"
)]
pub(crate) enum SessionEvent {
    /// All filters are subscribed to.
    Subscribed,
    /// A message.
    Publish(Publish),
}

/// An established connection.
#[derive(Debug)]
pub(crate) struct Session {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    input: BytesMut,
    output: BytesMut,
    filters: Vec<Filter>,
    /// Whether the broker kept the session of an earlier connection.
    pub(crate) resumed: bool,
    ticks: Interval,
    pinged: Instant,
    awaits_pong: bool,
    heard: Instant,
}

impl Session {
    /// Connects, and sends the subscription; [`SessionEvent::Subscribed`] tells
    /// when it is granted.
    pub(crate) async fn connect(
        broker: MqttUrl,
        config: MqttConfig,
        password: String,
    ) -> Result<Self, SessionError> {
        let connected = timeout(CONNECT_DEADLINE, Self::establish(broker, &config, password));
        connected.await.unwrap_or(Err(SessionError::ConnectTimeout))
    }

    async fn establish(
        broker: MqttUrl,
        config: &MqttConfig,
        password: String,
    ) -> Result<Self, SessionError> {
        let stream = TcpStream::connect((broker.host.as_str(), broker.port)).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let qos = mqttbytes::qos(config.qos).unwrap_or(QoS::AtLeastOnce);
        let mut session = Self {
            reader,
            writer,
            input: BytesMut::with_capacity(READ_BUFFER),
            output: BytesMut::new(),
            filters: config
                .subscriptions()
                .map(|path| subscription(path, qos))
                .collect(),
            resumed: false,
            ticks,
            pinged: Instant::now(),
            awaits_pong: false,
            heard: Instant::now(),
        };
        session.send(&connect_packet(config, password))?;
        session.flush().await?;
        let ack = session.connack().await?;
        if ack.code != ConnectReturnCode::Success {
            return Err(SessionError::Refused(ack.code));
        }
        session.resumed = ack.session_present;
        // Also on a resumed session: the filters may have changed since.
        session.send(&Packet::Subscribe(Subscribe {
            pkid: SUBSCRIBE_ID,
            filters: session.filters.clone(),
            properties: None,
        }))?;
        Ok(session)
    }

    async fn connack(&mut self) -> Result<ConnAck, SessionError> {
        loop {
            match self.packet()? {
                Some(Packet::ConnAck(ack)) => return Ok(ack),
                Some(other) => {
                    return Err(SessionError::Protocol(format!("{other:?} before CONNACK")));
                }
                None => self.read().await?,
            }
        }
    }

    /// Waits for the next event, meanwhile writing what is to be sent and
    /// keeping the connection alive. With `may_read` off nothing is read from
    /// the socket, so that TCP holds the broker back; pings go on, but their
    /// answers can't be seen and are not waited for.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self, may_read: bool) -> Result<SessionEvent, SessionError> {
        loop {
            while may_read && let Some(packet) = self.packet()? {
                if let Some(event) = self.handle(packet)? {
                    return Ok(event);
                }
            }
            self.input.reserve(READ_BUFFER / 4);
            tokio::select! {
                read = self.reader.read_buf(&mut self.input), if may_read => {
                    if read? == 0 {
                        return Err(SessionError::Closed);
                    }
                    self.heard = Instant::now();
                }
                written = self.writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                    written?;
                }
                _ = self.ticks.tick() => self.keep_alive(may_read)?,
            }
        }
    }

    fn handle(&mut self, packet: Packet) -> Result<Option<SessionEvent>, SessionError> {
        match packet {
            Packet::Publish(publish) => Ok(Some(SessionEvent::Publish(publish))),
            // Also for an identifier that is not known: the broker waits for it.
            Packet::PubRel(release) => {
                self.send(&Packet::PubComp(PubComp::new(release.pkid, None)))?;
                Ok(None)
            }
            Packet::SubAck(ack) => self.subscribed(&ack).map(Some),
            Packet::PingResp(_) => {
                self.awaits_pong = false;
                Ok(None)
            }
            Packet::Disconnect(Disconnect { reason_code, .. }) => Err(match reason_code {
                DisconnectReasonCode::SessionTakenOver => SessionError::TakenOver,
                code => SessionError::Disconnected(code),
            }),
            other => Err(SessionError::Protocol(format!("{other:?}"))),
        }
    }

    fn subscribed(&self, ack: &SubAck) -> Result<SessionEvent, SessionError> {
        for (filter, code) in self.filters.iter().zip(&ack.return_codes) {
            match code {
                SubscribeReasonCode::Success(granted) => {
                    if *granted < filter.qos {
                        let (filter, asked) = (&filter.path, filter.qos);
                        tracing::warn!(
                            filter,
                            ?asked,
                            ?granted,
                            "the broker granted less than asked"
                        );
                    }
                }
                code => {
                    return Err(SessionError::SubscriptionRefused {
                        filter: filter.path.clone(),
                        code: *code,
                    });
                }
            }
        }
        Ok(SessionEvent::Subscribed)
    }

    /// Queues the acknowledgement of a message.
    pub(crate) fn acknowledge(&mut self, packet_id: u16, qos: QoS) -> Result<(), SessionError> {
        match qos {
            QoS::AtMostOnce => Ok(()),
            QoS::AtLeastOnce => self.send(&Packet::PubAck(PubAck::new(packet_id, None))),
            QoS::ExactlyOnce => self.send(&Packet::PubRec(PubRec::new(packet_id, None))),
        }
    }

    /// Says goodbye; the broker keeps the session.
    pub(crate) async fn disconnect(&mut self) -> Result<(), SessionError> {
        let goodbye = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        self.send(&Packet::Disconnect(goodbye))?;
        self.flush().await?;
        self.writer.shutdown().await?;
        // To close with something unread would reset the connection, and the
        // broker would lose the acknowledgements that it has not read.
        loop {
            self.input.clear();
            self.input.reserve(READ_BUFFER);
            if self.reader.read_buf(&mut self.input).await? == 0 {
                return Ok(());
            }
        }
    }

    fn keep_alive(&mut self, may_read: bool) -> Result<(), SessionError> {
        let now = Instant::now();
        if !may_read {
            self.heard = now;
        }
        if self.awaits_pong && now - self.heard > PING_DEADLINE {
            return Err(SessionError::Silent);
        }
        if now - self.pinged >= PING_EVERY {
            self.send(&Packet::PingReq(PingReq))?;
            self.pinged = now;
            self.awaits_pong = true;
        }
        Ok(())
    }

    fn send(&mut self, packet: &Packet) -> Result<(), SessionError> {
        packet.write(&mut self.output, None)?;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), SessionError> {
        self.writer.write_all_buf(&mut self.output).await?;
        Ok(())
    }

    async fn read(&mut self) -> Result<(), SessionError> {
        match self.reader.read_buf(&mut self.input).await? {
            0 => Err(SessionError::Closed),
            _ => Ok(()),
        }
    }

    /// The next packet that has arrived in whole.
    fn packet(&mut self) -> Result<Option<Packet>, SessionError> {
        match Packet::read(&mut self.input, None) {
            Ok(packet) => Ok(Some(packet)),
            Err(mqttbytes::Error::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn subscription(path: String, qos: QoS) -> Filter {
    Filter {
        // Not at every connection: those messages were delivered already.
        retain_forward_rule: RetainForwardRule::OnNewSubscribe,
        ..Filter::new(path, qos)
    }
}

fn connect_packet(config: &MqttConfig, password: String) -> Packet {
    // Values are in range: the configuration was validated.
    let properties = ConnectProperties {
        session_expiry_interval: u32::try_from(config.session_expiry.as_secs()).ok(),
        receive_maximum: Some(config.receive_maximum),
        ..ConnectProperties::new()
    };
    let connect = Connect {
        keep_alive: u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX),
        client_id: config.client_id.clone(),
        clean_start: false,
        properties: Some(properties),
    };
    let login = (!config.username.is_empty()).then(|| Login {
        username: config.username.clone(),
        password,
    });
    Packet::Connect(connect, None, login)
}
