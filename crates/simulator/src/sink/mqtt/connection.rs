//! One connection to an MQTT 5 broker, as a publisher needs it, over the codec
//! of `rumqttc`. Its event loop would write packet by packet, and forgets what
//! is unacknowledged when the broker has forgotten the session.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use iot_core::mqtt_url::MqttUrl;
use iot_service::mqtt::MqttStream;
use rumqttc::v5::mqttbytes::Error as CodecError;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Login, Packet, PingReq,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::config::MqttConfig;

/// The broker only sends acknowledgements and refusals.
const MAX_INCOMING: u32 = 64 * 1024;

/// A connection after a successful CONNACK.
#[derive(Debug)]
pub(super) struct Connection {
    /// Messages without acknowledgement that the broker allows.
    pub receive_maximum: usize,
    stream: MqttStream,
    /// What a read brought that nobody asked for.
    unasked: Option<std::io::Result<usize>>,
    inbox: BytesMut,
    outbox: BytesMut,
    max_packet: Option<u32>,
    deadline: Duration,
    /// Silence after which the broker would close the connection.
    keep_alive: Duration,
    last_sent: Instant,
    pinged: Option<Instant>,
}

impl Connection {
    /// Connects and waits for the broker's consent.
    pub(super) async fn open(
        url: &MqttUrl,
        config: &MqttConfig,
        client_id: &str,
    ) -> anyhow::Result<Self> {
        let deadline = *config.request_timeout;
        let stream = MqttStream::connect(url, &config.tls, deadline).await?;
        let mut connection = Self {
            receive_maximum: usize::from(u16::MAX),
            stream,
            unasked: None,
            inbox: BytesMut::with_capacity(4 * 1024),
            outbox: BytesMut::with_capacity(64 * 1024),
            max_packet: None,
            deadline,
            keep_alive: *config.keep_alive,
            last_sent: Instant::now(),
            pinged: None,
        };
        connection.queue(&connect(config, client_id))?;
        connection.flush().await?;
        match connection.read().await? {
            Packet::ConnAck(ack) => connection.accept(&ack, config.qos)?,
            _ => bail!("the broker does not speak MQTT 5"),
        }
        Ok(connection)
    }

    fn accept(&mut self, ack: &ConnAck, qos: u8) -> anyhow::Result<()> {
        if ack.code != ConnectReturnCode::Success {
            bail!("the broker refuses the connection: {:?}", ack.code);
        }
        let Some(properties) = &ack.properties else {
            return Ok(());
        };
        if let Some(maximum) = properties.receive_max {
            self.receive_maximum = usize::from(maximum.max(1));
        }
        if let Some(seconds) = properties.server_keep_alive {
            self.keep_alive = Duration::from_secs(u64::from(seconds));
        }
        if properties.max_qos.is_some_and(|most| most < qos) {
            bail!("the broker takes no messages with QoS {qos}");
        }
        self.max_packet = properties.max_packet_size;
        Ok(())
    }

    /// Adds a packet to what the next [`flush`](Self::flush) writes.
    pub(super) fn queue(&mut self, packet: &Packet) -> anyhow::Result<()> {
        packet
            .write(&mut self.outbox, self.max_packet)
            .map_err(|error| anyhow::anyhow!("encoding a packet: {error}"))?;
        Ok(())
    }

    /// Writes what is queued.
    pub(super) async fn flush(&mut self) -> anyhow::Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.outbox).await?;
            Ok(self.stream.flush().await?)
        };
        in_time(self.deadline, write).await?;
        self.outbox.clear();
        self.last_sent = Instant::now();
        Ok(())
    }

    /// The next packet of the broker.
    pub(super) async fn read(&mut self) -> anyhow::Result<Packet> {
        let packet = in_time(self.deadline, async {
            loop {
                if let Some(packet) = decode(&mut self.inbox)? {
                    return Ok(packet);
                }
                if self.stream.read_buf(&mut self.inbox).await? == 0 {
                    bail!("the broker closed the connection");
                }
            }
        })
        .await?;
        // Whatever it is, it is as good an answer as one to the ping.
        self.pinged = None;
        Ok(packet)
    }

    /// A packet that is here already.
    pub(super) fn buffered(&mut self) -> anyhow::Result<Option<Packet>> {
        decode(&mut self.inbox)
    }

    /// Waits until something was read, or silence has lasted too long.
    pub(super) async fn wait(&mut self) {
        let silence = match self.pinged {
            Some(pinged) => pinged + self.deadline,
            None => self.ping_at(),
        };
        tokio::select! {
            read = self.stream.read_buf(&mut self.inbox) => self.unasked = Some(read),
            () = tokio::time::sleep_until(silence) => {}
        }
    }

    /// Looks at what came without having been asked for, and pings.
    pub(super) async fn attend(&mut self) -> anyhow::Result<()> {
        match self.unasked.take() {
            Some(Ok(0)) => bail!("the broker closed the connection"),
            Some(Ok(_)) => {
                while decode(&mut self.inbox)?.is_some() {}
                self.pinged = None;
            }
            Some(Err(error)) => return Err(error).context("reading from the broker"),
            None => {}
        }
        let now = Instant::now();
        match self.pinged {
            Some(pinged) if pinged + self.deadline <= now => {
                bail!(
                    "the broker does not answer a ping within {:?}",
                    self.deadline
                )
            }
            None if self.ping_at() <= now => {
                self.queue(&Packet::PingReq(PingReq))?;
                self.flush().await?;
                self.pinged = Some(now);
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends the session. The broker needs no answer for that.
    pub(super) async fn close(mut self) {
        let bye = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        let written = match self.queue(&Packet::Disconnect(bye)) {
            Ok(()) => self.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::debug!(error = format!("{error:#}"), "disconnecting");
        }
    }

    /// Keep-alive 0 means no pings at all.
    fn ping_at(&self) -> Instant {
        const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
        let after = match self.keep_alive {
            Duration::ZERO => NEVER,
            keep_alive => keep_alive / 2,
        };
        self.last_sent + after
    }
}

fn connect(config: &MqttConfig, client_id: &str) -> Packet {
    let connect = Connect {
        keep_alive: u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX),
        client_id: client_id.to_owned(),
        // A publisher keeps its unacknowledged messages itself.
        clean_start: true,
        properties: None,
    };
    let login = (!config.username.is_empty())
        .then(|| Login::new(config.username.as_str(), config.password.expose()));
    Packet::Connect(connect, None, login)
}

fn decode(inbox: &mut BytesMut) -> anyhow::Result<Option<Packet>> {
    match Packet::read(inbox, Some(MAX_INCOMING)) {
        Ok(Packet::Disconnect(bye)) => {
            bail!("the broker ends the session: {:?}", bye.reason_code)
        }
        Ok(packet) => Ok(Some(packet)),
        Err(CodecError::InsufficientBytes(more)) => {
            inbox.reserve(more);
            Ok(None)
        }
        Err(error) => bail!("the broker sent something that is not MQTT 5: {error}"),
    }
}

async fn in_time<T>(
    deadline: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    match timeout(deadline, work).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {deadline:?}"),
    }
}
