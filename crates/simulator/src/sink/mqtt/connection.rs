//! One connection to an MQTT 5 broker, as a publisher needs it.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use iot_mqtt::{
    Connect, ConnectionError, Login, MqttStream, MqttUrl, Packet, Protocol, Reader, Writer,
};
use tokio::time::{Instant, timeout};

use crate::config::MqttConfig;

/// A connection that the broker has accepted.
#[derive(Debug)]
pub(super) struct Connection {
    /// Unacknowledged messages that the broker allows.
    pub receive_maximum: usize,
    stream: MqttStream,
    reader: Reader,
    writer: Writer,
    /// A packet that arrived while none was expected, or the end of the connection.
    unasked: Option<Result<Packet, ConnectionError>>,
    deadline: Duration,
    /// Silence after which the broker would close the connection.
    keep_alive: Duration,
    last_sent: Instant,
    pinged: Option<Instant>,
}

impl Connection {
    /// Connects to `url` and waits for CONNACK.
    pub(super) async fn open(
        url: &MqttUrl,
        config: &MqttConfig,
        client_id: &str,
    ) -> anyhow::Result<Self> {
        let deadline = *config.request_timeout;
        let connect = connect(config, client_id)?;
        let opened = iot_mqtt::Connection::open(url, &config.tls, Protocol::V5, &connect, deadline);
        let iot_mqtt::Connection {
            stream,
            reader,
            writer,
            granted,
            ..
        } = opened.await?;
        let qos = config.qos;
        ensure!(
            granted.maximum_qos.is_none_or(|most| most >= qos),
            "the broker does not accept messages with QoS {qos}"
        );
        Ok(Self {
            receive_maximum: granted.receive_maximum.unwrap_or(u16::MAX).max(1).into(),
            stream,
            reader,
            writer,
            unasked: None,
            deadline,
            keep_alive: granted.keep_alive.unwrap_or(*config.keep_alive),
            last_sent: Instant::now(),
            pinged: None,
        })
    }

    /// Queues packets for the next [`flush`](Self::flush).
    pub(super) fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// Writes what is queued.
    pub(super) async fn flush(&mut self) -> anyhow::Result<()> {
        if self.writer.is_flushed() {
            return Ok(());
        }
        in_time(self.deadline, self.writer.flush(&mut self.stream)).await?;
        self.last_sent = Instant::now();
        Ok(())
    }

    /// The broker's next packet.
    pub(super) async fn read(&mut self) -> anyhow::Result<Packet> {
        let packet = in_time(self.deadline, self.reader.receive(&mut self.stream)).await?;
        // Any packet is as good an answer as one to the ping.
        self.pinged = None;
        Ok(packet)
    }

    /// The next packet that has arrived already.
    pub(super) fn buffered(&mut self) -> anyhow::Result<Option<Packet>> {
        Ok(self.reader.packet()?)
    }

    /// Waits until a packet arrives or the connection was silent for too long.
    pub(super) async fn wait(&mut self) {
        let silence = match self.pinged {
            Some(pinged) => pinged + self.deadline,
            None => self.ping_at(),
        };
        tokio::select! {
            packet = self.reader.receive(&mut self.stream) => self.unasked = Some(packet),
            () = tokio::time::sleep_until(silence) => {}
        }
    }

    /// Handles what [`wait`](Self::wait) received, and pings.
    pub(super) async fn attend(&mut self) -> anyhow::Result<()> {
        if let Some(packet) = self.unasked.take() {
            packet?;
            while self.reader.packet()?.is_some() {}
            self.pinged = None;
        }
        let now = Instant::now();
        match self.pinged {
            Some(pinged) if pinged + self.deadline <= now => {
                bail!("no answer to a ping within {:?}", self.deadline)
            }
            None if self.ping_at() <= now => {
                self.writer.ping();
                self.flush().await?;
                self.pinged = Some(now);
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends DISCONNECT, which has no answer.
    pub(super) async fn close(mut self) {
        self.writer.disconnect();
        if let Err(error) = self.flush().await {
            tracing::debug!(
                error = format!("{error:#}"),
                "could not disconnect from the broker"
            );
        }
    }

    /// When to ping; keep-alive 0 means never.
    fn ping_at(&self) -> Instant {
        const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
        let after = match self.keep_alive {
            Duration::ZERO => NEVER,
            keep_alive => keep_alive / 2,
        };
        self.last_sent + after
    }
}

/// Made for every connection, because passwords are rotated.
fn connect(config: &MqttConfig, client_id: &str) -> anyhow::Result<Connect> {
    let login = if config.username.is_empty() {
        None
    } else {
        Some(Login {
            username: config.username.clone(),
            password: password(config)?,
        })
    };
    Ok(Connect {
        client_id: client_id.to_owned(),
        // A publisher keeps its unacknowledged messages itself.
        clean_start: true,
        login,
        keep_alive: u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX),
        ..Connect::default()
    })
}

fn password(config: &MqttConfig) -> anyhow::Result<String> {
    if config.password_file.is_empty() {
        return Ok(config.password.expose().to_owned());
    }
    let text = std::fs::read_to_string(&config.password_file)
        .with_context(|| format!("reading mqtt.password_file {}", config.password_file))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

async fn in_time<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, ConnectionError>>,
) -> anyhow::Result<T> {
    match timeout(deadline, work).await {
        Ok(result) => Ok(result?),
        Err(_) => bail!("no answer within {deadline:?}"),
    }
}
