//! A client's WebSocket: one task, which alone reads and writes it.

mod entrance;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{Either, select};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::end::{End, sent, unreadable};
use super::gather::{GATHER, messages, size};
use super::{CONNECT, Farewell, PING, Session, Start, Step, Wanted, refused, unavailable};
use crate::access::Unanswered;
use crate::channel::Channel;
use crate::http::clients::{Client, Place};
use crate::http::metrics::{Leave, SessionMetrics};
use crate::hub::{Gone, Subscribe};
use crate::protocol::messages::Reply;
use crate::protocol::{Framing, codes};
use crate::websocket::{Fault, Kind, Socket};
pub(crate) use entrance::Entrance;
use entrance::expired;

/// Replies wait no longer for others to the same frame: clients wait 5 s for each.
const REPLY: Duration = Duration::from_millis(100);
/// One message takes no longer, or the client is too slow. With the time between two pings it
/// stays within what clients wait for a ping.
const SEND: Duration = Duration::from_secs(10);
/// How long the hub may take for an answer: clients wait 5 s.
const ANSWER: Duration = Duration::from_secs(4);
/// For the last frame to a client that may read nothing, and its answer.
const CLOSE: Duration = Duration::from_secs(2);
/// What channels publish while a frame of the client is being answered is held back, at most this
/// many bytes of it besides what waits in the outbox.
const HELD: usize = 1 << 20;

/// A client's connection.
pub(crate) struct Connection<S> {
    socket: Socket<S>,
    framing: Framing,
    session: Session,
    entrance: Entrance,
    client: Client,
    /// The client counts as long as it has one.
    place: Option<Place>,
    ticks: Interval,
    /// Replies to commands of one frame.
    replies: Vec<Bytes>,
    /// When they have to be sent, if there are any.
    reply_by: Instant,
    /// What follows them: the rest of snapshots.
    starts: Vec<Start>,
    /// Frames that were taken from the outbox meanwhile.
    held: Vec<Bytes>,
    metrics: SessionMetrics,
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) fn new(
        socket: Socket<S>,
        framing: Framing,
        entrance: Entrance,
        client: Client,
        metrics: SessionMetrics,
    ) -> Self {
        let mut ticks = interval_at(Instant::now() + CONNECT, PING);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            socket,
            framing,
            session: Session::new(framing, client.name()),
            entrance,
            client,
            place: None,
            ticks,
            replies: Vec::new(),
            reply_by: Instant::now(),
            starts: Vec::new(),
            held: Vec::new(),
            metrics,
        }
    }

    /// Serves the client until one side ends the connection.
    pub(crate) async fn serve(mut self) {
        let Err(end) = self.run().await;
        let (leave, farewell, is_readable) = match end {
            End::Client => (Leave::Client, None, false),
            End::Server(farewell) => (Leave::by_code(farewell.code), Some(farewell), true),
            End::Unreadable(farewell) => (Leave::by_code(farewell.code), Some(farewell), false),
        };
        self.metrics.left(leave);
        // A hub that takes nothing now notices by itself that nobody takes frames.
        if let Some(gate) = self.entrance.gate() {
            let _ = timeout(CLOSE, gate.leave(self.client.id)).await;
        }
        let socket = &mut self.socket;
        let farewell = async {
            let Some(Farewell { code, reason }) = farewell else {
                // The answer to the client's last frame may still wait.
                return socket.flush().await;
            };
            socket.close(code, &reason).await?;
            // With something unread, closing would reset the connection, and the client might
            // not see the code.
            while is_readable && socket.next().await.is_ok_and(|message| message.is_some()) {}
            if !is_readable {
                socket.drain().await?;
            }
            socket.flush().await
        };
        // The client may be gone already, or read nothing: the connection ends either way.
        let _ = timeout(CLOSE, farewell).await;
    }

    async fn run(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            tokio::select! {
                biased;
                _ = self.ticks.tick() => {
                    // What came while something was written is a sign of life too.
                    if let Some(message) = self.socket.next().now_or_never() {
                        self.received(message).await?;
                    }
                    let ping = self.session.tick()?;
                    self.write(self.framing.reply(&ping)).await?;
                }
                message = self.socket.next() => self.received(message).await?,
                () = self.entrance.over(), if self.entrance.has_end() => {
                    return Err(expired().into());
                }
                frames = self.client.frames.take() => self.send(frames?).await?,
            }
        }
    }

    async fn received(&mut self, message: Result<Option<Vec<u8>>, Fault>) -> Result<(), End> {
        let frame = message.map_err(unreadable)?.ok_or(End::Client)?;
        for command in self.session.read(&frame)? {
            match self.session.take(command) {
                Step::Nothing => {}
                Step::Reply(reply) => self.reply(&reply),
                Step::Connect(id, token) => {
                    if !self.connect(id, token).await? {
                        break;
                    }
                }
                Step::Refresh(id, token) => self.refresh(id, token).await?,
                Step::Subscribe(wanted) => self.subscribe(*wanted).await?,
                Step::Unsubscribe(channel, reply) => self.unsubscribe(*channel, reply).await?,
                Step::Close(farewell) => {
                    self.flush().await?;
                    return Err(farewell.into());
                }
            }
            if size(&self.replies) >= GATHER || self.reply_by <= Instant::now() {
                self.flush().await?;
            }
        }
        self.catch_up().await
    }

    fn reply(&mut self, reply: &Reply) {
        if let Some(error) = &reply.error {
            self.metrics.refused(error.code);
        }
        let reply = self.framing.reply(reply);
        self.add_reply(reply);
    }

    fn add_reply(&mut self, reply: Bytes) {
        if self.replies.is_empty() {
            self.reply_by = Instant::now() + REPLY;
        }
        self.replies.push(reply);
    }

    /// Begins a subscription. Its first part is a reply; the others follow when all commands of
    /// the frame have theirs.
    async fn subscribe(&mut self, wanted: Wanted) -> Result<(), End> {
        let subscribe = Subscribe {
            client: self.client.id,
            channel: wanted.channel.clone(),
            framing: self.framing,
            outbox: self.client.outbox.clone(),
            since: wanted.since.clone(),
        };
        let id = self.client.id;
        let Some(gate) = self.entrance.gate().cloned() else {
            self.reply(&unavailable(wanted.id));
            return Ok(());
        };
        let asked = gate.clone();
        let question = async move { asked.subscribe(subscribe).await };
        match self.ask(question).await? {
            Some(Ok(subscribed)) => {
                let mut start = self.session.start(&wanted, subscribed);
                if let Some(reply) = start.next() {
                    self.add_reply(reply);
                }
                if !start.is_over() {
                    self.starts.push(start);
                }
            }
            Some(Err(reason)) if reason != Unanswered::Gone(Gone) => {
                self.reply(&refused(wanted.id, &reason));
            }
            Some(Err(_)) | None => {
                self.reply(&unavailable(wanted.id));
                // The hub may still come to it.
                let undo = async move { gate.forget(id, wanted.channel).await };
                if self.ask(undo).await?.is_none() {
                    return Err(Farewell::new(codes::SHUTDOWN, Gone.to_string()).into());
                }
            }
        }
        Ok(())
    }

    /// Ends a subscription. When this is answered, nothing of the channel comes any more; and
    /// what has come must not be sent after the beginning of another subscription.
    async fn unsubscribe(&mut self, channel: Channel, reply: Reply) -> Result<(), End> {
        if !self.starts.is_empty() {
            self.catch_up().await?;
        }
        let id = self.client.id;
        let Some(gate) = self.entrance.gate().cloned() else {
            self.reply(&unavailable(reply.id));
            return Ok(());
        };
        let question = async move { gate.unsubscribe(id, channel).await };
        let answered = self.ask(question).await?;
        if let Some(frames) = self.client.frames.take().now_or_never() {
            self.held.extend(frames?);
        }
        for frame in std::mem::take(&mut self.held) {
            self.add_reply(frame);
        }
        match answered {
            Some(Ok(_)) => self.reply(&reply),
            Some(Err(_)) | None => self.reply(&unavailable(reply.id)),
        }
        Ok(())
    }

    /// Waits for the hub, at most [`ANSWER`]. Replies and pings that are due are sent meanwhile.
    async fn ask<T>(&mut self, question: impl Future<Output = T> + Send) -> Result<Option<T>, End> {
        let mut question = pin!(timeout(ANSWER, question));
        loop {
            let has_replies = !self.replies.is_empty();
            let is_ping = tokio::select! {
                biased;
                answer = &mut question => return Ok(answer.ok()),
                _ = self.ticks.tick() => true,
                () = sleep_until(self.reply_by), if has_replies => false,
                frames = self.client.frames.take(), if size(&self.held) < HELD => {
                    self.held.extend(frames?);
                    continue;
                }
            };
            let sending = pin!(async {
                if is_ping {
                    self.ping().await?;
                }
                self.flush().await
            });
            // A question that is not polled could keep others from the hub.
            match select(question.as_mut(), sending).await {
                Either::Left((answer, sending)) => {
                    sending.await?;
                    return Ok(answer.ok());
                }
                Either::Right((sent, _)) => sent?,
            }
        }
    }

    /// Sends the replies, then the rest of snapshots, then what was published meanwhile.
    async fn catch_up(&mut self) -> Result<(), End> {
        self.flush().await?;
        for start in std::mem::take(&mut self.starts) {
            for part in start {
                self.write_holding(part).await?;
            }
        }
        while size(&self.held) > GATHER {
            for message in messages(self.framing, std::mem::take(&mut self.held)) {
                self.write_holding(message).await?;
            }
        }
        let held = std::mem::take(&mut self.held);
        self.send(held).await
    }

    async fn flush(&mut self) -> Result<(), End> {
        for message in messages(self.framing, std::mem::take(&mut self.replies)) {
            self.write_holding(message).await?;
        }
        Ok(())
    }

    /// Sends frames, gathered into few messages.
    async fn send(&mut self, frames: Vec<Bytes>) -> Result<(), End> {
        let mut is_first = true;
        for message in messages(self.framing, frames) {
            if !std::mem::take(&mut is_first) {
                self.between_messages().await?;
            }
            self.write(message).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), End> {
        let kind = self.counted(&bytes);
        let mut sending = pin!(self.socket.send(kind, bytes));
        // Most messages fit into the socket at once, and need no timer.
        match sending.as_mut().now_or_never() {
            Some(result) => sent(Ok(result)),
            None => sent(timeout(SEND, sending).await),
        }
    }

    /// Writes a message, and takes from the outbox meanwhile: the time that a large snapshot
    /// takes must not count against the client.
    async fn write_holding(&mut self, bytes: Bytes) -> Result<(), End> {
        self.between_messages().await?;
        let kind = self.counted(&bytes);
        let mut room = HELD.saturating_sub(size(&self.held));
        let sending = timeout(SEND, self.socket.send(kind, bytes));
        tokio::pin!(sending);
        loop {
            tokio::select! {
                biased;
                result = &mut sending => return sent(result),
                frames = self.client.frames.take(), if room > 0 => {
                    let frames = frames?;
                    room = room.saturating_sub(size(&frames));
                    self.held.extend(frames);
                }
            }
        }
    }

    /// Sends a ping if one is due: it goes ahead of all that waits, because some clients count
    /// nothing else as a sign of life.
    ///
    /// # Errors
    /// The connection is to end: what has not been sent is of no use.
    async fn between_messages(&mut self) -> Result<(), End> {
        while self.client.outbox.is_over() {
            self.client.frames.take().await?;
        }
        if self.entrance.is_over() {
            return Err(expired().into());
        }
        if self.ticks.tick().now_or_never().is_some() {
            self.ping().await?;
        }
        Ok(())
    }

    async fn ping(&mut self) -> Result<(), End> {
        let ping = self.session.ping()?;
        self.write(self.framing.reply(&ping)).await
    }

    /// Counts a message that is about to be sent, and says of what kind it is.
    fn counted(&self, bytes: &Bytes) -> Kind {
        self.metrics.sent(bytes.len());
        match self.framing {
            Framing::Protobuf => Kind::Binary,
            Framing::Json | Framing::EventStream => Kind::Text,
        }
    }
}
