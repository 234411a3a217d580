//! One client of the push protocol, without I/O: commands come in; replies, requests to the hub
//! and the end of the connection come out. docs/push.md describes what clients see.

mod end;
mod gather;
mod start;
#[cfg(test)]
mod tests;
pub(crate) mod ws;

use std::time::Duration;

use iot_auth::Identity;
use jiff::Timestamp;

use crate::access::Unanswered;
use crate::channel::{BadChannel, Channel, Kind};
use crate::hub::{Close, Gone, Position, Refused, Subscribed};
use crate::protocol::messages::{
    Command, ConnectResult, Empty, Error, RefreshResult, Reply, SubscribeRequest,
};
use crate::protocol::{Framing, Malformed, codes};
pub(crate) use start::{Pages, Start, positioned, with_sensor};

/// Between two pings. A client that has sent nothing since the one before is gone; one that gets
/// none for 10 s longer connects again.
pub(crate) const PING: Duration = Duration::from_secs(25);
/// How long a client may take until its connect request.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);
/// The longest reason for closing, in bytes (RFC 6455, 5.5: 125 with the code).
const MAX_REASON: usize = 123;

/// A client of a WebSocket.
#[derive(Debug)]
pub(crate) struct Session {
    framing: Framing,
    /// The name of the session.
    name: String,
    is_open: bool,
    /// Whether the client has sent anything since the last ping.
    was_heard: bool,
}

/// What a command leads to.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Nothing.
    Nothing,
    /// A reply.
    Reply(Reply),
    /// A request to be let in, with its number and token: [`Session::admit`] or [`failure`] has
    /// the answer.
    Connect(u32, String),
    /// A newer token, with the number of the request: [`Session::refreshed`] or [`failure`] has
    /// the answer.
    Refresh(u32, String),
    /// A request to the hub: [`Session::start`] or [`refused`] has the answer.
    Subscribe(Box<Wanted>),
    /// The end of a subscription, and the reply once the hub knows of it.
    Unsubscribe(Box<Channel>, Reply),
    /// The end of the connection.
    Close(Farewell),
}

/// A subscription that a client asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct Wanted {
    /// Number of the request.
    pub(crate) id: u32,
    /// Of what.
    pub(crate) channel: Channel,
    /// Whether it had one before.
    pub(crate) is_recovering: bool,
    /// What it has seen.
    pub(crate) since: Option<Position>,
}

/// Why the server ends a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// One of [`codes`].
    pub(crate) code: u16,
    /// For people: never JSON, and short enough for a close frame.
    pub(crate) reason: String,
}

impl Farewell {
    pub(crate) fn new(code: u16, reason: impl Into<String>) -> Self {
        let mut reason: String = reason.into();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        Self { code, reason }
    }
}

impl From<Close> for Farewell {
    fn from(close: Close) -> Self {
        match close {
            Close::Slow => Self::new(
                codes::SLOW,
                "too slow: the client reads less than it asked for",
            ),
            Close::Shutdown => Self::new(codes::SHUTDOWN, "shutdown"),
        }
    }
}

impl From<Malformed> for Farewell {
    fn from(malformed: Malformed) -> Self {
        Self::new(codes::BAD_FRAME, malformed.to_string())
    }
}

/// For how long a token lets a client in; `None` for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Term(pub(crate) Option<Duration>);

impl Term {
    /// Whether it ends, and in how many seconds: at least 1, because SDKs take 0 for none.
    fn seconds(self) -> (bool, u32) {
        let seconds = self.0.map(|left| left.as_secs().max(1));
        let ttl = seconds.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        (ttl.is_some(), ttl.unwrap_or(0))
    }
}

impl Session {
    pub(crate) fn new(framing: Framing, name: String) -> Self {
        Self {
            framing,
            name,
            is_open: false,
            was_heard: true,
        }
    }

    /// The commands in a frame of the client. Any frame is a sign of life.
    ///
    /// # Errors
    /// The frame is malformed.
    pub(crate) fn read(&mut self, frame: &[u8]) -> Result<Vec<Command>, Farewell> {
        self.was_heard = true;
        Ok(self.framing.commands(frame)?)
    }

    /// What to do about a command.
    pub(crate) fn take(&mut self, command: Command) -> Step {
        let id = command.id;
        if command.connect.is_some() == self.is_open {
            return Step::Close(if self.is_open {
                Farewell::new(codes::BAD_FRAME, "connected already")
            } else {
                Farewell::new(codes::NO_CONNECT, "the first command has to be connect")
            });
        }
        if command.send.is_some() {
            // Nothing takes messages yet, and a sender expects no answer.
            return Step::Nothing;
        }
        if id == 0 {
            return Step::Close(Farewell::new(
                codes::BAD_FRAME,
                "a request needs an id above 0",
            ));
        }
        if let Some(connect) = command.connect {
            Step::Connect(id, connect.token)
        } else if let Some(subscribe) = command.subscribe {
            wanted(id, subscribe)
        } else if let Some(unsubscribe) = command.unsubscribe {
            match Channel::parse(&unsubscribe.channel) {
                Ok(channel) => {
                    let reply = Reply {
                        unsubscribe: Some(Empty {}),
                        ..answer(id)
                    };
                    Step::Unsubscribe(Box::new(channel), reply)
                }
                Err(bad) => Step::Reply(bad_channel(id, &bad)),
            }
        } else if command.ping.is_some() {
            Step::Reply(Reply {
                ping: Some(Empty {}),
                ..answer(id)
            })
        } else if let Some(refresh) = command.refresh {
            Step::Refresh(id, refresh.token)
        } else if let Some(rpc) = command.rpc {
            let reason = format!("unknown method {:?}", rpc.method);
            Step::Reply(error(id, codes::NOT_FOUND, reason))
        } else {
            let reason =
                "known requests are connect, subscribe, unsubscribe, refresh, rpc, send and ping";
            Step::Reply(error(id, codes::NOT_FOUND, reason.to_owned()))
        }
    }

    /// Lets a client in. One that is refused can ask again in another frame; what follows in the
    /// same one is to be ignored. `term`: if the client can send a newer token later.
    pub(crate) fn admit(
        &mut self,
        id: u32,
        identity: &Identity,
        term: Option<Term>,
        now: Timestamp,
    ) -> Reply {
        self.is_open = true;
        let version = env!("CARGO_PKG_VERSION");
        let facts = serde_json::json!({
            "server_time": now.as_millisecond(),
            "version": version,
            "identity": { "name": identity.name, "role": identity.role },
        });
        let (expires, ttl) = term.unwrap_or_default().seconds();
        let result = ConnectResult {
            client: self.name.clone(),
            version: version.to_owned(),
            expires,
            ttl,
            data: facts.to_string().into(),
            ping: u32::try_from(PING.as_secs()).unwrap_or(u32::MAX),
            pong: true,
        };
        Reply {
            connect: Some(result),
            ..answer(id)
        }
    }

    /// Accepts a newer token.
    pub(crate) fn refreshed(&self, id: u32, term: Term) -> Reply {
        let (expires, ttl) = term.seconds();
        let result = RefreshResult {
            client: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            expires,
            ttl,
        };
        Reply {
            refresh: Some(result),
            ..answer(id)
        }
    }

    /// The parts that a subscription begins with, in the client's framing.
    pub(crate) fn start(&self, wanted: &Wanted, subscribed: Subscribed) -> Start {
        Start::new(self.framing, wanted, subscribed)
    }

    /// Time has passed: until the connect request, or since the last ping.
    ///
    /// # Errors
    /// The client has not sent anything meanwhile.
    pub(crate) fn tick(&mut self) -> Result<Reply, Farewell> {
        let ping = self.ping()?;
        if !std::mem::take(&mut self.was_heard) {
            return Err(Farewell::new(codes::NO_PONG, "no answer to a ping"));
        }
        Ok(ping)
    }

    /// A ping while the client is not read, so that its silence means nothing.
    ///
    /// # Errors
    /// The client has not connected in time.
    pub(crate) fn ping(&self) -> Result<Reply, Farewell> {
        if self.is_open {
            Ok(Reply::default())
        } else {
            let reason = "no connect request in time";
            Err(Farewell::new(codes::NO_CONNECT, reason))
        }
    }
}

fn wanted(id: u32, request: SubscribeRequest) -> Step {
    if request.tf.is_some() {
        let reason = "tf is not supported: filters are parameters of the channel's name";
        return Step::Reply(error(id, codes::BAD_REQUEST, reason.to_owned()));
    }
    let channel = match Channel::parse(&request.channel) {
        Ok(channel) => channel,
        Err(bad) => return Step::Reply(bad_channel(id, &bad)),
    };
    let is_recovering = request.recover;
    // Offset 0 is that of a snapshot of which pages are missing.
    let has_position = is_recovering && request.offset > 0 && channel.kind != Kind::Stats;
    let since = has_position.then_some(Position {
        epoch: request.epoch,
        offset: request.offset,
    });
    Step::Subscribe(Box::new(Wanted {
        id,
        channel,
        is_recovering,
        since,
    }))
}

/// Why a subscription is refused.
pub(crate) fn refused(id: u32, reason: &Unanswered) -> Reply {
    let code = match reason {
        Unanswered::Denied(_) => codes::DENIED,
        Unanswered::Refused(Refused::Already) => codes::ALREADY_SUBSCRIBED,
        Unanswered::Refused(Refused::TooMany) => codes::LIMIT,
        Unanswered::Gone(_) | Unanswered::NoWindows(_) => return unavailable(id),
    };
    error(id, code, reason.to_string())
}

/// The hub has not answered.
pub(crate) fn unavailable(id: u32) -> Reply {
    failure(id, not_now(&Gone.to_string()))
}

/// A failure after which clients retry.
pub(crate) fn not_now(message: &str) -> Error {
    Error {
        code: codes::INTERNAL,
        message: message.to_owned(),
        temporary: true,
    }
}

/// The answer to a request that failed.
pub(crate) fn failure(id: u32, refusal: Error) -> Reply {
    Reply {
        error: Some(refusal),
        ..answer(id)
    }
}

fn bad_channel(id: u32, bad: &BadChannel) -> Reply {
    let code = match bad {
        BadChannel::Unknown => codes::UNKNOWN_CHANNEL,
        BadChannel::TooLong(_) | BadChannel::Parameter(_) => codes::BAD_REQUEST,
    };
    error(id, code, bad.to_string())
}

fn error(id: u32, code: u32, message: String) -> Reply {
    let refusal = Error {
        code,
        message,
        temporary: false,
    };
    failure(id, refusal)
}

fn answer(id: u32) -> Reply {
    Reply {
        id,
        ..Reply::default()
    }
}
