//! A client of one or several replicas, as the SDKs are: it reconnects by itself, subscribes
//! again with the position that it has reached, and answers pings.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::{SinkExt, StreamExt};
use iot_service::Backoff;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::filter::Filter;
use super::wire::{
    CONNECT, Channel, Connected, Position, Publication, Reply, Subscribed, connect, subscribe,
};

/// Deadline of connecting and of the answer to each request, as in the SDKs.
const ANSWER: Duration = Duration::from_secs(5);
/// How long after a ping is due the connection counts as broken, as in the SDKs.
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// Interval of pings if the server names none.
const PING: Duration = Duration::from_secs(25);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What happens to a client, in order.
#[derive(Debug)]
pub(super) enum Event {
    Connected,
    /// The connection, or the attempt to connect, has ended.
    Broken(String),
    Subscribed(Channel, Subscribed),
    Published(Channel, Publication),
}

/// Events of a client, with its number.
pub(super) type Events = mpsc::Sender<(usize, Event)>;

pub(super) struct Client {
    pub(super) number: usize,
    /// The replicas, of which the first is tried first. After a failure the next one is.
    pub(super) urls: Vec<String>,
    pub(super) events: Events,
    /// Of its channels.
    names: [String; 2],
    positions: [Option<Position>; 2],
    /// Whether it has had a snapshot of all partitions.
    begun: bool,
}

impl Client {
    pub(super) fn new(number: usize, urls: Vec<String>, filter: &Filter, events: Events) -> Self {
        Self {
            number,
            urls,
            events,
            names: Channel::ALL.map(|channel| filter.channel(channel.name())),
            positions: [None, None],
            begun: false,
        }
    }

    /// Runs until nobody takes the events, or until it is stopped.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for url in self.urls.clone().iter().cycle() {
            let connected = Instant::now();
            let Err(error) = self.session(url).await;
            if connected.elapsed() > ANSWER {
                backoff.reset();
            }
            let why = format!("{url}: {error:#}");
            if self
                .events
                .send((self.number, Event::Broken(why)))
                .await
                .is_err()
            {
                return;
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// One connection; always ends with an error.
    async fn session(&mut self, url: &str) -> anyhow::Result<Infallible> {
        let mut session = Session::open(url).await?;
        // All requests in one frame, as the JavaScript SDK sends them.
        let subscribe = |channel| (Channel::request(channel), self.subscribe(channel));
        let mut requests = vec![(CONNECT, connect())];
        requests.extend(Channel::ALL.map(subscribe));
        session.ask(&requests).await?;
        loop {
            for reply in session.next().await? {
                self.take(reply, &mut session).await?;
            }
        }
    }

    /// Takes anything but a ping.
    async fn take(&mut self, reply: Reply, session: &mut Session) -> anyhow::Result<()> {
        let channel = Channel::ALL.into_iter().find(|c| c.request() == reply.id);
        if let Some(error) = reply.error {
            let of = channel.map_or("connecting", Channel::name);
            bail!("{of}: {error}");
        }
        if let Some(connected) = reply.connect {
            session.connected(&connected);
            self.tell(Event::Connected).await?;
        }
        if let Some(answer) = reply.subscribe {
            let channel = channel.context("an answer without the id of a request")?;
            self.subscribed(channel, answer).await?;
        }
        let Some(push) = reply.push else {
            return Ok(());
        };
        let mut channels = Channel::ALL.into_iter();
        let channel = channels.find(|channel| self.names[*channel as usize] == push.channel);
        let channel = channel.with_context(|| format!("a push of {}", push.channel))?;
        if let Some(end) = push.unsubscribe {
            ensure!(end.resubscribes(), "{}: unsubscribed: {end}", push.channel);
            let again = (channel.request(), self.subscribe(channel));
            session.ask(&[again]).await?;
        }
        if let Some(publication) = push.publication {
            if publication.offset > 0
                && let Some(position) = &mut self.positions[channel as usize]
            {
                position.offset = publication.offset;
            }
            self.tell(Event::Published(channel, publication)).await?;
        }
        Ok(())
    }

    async fn subscribed(&mut self, channel: Channel, answer: Subscribed) -> anyhow::Result<()> {
        let partial = answer.data.as_ref().map_or(&[][..], |data| &data.partial);
        // What comes up while the service starts is no change of what was shown.
        if let (Some(why), false) = (partial.first(), self.begun) {
            bail!("{}: not all partitions are shown: {why}", channel.name());
        }
        self.begun |= channel == Channel::Readings;
        let last = answer.publications.last().map_or(0, |last| last.offset);
        self.positions[channel as usize] = Some(Position {
            epoch: answer.epoch.clone(),
            offset: answer.offset.max(last),
        });
        self.tell(Event::Subscribed(channel, answer)).await
    }

    /// A request with the position to continue from. 0 never recovers, so a cut between pages
    /// brings a new snapshot.
    fn subscribe(&self, channel: Channel) -> Value {
        let position = self.positions[channel as usize].as_ref();
        let position = position.filter(|position| position.offset > 0);
        subscribe(channel, &self.names[channel as usize], position)
    }

    async fn tell(&self, event: Event) -> anyhow::Result<()> {
        let told = self.events.send((self.number, event)).await;
        told.context("nobody takes the events")
    }
}

/// A connection, and which requests are not answered yet.
struct Session {
    socket: Socket,
    unanswered: Vec<u32>,
    asked: Instant,
    /// When the last frame arrived.
    heard: Instant,
    ping: Duration,
    pong: bool,
}

impl Session {
    async fn open(url: &str) -> anyhow::Result<Self> {
        let connecting = timeout(ANSWER, connect_async(url)).await;
        let (socket, _) = connecting
            .context("connecting: no answer")?
            .context("connecting")?;
        let now = Instant::now();
        Ok(Self {
            socket,
            unanswered: Vec::new(),
            asked: now,
            heard: now,
            ping: PING,
            pong: false,
        })
    }

    /// Sends requests, with their ids.
    async fn ask(&mut self, requests: &[(u32, Value)]) -> anyhow::Result<()> {
        let lines: Vec<_> = requests.iter().map(|(_, line)| line.to_string()).collect();
        self.unanswered.extend(requests.iter().map(|(id, _)| *id));
        self.asked = Instant::now();
        self.send(lines.join("\n")).await
    }

    async fn send(&mut self, text: String) -> anyhow::Result<()> {
        let sent = timeout(ANSWER, self.socket.send(Message::text(text))).await;
        sent.context("the server does not read")?.context("sending")
    }

    fn connected(&mut self, answer: &Connected) {
        self.pong = answer.pong;
        if answer.ping > 0 {
            self.ping = Duration::from_secs(answer.ping);
        }
    }

    /// What the next frame holds. Answers pings.
    async fn next(&mut self) -> anyhow::Result<Vec<Reply>> {
        let (deadline, late) = if self.unanswered.is_empty() {
            (self.heard + self.ping + PING_PATIENCE, "no ping in time")
        } else {
            (self.asked + ANSWER, "a request is not answered in time")
        };
        let message = timeout_at(deadline, self.socket.next()).await;
        let message = message.context(late)?.context("the connection has ended")?;
        let text = match message.context("receiving")? {
            Message::Text(text) => text,
            Message::Close(Some(frame)) => bail!("closed: {} {}", frame.code, frame.reason),
            Message::Close(None) => bail!("closed without a code"),
            Message::Binary(_) => bail!("a binary frame in a session with JSON"),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(Vec::new()),
        };
        self.heard = Instant::now();
        ensure!(!text.is_empty(), "an empty frame");
        let mut replies = Vec::new();
        for line in text.lines() {
            let reply = serde_json::from_str(line);
            let reply: Reply = reply.with_context(|| format!("reading {}", shortened(line)))?;
            if reply.is_ping() {
                if self.pong {
                    self.send("{}".to_owned()).await?;
                }
                continue;
            }
            if reply.id != 0 {
                let asked = self.unanswered.iter().position(|id| *id == reply.id);
                self.unanswered
                    .swap_remove(asked.context("an answer that was not asked for")?);
            }
            replies.push(reply);
        }
        Ok(replies)
    }
}

/// The start of a text, for a message.
fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    text.chars().take(MOST).collect()
}
