//! One publishing MQTT 5 connection that survives its broker.
//!
//! It speaks over rumqttc's codec rather than its event loop: many messages a
//! write, and after a lost connection exactly what was unacknowledged is sent
//! again, first, in its order, with its number and sending time unchanged. The
//! first copies of a connection's messages therefore reach the broker in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use iot_core::mqtt_url::MqttUrl;
use iot_service::Backoff;
use rumqttc::v5::mqttbytes::{
    self, QoS,
    v5::{
        ConnAck, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Login, Packet,
        PingReq, PubAck, PubAckReason, Publish,
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at};

use crate::histogram::Histogram;
use crate::payload::{self, Mark};

/// To connect and be greeted.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
pub(crate) const PING_EVERY: Duration = Duration::from_secs(5);
/// A broker that is silent for so long, pings included, is gone.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Bytes gathered before a write; more only grows the latency.
const WRITE_CHUNK: usize = 64 * 1024;
/// Packet identifiers are 1 to 65,535.
const PACKET_IDS: usize = 65_535;

/// When messages are due.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as acknowledgements leave room.
    Max,
    /// Message `seq` is due `first + seq * step` seconds after `start`, however
    /// late those before it were.
    Every {
        start: Instant,
        start_us: u64,
        first: f64,
        step: f64,
    },
}

impl Pace {
    fn after(first: f64, step: f64, seq: u64) -> Duration {
        Duration::from_secs_f64(first + step * seq as f64)
    }

    fn due(&self, seq: u64) -> Option<Instant> {
        match *self {
            Self::Max => None,
            Self::Every {
                start, first, step, ..
            } => Some(start + Self::after(first, step, seq)),
        }
    }

    /// The sending time that the message carries. At a set rate it is the time
    /// it was due: waiting behind a slow broker is part of its latency.
    fn sent_us(&self, seq: u64) -> u64 {
        match *self {
            Self::Max => payload::now_us(),
            Self::Every {
                start_us,
                first,
                step,
                ..
            } => start_us + Self::after(first, step, seq).as_micros() as u64,
        }
    }
}

/// What a connection is to send.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) url: MqttUrl,
    pub(crate) login: Option<Login>,
    pub(crate) topic: Bytes,
    pub(crate) run: String,
    pub(crate) conn: u32,
    pub(crate) messages: u64,
    /// Fewer messages than that, once somebody lowers it.
    pub(crate) limit: Arc<AtomicU64>,
    pub(crate) payload_size: usize,
    /// Unacknowledged messages at a time; the broker may lower it.
    pub(crate) window: u16,
    pub(crate) pace: Pace,
    /// How long to go without any acknowledgement while some are due.
    pub(crate) patience: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) published: u64,
    pub(crate) acked: u64,
    /// Acknowledged by a broker that had no subscriber to give the message to.
    pub(crate) unmatched: u64,
    /// Sent again after a lost connection.
    pub(crate) resent: u64,
    /// Acknowledged with an error: the broker did not take the message.
    pub(crate) refused: u64,
    /// Connections that were established, the first included.
    pub(crate) connects: u64,
    /// From the last sending of a message to its acknowledgement.
    pub(crate) ack_latency: Histogram,
    /// The last trouble, when it was not overcome.
    pub(crate) error: Option<String>,
}

/// A message that is not acknowledged, or only waits for one before it to be.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    mark: Mark,
    sent: Instant,
    acked: bool,
}

/// Sends the whole job; returns when all is acknowledged or patience ran out.
pub(crate) async fn publish(job: Job) -> Outcome {
    let mut publisher = Publisher {
        job,
        next: 0,
        waiting: VecDeque::new(),
        front_id: 1,
        progress: Instant::now(),
        outcome: Outcome::default(),
        text: String::new(),
    };
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        let acked = publisher.outcome.acked;
        let ended = publisher.session().await;
        // A connection that broke after the last acknowledgement did its work.
        let (Err(error), false) = (ended, publisher.done()) else {
            publisher.outcome.error = None;
            break;
        };
        let trouble = format!("{error:#}");
        let Job { conn, patience, .. } = publisher.job;
        if publisher.progress.elapsed() >= patience {
            publisher.outcome.error = Some(trouble);
            break;
        }
        if publisher.outcome.acked > acked {
            backoff.reset();
        }
        if publisher.outcome.error.as_ref() != Some(&trouble) {
            eprintln!("connection {conn}: {trouble}; connecting again");
            publisher.outcome.error = Some(trouble);
        }
        sleep(backoff.next_delay()).await;
    }
    publisher.outcome
}

struct Publisher {
    job: Job,
    /// The next message to send for the first time.
    next: u64,
    waiting: VecDeque<Waiting>,
    /// Packet identifier of the first in `waiting`; the others follow on.
    front_id: u16,
    /// When something was acknowledged last, or nothing was due.
    progress: Instant,
    outcome: Outcome,
    text: String,
}

impl Publisher {
    /// One connection, from CONNECT to the last acknowledgement or its loss.
    async fn session(&mut self) -> anyhow::Result<()> {
        if self.waiting.is_empty() {
            self.progress = self.progress.max(self.next_due().unwrap_or(self.progress));
        }
        let mut input = BytesMut::with_capacity(WRITE_CHUNK);
        let mut output = BytesMut::with_capacity(2 * WRITE_CHUNK);
        let connect = timeout(HANDSHAKE, self.connect(&mut input, &mut output));
        let (mut stream, window) = connect
            .await
            .context("the broker did not greet in time")??;
        let (mut reader, mut writer) = stream.split();
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        self.outcome.connects += 1;
        self.restart(&mut output)?;
        loop {
            self.fill(&mut output, window)?;
            if self.done() {
                break;
            }
            let give_up = self.progress + self.job.patience;
            tokio::select! {
                read = reader.read_buf(&mut input) => {
                    if read.context("reading from the broker")? == 0 {
                        bail!("the broker closed the connection");
                    }
                    heard = Instant::now();
                    self.take_acks(&mut input)?;
                }
                written = writer.write_buf(&mut output), if !output.is_empty() => {
                    written.context("writing to the broker")?;
                }
                () = wait_until(self.next_due()),
                    if self.has_room(window) && output.len() < WRITE_CHUNK => {}
                _ = pings.tick() => {
                    if heard.elapsed() > DEAD_AFTER {
                        bail!("the broker is silent");
                    }
                    write(&Packet::PingReq(PingReq), &mut output)?;
                }
                () = sleep_until(give_up), if !self.waiting.is_empty() => {
                    bail!("{} messages are not acknowledged", self.waiting.len());
                }
            }
        }
        let goodbye = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        write(&Packet::Disconnect(goodbye), &mut output)?;
        // Everything is acknowledged: a broker that left first changes nothing.
        let _ = timeout_at(Instant::now() + HANDSHAKE, writer.write_all(&output)).await;
        Ok(())
    }

    /// Connects with a new session; gives the stream and the window to keep to.
    async fn connect(
        &self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> anyhow::Result<(TcpStream, usize)> {
        let Job {
            url,
            login,
            run,
            conn,
            window,
            ..
        } = &self.job;
        let connect = Connect {
            keep_alive: DEAD_AFTER.as_secs() as u16,
            client_id: format!("ledger-{run}-{conn}"),
            clean_start: true,
            properties: None,
        };
        let (stream, ack) = greet(url, connect, login.clone(), input, output).await?;
        let maximum = ack.properties.and_then(|p| p.receive_max);
        let maximum = maximum.unwrap_or(u16::MAX).min(*window);
        Ok((stream, usize::from(maximum)))
    }

    /// On a new connection: what is unacknowledged goes out first, numbered anew.
    fn restart(&mut self, output: &mut BytesMut) -> anyhow::Result<()> {
        self.waiting.retain(|waiting| !waiting.acked);
        self.front_id = 1;
        for index in 0..self.waiting.len() {
            self.waiting[index].sent = Instant::now();
            self.write_publish(self.waiting[index].mark, index, output)?;
        }
        self.outcome.resent += self.waiting.len() as u64;
        Ok(())
    }

    fn done(&self) -> bool {
        self.next >= self.messages() && self.waiting.is_empty()
    }

    fn has_room(&self, window: usize) -> bool {
        self.next < self.messages() && self.waiting.len() < window
    }

    fn messages(&self) -> u64 {
        self.job
            .messages
            .min(self.job.limit.load(Ordering::Relaxed))
    }

    fn next_due(&self) -> Option<Instant> {
        self.job.pace.due(self.next)
    }

    /// Appends what is due and has room.
    fn fill(&mut self, output: &mut BytesMut, window: usize) -> anyhow::Result<()> {
        let now = Instant::now();
        while self.has_room(window)
            && output.len() < WRITE_CHUNK
            && self.next_due().is_none_or(|due| due <= now)
        {
            if self.waiting.is_empty() {
                self.progress = now;
            }
            let sent_us = self.job.pace.sent_us(self.next);
            let mark = Mark {
                conn: self.job.conn,
                seq: self.next,
                sent_us,
            };
            self.write_publish(mark, self.waiting.len(), output)?;
            self.waiting.push_back(Waiting {
                mark,
                sent: now,
                acked: false,
            });
            self.next += 1;
            self.outcome.published += 1;
        }
        Ok(())
    }

    /// `index`: the message's place in `waiting`.
    fn write_publish(
        &mut self,
        mark: Mark,
        index: usize,
        output: &mut BytesMut,
    ) -> anyhow::Result<()> {
        let Job {
            run,
            payload_size,
            topic,
            ..
        } = &self.job;
        payload::encode(&mut self.text, run, mark, *payload_size);
        let publish = Publish {
            qos: QoS::AtLeastOnce,
            topic: topic.clone(),
            pkid: self.packet_id(index),
            payload: Bytes::copy_from_slice(self.text.as_bytes()),
            ..Publish::default()
        };
        write(&Packet::Publish(publish), output)
    }

    fn packet_id(&self, index: usize) -> u16 {
        let id = (usize::from(self.front_id) - 1 + index) % PACKET_IDS + 1;
        id as u16
    }

    fn take_acks(&mut self, input: &mut BytesMut) -> anyhow::Result<()> {
        while let Some(packet) = read(input)? {
            match packet {
                Packet::PubAck(ack) => self.take_ack(&ack)?,
                Packet::PingResp(_) => {}
                Packet::Disconnect(reason) => {
                    bail!("the broker ended it: {:?}", reason.reason_code)
                }
                other => bail!("the broker sent {other:?}"),
            }
        }
        Ok(())
    }

    fn take_ack(&mut self, ack: &PubAck) -> anyhow::Result<()> {
        let front = usize::from(self.front_id);
        let index = (usize::from(ack.pkid) + PACKET_IDS - front) % PACKET_IDS;
        let Some(waiting) = self.waiting.get_mut(index).filter(|waiting| !waiting.acked) else {
            bail!(
                "the broker acknowledged packet {}, which is not in flight",
                ack.pkid
            );
        };
        waiting.acked = true;
        self.outcome
            .ack_latency
            .record(waiting.sent.elapsed().as_micros() as u64);
        self.progress = Instant::now();
        match ack.reason {
            PubAckReason::Success => self.outcome.acked += 1,
            PubAckReason::NoMatchingSubscribers => {
                self.outcome.acked += 1;
                self.outcome.unmatched += 1;
            }
            _ => self.outcome.refused += 1,
        }
        while self.waiting.front().is_some_and(|waiting| waiting.acked) {
            self.waiting.pop_front();
            self.front_id = self.packet_id(1);
        }
        Ok(())
    }
}

/// Connects to the broker and waits until it accepts; without a deadline.
pub(crate) async fn greet(
    url: &MqttUrl,
    connect: Connect,
    login: Option<Login>,
    input: &mut BytesMut,
    output: &mut BytesMut,
) -> anyhow::Result<(TcpStream, ConnAck)> {
    let mut stream = TcpStream::connect((url.host.as_str(), url.port))
        .await
        .with_context(|| format!("connecting to {url}"))?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    write(&Packet::Connect(connect, None, login), output)?;
    stream
        .write_all_buf(output)
        .await
        .context("writing to the broker")?;
    let greeting = loop {
        match read(input)? {
            Some(packet) => break packet,
            None if stream
                .read_buf(input)
                .await
                .context("reading from the broker")?
                == 0 =>
            {
                bail!("the broker closed the connection");
            }
            None => {}
        }
    };
    match greeting {
        Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok((stream, ack)),
        Packet::ConnAck(refusal) => {
            bail!("the broker refused the connection: {:?}", refusal.code)
        }
        other => bail!("the broker greeted with {other:?}"),
    }
}

/// At once when there is no such time.
async fn wait_until(time: Option<Instant>) {
    if let Some(time) = time {
        sleep_until(time).await;
    }
}

pub(crate) fn write(packet: &Packet, output: &mut BytesMut) -> anyhow::Result<()> {
    packet
        .write(output, None)
        .map(drop)
        .context("encoding an MQTT packet")
}

/// The next packet, if it is there as a whole.
pub(crate) fn read(input: &mut BytesMut) -> anyhow::Result<Option<Packet>> {
    match Packet::read(input, None) {
        Ok(packet) => Ok(Some(packet)),
        Err(mqttbytes::Error::InsufficientBytes(_)) => Ok(None),
        Err(error) => Err(error).context("decoding an MQTT packet"),
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
