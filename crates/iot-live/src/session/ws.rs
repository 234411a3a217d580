//! A client's WebSocket: one task, which alone reads and writes it.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes};
use bytes::Bytes;
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use jiff::Timestamp;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::{CONNECT, Farewell, PING, Session, Step, Wanted, refused, unavailable};
use crate::http::clients::{Client, Place};
use crate::http::metrics::{Leave, SessionMetrics};
use crate::hub::{Close, Hub, Subscribe};
use crate::protocol::Framing;
use crate::protocol::messages::Reply;

/// Waiting frames are gathered into messages of about this many bytes. A client must be able to
/// take a ping between two of them.
const GATHER: usize = 128 << 10;
/// One message takes no longer, or the client is too slow. With the time between two pings it
/// stays within what clients wait for a ping.
const SEND: Duration = Duration::from_secs(10);
/// How long the hub may take for an answer: clients wait 5 s.
const ANSWER: Duration = Duration::from_secs(4);
/// For the last frame to a client that may read nothing, and its answer.
const CLOSE: Duration = Duration::from_secs(2);
/// What channels publish while a snapshot is being sent is held back, at most this many bytes of
/// it besides what waits in the outbox.
const HELD: usize = 1 << 20;

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The client has closed it, or it broke.
    Client,
    /// The server ends it.
    Server(Farewell),
}

impl From<Farewell> for End {
    fn from(farewell: Farewell) -> Self {
        Self::Server(farewell)
    }
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Server(close.into())
    }
}

/// A client's connection.
pub(crate) struct Connection<S> {
    socket: S,
    framing: Framing,
    session: Session,
    hub: Hub,
    client: Client,
    /// The client counts as long as it has one.
    place: Option<Place>,
    ticks: Interval,
    /// Frames that were taken from the outbox while a snapshot was being sent.
    held: Vec<Bytes>,
    metrics: SessionMetrics,
}

impl<S> Connection<S>
where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin,
{
    pub(crate) fn new(
        socket: S,
        framing: Framing,
        hub: Hub,
        client: Client,
        metrics: SessionMetrics,
    ) -> Self {
        let mut ticks = interval_at(Instant::now() + CONNECT, PING);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            socket,
            framing,
            session: Session::new(framing, client.name()),
            hub,
            client,
            place: None,
            ticks,
            held: Vec::new(),
            metrics,
        }
    }

    /// Serves the client until one side ends the connection.
    pub(crate) async fn serve(mut self) {
        let Err(end) = self.run().await;
        let leave = match &end {
            End::Client => Leave::Client,
            End::Server(farewell) => Leave::by_code(farewell.code),
        };
        self.metrics.left(leave);
        self.hub.leave(self.client.id).await;
        if let End::Server(Farewell { code, reason }) = end {
            let frame = CloseFrame {
                code,
                reason: reason.into(),
            };
            let socket = &mut self.socket;
            // With something unread, closing would reset the connection, and the client might not
            // see the code.
            let farewell = async {
                socket.send(Message::Close(Some(frame))).await?;
                while socket.next().await.transpose()?.is_some() {}
                Ok::<_, axum::Error>(())
            };
            // The client may be gone already, or read nothing: the connection ends either way.
            let _ = timeout(CLOSE, farewell).await;
        }
    }

    async fn run(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            tokio::select! {
                biased;
                _ = self.ticks.tick() => self.tick().await?,
                message = self.socket.next() => match message {
                    Some(Ok(message)) => self.heard(message).await?,
                    Some(Err(_)) | None => return Err(End::Client),
                },
                frames = self.client.frames.take() => self.send(frames?).await?,
            }
        }
    }

    /// A ping goes ahead of all that waits: some clients count nothing else as a sign of life.
    async fn tick(&mut self) -> Result<(), End> {
        let ping = self.session.tick()?;
        self.write(self.framing.reply(&ping)).await
    }

    async fn heard(&mut self, message: Message) -> Result<(), End> {
        let frame = match message {
            Message::Text(_) | Message::Binary(_) => message.into_data(),
            // The library answers pings.
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return Err(End::Client),
        };
        let mut replies = Vec::new();
        for command in self.session.read(&frame)? {
            match self.session.take(command) {
                Step::Nothing => {}
                Step::Reply(reply) => self.reply(&mut replies, &reply),
                Step::Connect(id) => {
                    self.place = self.client.place();
                    let reply = self
                        .session
                        .admit(id, self.place.is_some(), Timestamp::now());
                    self.reply(&mut replies, &reply);
                    if self.place.is_none() {
                        break;
                    }
                    self.ticks.reset();
                }
                Step::Subscribe(wanted) => self.subscribe(*wanted, &mut replies).await?,
                Step::Unsubscribe(channel, reply) => {
                    self.hub.unsubscribe(self.client.id, *channel).await;
                    // When this is answered, nothing of the channel comes any more; and what has
                    // come must not be sent after the beginning of another subscription.
                    let _ = timeout(ANSWER, self.hub.stats()).await;
                    if let Some(frames) = self.client.frames.take().now_or_never() {
                        replies.extend(frames?);
                    }
                    self.reply(&mut replies, &reply);
                }
                Step::Close(farewell) => {
                    self.send(replies).await?;
                    return Err(farewell.into());
                }
            }
            if replies.iter().map(Bytes::len).sum::<usize>() >= GATHER {
                self.send(std::mem::take(&mut replies)).await?;
            }
        }
        self.send(replies).await
    }

    fn reply(&self, replies: &mut Vec<Bytes>, reply: &Reply) {
        if let Some(error) = &reply.error {
            self.metrics.refused(error.code);
        }
        replies.push(self.framing.reply(reply));
    }

    /// Begins a subscription. Its first part is added to `replies`; if there are more, all are
    /// sent, and then what was published meanwhile.
    async fn subscribe(&mut self, wanted: Wanted, replies: &mut Vec<Bytes>) -> Result<(), End> {
        let subscribe = Subscribe {
            client: self.client.id,
            channel: wanted.channel.clone(),
            framing: self.framing,
            outbox: self.client.outbox.clone(),
            since: wanted.since.clone(),
        };
        let subscribed = match timeout(ANSWER, self.hub.subscribe(subscribe)).await {
            Ok(Ok(Ok(subscribed))) => subscribed,
            Ok(Ok(Err(reason))) => {
                self.reply(replies, &refused(wanted.id, reason));
                return Ok(());
            }
            Ok(Err(_)) | Err(_) => {
                // The hub may still come to it.
                self.hub.unsubscribe(self.client.id, wanted.channel).await;
                self.reply(replies, &unavailable(wanted.id));
                return Ok(());
            }
        };
        let mut parts = self.session.start(&wanted, subscribed);
        replies.extend(parts.next());
        let Some(mut part) = parts.next() else {
            return Ok(());
        };
        self.send(std::mem::take(replies)).await?;
        loop {
            self.write_holding(part).await?;
            match parts.next() {
                Some(next) => part = next,
                None => break,
            }
        }
        let held = std::mem::take(&mut self.held);
        self.send(held).await
    }

    /// Sends parts, gathered into few messages.
    async fn send(&mut self, parts: Vec<Bytes>) -> Result<(), End> {
        let mut rest = &parts[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |part: &&Bytes| {
                bytes += part.len();
                bytes <= GATHER
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (message, others) = rest.split_at(count);
            rest = others;
            if self.ticks.tick().now_or_never().is_some() {
                self.tick().await?;
            }
            self.write(self.framing.join(message)).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), End> {
        let message = self.message(bytes)?;
        sent(timeout(SEND, self.socket.send(message)).await)
    }

    /// Writes a page of a snapshot, and takes from the outbox meanwhile: the time that a large
    /// snapshot takes must not count against the client.
    async fn write_holding(&mut self, bytes: Bytes) -> Result<(), End> {
        if self.ticks.tick().now_or_never().is_some() {
            self.tick().await?;
        }
        let message = self.message(bytes)?;
        let mut room = HELD.saturating_sub(self.held.iter().map(Bytes::len).sum());
        let sending = timeout(SEND, self.socket.send(message));
        tokio::pin!(sending);
        loop {
            tokio::select! {
                biased;
                result = &mut sending => return sent(result),
                frames = self.client.frames.take(), if room > 0 => {
                    let frames = frames?;
                    room = room.saturating_sub(frames.iter().map(Bytes::len).sum());
                    self.held.extend(frames);
                }
            }
        }
    }

    fn message(&self, bytes: Bytes) -> Result<Message, End> {
        self.metrics.sent(bytes.len());
        match self.framing {
            Framing::Protobuf => Ok(Message::Binary(bytes)),
            // What is written here comes from texts.
            Framing::Json | Framing::EventStream => match Utf8Bytes::try_from(bytes) {
                Ok(text) => Ok(Message::Text(text)),
                Err(_) => Err(End::Client),
            },
        }
    }
}

fn sent(result: Result<Result<(), axum::Error>, tokio::time::error::Elapsed>) -> Result<(), End> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Client),
        Err(_) => Err(Close::Slow.into()),
    }
}
