//! One publishing MQTT 5 connection that survives its broker.
//!
//! It writes many messages at once. After a lost connection exactly the
//! unacknowledged messages are sent again, first, in their order, with number and
//! sending time unchanged. The first copies of a connection's messages therefore
//! reach the broker in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use iot_mqtt::{
    Connect, Connection, ConnectionError, Login, MqttUrl, Packet, Protocol, PubAck, PubAckReason,
    Publish, QoS, TlsConfig, Writer,
};
use iot_service::Backoff;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};

use crate::histogram::Histogram;
use crate::payload::{self, Mark};

/// To connect, CONNACK included.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
pub(crate) const PING_EVERY: Duration = Duration::from_secs(5);
/// A broker that sends nothing for so long, not even answers to pings, is gone.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Bytes to queue before a write; more only adds latency.
const WRITE_CHUNK: usize = 64 * 1024;
/// Packet identifiers are 1 to 65,535.
const PACKET_IDS: usize = 65_535;

/// When messages are due.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as acknowledgements leave room.
    Max,
    /// Message `seq` is due `first + seq * step` seconds after `start`, even if the
    /// messages before it were late.
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

    /// The sending time in the payload. At a set rate it is the time the message
    /// was due: waiting for a slow broker is part of its latency.
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

/// What a connection sends.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) url: MqttUrl,
    pub(crate) login: Option<Login>,
    pub(crate) topic: Bytes,
    pub(crate) run: String,
    pub(crate) conn: u32,
    pub(crate) messages: u64,
    /// Lowered while running, it ends the job early.
    pub(crate) limit: Arc<AtomicU64>,
    pub(crate) payload_size: usize,
    /// Messages in flight; the broker may lower it.
    pub(crate) window: u16,
    pub(crate) pace: Pace,
    /// How long to wait for the next acknowledgement before giving up.
    pub(crate) patience: Duration,
}

/// The result of a job.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) published: u64,
    pub(crate) acked: u64,
    /// Acknowledged by a broker without a matching subscriber.
    pub(crate) unmatched: u64,
    /// Sent again after a lost connection.
    pub(crate) resent: u64,
    /// Rejected by the broker: acknowledged with an error.
    pub(crate) refused: u64,
    /// Connections that were established, the first included.
    pub(crate) connects: u64,
    /// From the last sending of a message to its acknowledgement.
    pub(crate) ack_latency: Histogram,
    /// The last error, if the job is incomplete.
    pub(crate) error: Option<String>,
}

/// A message that is unacknowledged, or behind one that is.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    mark: Mark,
    sent: Instant,
    acked: bool,
}

/// Sends the whole job; returns when everything is acknowledged or patience ran out.
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
        // A connection that is lost after the last acknowledgement did its work.
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
            eprintln!("connection {conn}: {trouble}; reconnecting");
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
    /// Packet identifier of the first in `waiting`; the others follow it.
    front_id: u16,
    /// When a message was last acknowledged, or nothing was due.
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
        let Connection {
            stream,
            mut reader,
            mut writer,
            granted,
            ..
        } = self.connect().await?;
        let window = granted.receive_maximum.unwrap_or(u16::MAX);
        let window = usize::from(window.min(self.job.window));
        let (mut input, mut output) = tokio::io::split(stream);
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        self.outcome.connects += 1;
        self.restart(&mut writer)?;
        loop {
            self.fill(&mut writer, window)?;
            if self.done() {
                break;
            }
            let give_up = self.progress + self.job.patience;
            tokio::select! {
                packet = reader.receive(&mut input) => {
                    heard = Instant::now();
                    self.handle(packet?)?;
                    while let Some(packet) = reader.packet()? {
                        self.handle(packet)?;
                    }
                }
                written = writer.flush(&mut output), if !writer.is_flushed() => written?,
                () = wait_until(self.next_due()),
                    if self.has_room(window) && writer.queued_bytes() < WRITE_CHUNK => {}
                _ = pings.tick() => {
                    if heard.elapsed() > DEAD_AFTER {
                        bail!("no answer to a ping within {} s", DEAD_AFTER.as_secs());
                    }
                    writer.ping();
                }
                () = sleep_until(give_up), if !self.waiting.is_empty() => {
                    bail!("{} messages are not acknowledged", self.waiting.len());
                }
            }
        }
        writer.disconnect();
        // Everything is acknowledged: a broker that disconnects first changes nothing.
        let _ = timeout_at(Instant::now() + HANDSHAKE, writer.flush(&mut output)).await;
        Ok(())
    }

    /// Connects with a new session.
    async fn connect(&self) -> anyhow::Result<Connection> {
        let Job {
            url,
            login,
            run,
            conn,
            ..
        } = &self.job;
        let connect = Connect {
            client_id: format!("ledger-{run}-{conn}"),
            login: login.clone(),
            ..connect()
        };
        open(url, &connect).await
    }

    /// On a new connection: queues the unacknowledged messages, with new packet
    /// identifiers.
    fn restart(&mut self, writer: &mut Writer) -> anyhow::Result<()> {
        self.waiting.retain(|waiting| !waiting.acked);
        self.front_id = 1;
        for index in 0..self.waiting.len() {
            self.waiting[index].sent = Instant::now();
            self.write_publish(self.waiting[index].mark, index, writer)?;
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

    /// Queues the messages that are due, as far as there is room.
    fn fill(&mut self, writer: &mut Writer, window: usize) -> anyhow::Result<()> {
        let now = Instant::now();
        while self.has_room(window)
            && writer.queued_bytes() < WRITE_CHUNK
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
            self.write_publish(mark, self.waiting.len(), writer)?;
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
        writer: &mut Writer,
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
        Ok(writer.publish(&publish)?)
    }

    fn packet_id(&self, index: usize) -> u16 {
        let id = (usize::from(self.front_id) - 1 + index) % PACKET_IDS + 1;
        id as u16
    }

    fn handle(&mut self, packet: Packet) -> anyhow::Result<()> {
        match packet {
            Packet::PubAck(ack) => self.take_ack(&ack),
            Packet::PingResp => Ok(()),
            other => Err(ConnectionError::Unexpected(other.name()).into()),
        }
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

/// What the ledger's CONNECTs have in common: they ask for a new session.
pub(crate) fn connect() -> Connect {
    Connect {
        clean_start: true,
        keep_alive: DEAD_AFTER.as_secs() as u16,
        ..Connect::default()
    }
}

/// Connects to the broker and waits for CONNACK.
pub(crate) async fn open(url: &MqttUrl, connect: &Connect) -> anyhow::Result<Connection> {
    // The URL's parser has rejected `mqtts`.
    let tls = TlsConfig::default();
    let opened = Connection::open(url, &tls, Protocol::V5, connect, HANDSHAKE);
    opened.await.with_context(|| format!("connecting to {url}"))
}

/// Waits until `time`; returns at once without one.
async fn wait_until(time: Option<Instant>) {
    if let Some(time) = time {
        sleep_until(time).await;
    }
}

#[cfg(test)]
mod tests;
