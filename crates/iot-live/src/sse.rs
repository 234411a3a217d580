//! Server-Sent Events (HTML, 9.2): a channel as an event stream, for programs without a WebSocket
//! and for `curl -N`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{FutureExt, stream};
use iot_service::Backoff;
use tokio::time::{Instant, timeout};

use crate::access::{Gate, Unanswered};
use crate::channel::{Channel, Kind};
use crate::http::State;
use crate::http::api::Error;
use crate::http::clients::{Client, Place};
use crate::http::metrics::{Leave, SessionMetrics};
use crate::hub::{Close, First, Gone, Position, Subscribe};
use crate::protocol::messages::Unsubscribe;
use crate::protocol::{Framing, codes, end_event, event, event_id, is_end_event};
use crate::session::{Pages, positioned};

/// Between two comments when nothing else is sent: proxies close quiet connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long the hub may take for the beginning.
const ANSWER: Duration = Duration::from_secs(4);
/// Browsers come back after half of this to all of it, so that not all do at the same time.
const RETRY: Duration = Duration::from_secs(5);
/// What the channel publishes while a snapshot is being sent is held back, at most this many
/// bytes of it besides what waits in the outbox.
const HELD: usize = 1 << 20;

/// An event stream of the channel, from the position in `Last-Event-ID` on if there is one.
pub(crate) async fn stream(
    state: State,
    gate: Gate,
    kind: Kind,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let name = if query.is_empty() {
        kind.path().to_owned()
    } else {
        format!("{}?{query}", kind.path())
    };
    let channel = Channel::parse(&name)?;
    let client = state.clients.add();
    let Some(place) = client.place() else {
        return Ok(not_now("too many clients; retry later"));
    };
    let subscribe = Subscribe {
        client: client.id,
        channel: channel.clone(),
        framing: Framing::EventStream,
        outbox: client.outbox.clone(),
        since: last_position(kind, headers),
    };
    let subscribed = match timeout(ANSWER, gate.subscribe(subscribe)).await {
        Ok(Ok(subscribed)) => subscribed,
        Ok(Err(Unanswered::Gone(_))) | Err(_) => return Ok(not_now(&Gone.to_string())),
        Ok(Err(refused)) => return Err(refused.into()),
    };
    let has_position = kind != Kind::Stats && subscribed.offset > 0;
    let last_id = if has_position {
        event_id(&subscribed.epoch, subscribed.offset)
    } else {
        String::new()
    };
    let mut ready = VecDeque::new();
    let mut pages = None;
    match subscribed.first {
        First::Snapshot(snapshot) => {
            pages = Some(Pages::new(&channel, snapshot, subscribed.partial));
        }
        First::Missed(missed) => ready.extend(positioned(missed).into_iter().map(|missed| {
            let (offset, data) = missed;
            let (channel, epoch) = (&channel.name, &subscribed.epoch);
            Framing::EventStream.publication(channel, epoch, offset, &data)
        })),
    }
    let events = Events {
        greeting: Some(retry()),
        ready,
        pages,
        last_id,
        is_over: false,
        leave: Leave::Client,
        metrics: state.metrics.event_streams.clone(),
        ends_at: gate.expires_at(),
        gate,
        client,
        _place: place,
    };
    let body = stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((Ok::<_, Infallible>(event), events))
    });
    Ok(answer(Body::from_stream(body)))
}

fn answer(body: Body) -> Response {
    let content_type = HeaderValue::from_static("text/event-stream");
    // Some proxies gather an answer otherwise.
    let unbuffered = ("x-accel-buffering", HeaderValue::from_static("no"));
    let content_type = (header::CONTENT_TYPE, content_type);
    ([content_type], [unbuffered], body).into_response()
}

/// A stream that ends at once. Browsers come back to it, but not after an error of HTTP.
fn not_now(reason: &str) -> Response {
    let why = Unsubscribe {
        code: codes::INTERNAL,
        reason: reason.to_owned(),
    };
    let body = [retry(), end_event("disconnect", &why)].concat();
    answer(Body::from(body))
}

/// When a browser is to come back after the end.
fn retry() -> Bytes {
    let delay = Backoff::new(RETRY, RETRY).next_delay();
    format!("retry: {}\n\n", delay.as_millis()).into()
}

/// The position in `Last-Event-ID`. One that is not ours means the same as none: the stream then
/// begins with a snapshot.
fn last_position(kind: Kind, headers: &HeaderMap) -> Option<Position> {
    let id = headers.get("last-event-id")?.to_str().ok()?;
    let (epoch, offset) = id.rsplit_once(':')?;
    let offset = offset.parse().ok().filter(|offset| *offset > 0)?;
    (kind != Kind::Stats).then(|| Position {
        epoch: epoch.to_owned(),
        offset,
    })
}

/// What is sent to one client.
struct Events {
    /// What the stream begins with.
    greeting: Option<Bytes>,
    /// Frames that are next.
    ready: VecDeque<Bytes>,
    /// The rest of a snapshot.
    pages: Option<Pages>,
    /// The position of the snapshot as the id of its last page; empty if it has none, so that
    /// the client forgets the one of before.
    last_id: String,
    is_over: bool,
    /// Why it ends, when the stream is dropped.
    leave: Leave,
    metrics: SessionMetrics,
    /// When the identity has to be proved again.
    ends_at: Option<Instant>,
    gate: Gate,
    client: Client,
    _place: Place,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        let event = self.event().await?;
        self.metrics.sent(event.len());
        Some(event)
    }

    async fn event(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        if self.is_expired() {
            return Some(self.end((codes::EXPIRED, "token expired", Leave::Expired)));
        }
        if let Some((data, is_last)) = self.pages.as_mut().and_then(Iterator::next) {
            self.hold();
            // Until the last page the client must have no position, also none of before: it would
            // continue from there without the pages that it lacks.
            let id = if is_last { &*self.last_id } else { "" };
            return Some(event(Some("snapshot"), Some(id), &data));
        }
        self.pages = None;
        if self.ready.is_empty() {
            let left = self.ends_at.map(|at| at.duration_since(Instant::now()));
            let patience = left.unwrap_or(KEEP_ALIVE).min(KEEP_ALIVE);
            match timeout(patience, self.client.frames.take()).await {
                Ok(Ok(frames)) => self.ready.extend(frames),
                Ok(Err(Close::Slow)) => {
                    return Some(self.end((codes::SLOW, "too slow", Leave::Slow)));
                }
                Ok(Err(Close::Shutdown)) => {
                    return Some(self.end((codes::SHUTDOWN, "shutdown", Leave::Shutdown)));
                }
                Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
            }
        }
        let event = self.ready.pop_front()?;
        if is_end_event(&event) {
            (self.is_over, self.leave) = (true, Leave::Resync);
        }
        Some(event)
    }

    fn is_expired(&self) -> bool {
        self.ends_at.is_some_and(|at| at <= Instant::now())
    }

    /// Takes what waits, behind the snapshot: the time that it takes must not count against the
    /// client.
    fn hold(&mut self) {
        if self.ready.iter().map(Bytes::len).sum::<usize>() < HELD
            && let Some(Ok(frames)) = self.client.frames.take().now_or_never()
        {
            self.ready.extend(frames);
        }
    }

    /// The last event: the client comes back, which is what event streams do by themselves.
    fn end(&mut self, (code, reason, leave): (u16, &str, Leave)) -> Bytes {
        (self.is_over, self.leave) = (true, leave);
        let why = Unsubscribe {
            code: code.into(),
            reason: reason.to_owned(),
        };
        end_event("disconnect", &why)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.metrics.left(self.leave);
        // The hub also notices that nobody takes frames, when it has one. Without a runtime there
        // is no hub either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (gate, id) = (self.gate.clone(), self.client.id);
            runtime.spawn(async move { timeout(ANSWER, gate.leave(id)).await });
        }
    }
}
