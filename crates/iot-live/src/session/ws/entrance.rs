//! Who the client of a connection is: its connect and refresh requests.

use std::pin::Pin;
use std::time::Duration;

use iot_auth::Refusal;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Connection;
use crate::access::{Door, Gate};
use crate::protocol::codes;
use crate::protocol::messages::Error;
use crate::session::end::End;
use crate::session::{Farewell, Term, failure, not_now};

/// How long after its token has expired a client may send a newer one.
const GRACE: Duration = Duration::from_secs(25);

/// How a client gets in, and for how long.
pub(crate) struct Entrance {
    door: Door,
    /// Of the request that opened the connection, if its headers name an identity.
    by_headers: Option<Gate>,
    /// The client's, once it is in.
    gate: Option<Gate>,
    /// Ends with the client's time. Most clients have none, so that it costs them little.
    end: Option<Pin<Box<Sleep>>>,
}

impl Entrance {
    pub(crate) fn new(door: Door, by_headers: Option<Gate>) -> Self {
        Self {
            door,
            by_headers,
            gate: None,
            end: None,
        }
    }

    /// The client's gate, if it is in.
    pub(super) fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    pub(super) fn has_end(&self) -> bool {
        self.end.is_some()
    }

    /// Waits until the client's time is over. Cancel safe.
    pub(super) async fn over(&mut self) {
        match &mut self.end {
            Some(end) => end.as_mut().await,
            None => std::future::pending().await,
        }
    }

    /// Whether the client's time is over.
    pub(super) fn is_over(&self) -> bool {
        let end = self.end.as_ref();
        end.is_some_and(|end| end.deadline() <= Instant::now())
    }

    /// Lets the client in, or changes what it may ask.
    fn enter(&mut self, gate: Gate) {
        let end = gate.expires_at();
        self.end = end.map(|end| Box::pin(sleep_until(end + GRACE)));
        self.gate = Some(gate);
    }
}

/// The end of a connection whose client has sent no newer token in time.
pub(super) fn expired() -> Farewell {
    Farewell::new(codes::EXPIRED, "token expired")
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Answers a connect request. Returns whether the client is in.
    pub(super) async fn connect(&mut self, id: u32, token: String) -> Result<bool, End> {
        let uses_tokens = self.entrance.door.uses_tokens();
        let (admitted, is_renewable) = if token.is_empty() || !uses_tokens {
            let by_headers = self.entrance.by_headers.clone();
            (by_headers.ok_or_else(unauthorized), false)
        } else {
            (self.admitted(token).await?, true)
        };
        let admitted = admitted.and_then(|gate| {
            self.place = self.client.place();
            let has_place = self.place.is_some();
            let full = || not_now("too many clients; retry later");
            has_place.then_some(gate).ok_or_else(full)
        });
        let (reply, is_in) = match admitted {
            Ok(gate) => {
                let term = is_renewable.then(|| term(&gate));
                let reply = self
                    .session
                    .admit(id, gate.identity(), term, Timestamp::now());
                self.entrance.enter(gate);
                self.ticks.reset();
                (reply, true)
            }
            Err(error) => (failure(id, error), false),
        };
        self.reply(&reply);
        Ok(is_in)
    }

    /// Answers a refresh request. What the client is subscribed to ends if the newer token is for
    /// something else.
    pub(super) async fn refresh(&mut self, id: u32, token: String) -> Result<(), End> {
        if !self.entrance.door.uses_tokens() {
            let reply = self.session.refreshed(id, Term::default());
            self.reply(&reply);
            return Ok(());
        }
        let newer = match (self.admitted(token).await?, self.entrance.gate()) {
            (Ok(newer), Some(gate)) if newer.identity().name == gate.identity().name => newer,
            (Err(error), _) => {
                self.reply(&failure(id, error));
                return Ok(());
            }
            (Ok(_), _) => {
                self.reply(&failure(id, unauthorized()));
                return Ok(());
            }
        };
        let gate = self.entrance.gate().cloned();
        if let Some(gate) = gate.filter(|gate| !gate.sees_as(&newer)) {
            self.resubscribe(gate).await?;
        }
        let reply = self.session.refreshed(id, term(&newer));
        self.entrance.enter(newer);
        self.reply(&reply);
        Ok(())
    }

    /// Ends all subscriptions, after what is under way for them.
    async fn resubscribe(&mut self, gate: Gate) -> Result<(), End> {
        if !self.starts.is_empty() {
            self.catch_up().await?;
        }
        let client = self.client.id;
        let ended = async move { gate.resubscribe(client).await };
        match self.ask(ended).await? {
            Some(Ok(())) => Ok(()),
            // What they still get is not known to be for the client.
            Some(Err(_)) | None => {
                let reason = "what the client may see has changed";
                Err(Farewell::new(codes::SHUTDOWN, reason).into())
            }
        }
    }

    /// The gate of the identity that a token names.
    async fn admitted(&mut self, token: String) -> Result<Result<Gate, Error>, End> {
        let door = self.entrance.door.clone();
        let answer = async move { door.admit_token(&token).await };
        Ok(match self.ask(answer).await? {
            Some(Ok(gate)) => Ok(gate),
            Some(Err(refusal)) => Err(refused(&refusal)),
            None => Err(unchecked()),
        })
    }
}

/// How long a gate stays open.
fn term(gate: &Gate) -> Term {
    Term(gate.expires_in(Timestamp::now()))
}

/// What a client learns of a refusal; the rest is in the log.
fn refused(refusal: &Refusal) -> Error {
    if refusal.is_temporary() {
        unchecked()
    } else if refusal.is_expired() {
        Error {
            code: codes::TOKEN_EXPIRED,
            message: "token expired".to_owned(),
            temporary: false,
        }
    } else {
        unauthorized()
    }
}

fn unauthorized() -> Error {
    Error {
        code: codes::UNAUTHORIZED,
        message: "unauthorized".to_owned(),
        temporary: false,
    }
}

fn unchecked() -> Error {
    not_now("identities cannot be checked now; retry later")
}
