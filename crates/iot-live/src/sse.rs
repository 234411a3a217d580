//! Server-Sent Events (HTML, 9.2): a channel as an event stream, for programs without a WebSocket
//! and for `curl -N`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use tokio::time::timeout;

use crate::channel::{Channel, Kind};
use crate::http::State;
use crate::http::api::Error;
use crate::http::clients::{Client, Place};
use crate::http::metrics::{Leave, SessionMetrics};
use crate::hub::{Close, First, Hub, Position, Subscribe};
use crate::protocol::messages::Unsubscribe;
use crate::protocol::{Framing, codes, end_event, event, event_id, is_end_event};
use crate::session::Pages;

/// Between two comments when nothing else is sent: proxies close quiet connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long the hub may take for the beginning.
const ANSWER: Duration = Duration::from_secs(4);

/// An event stream of the channel, from the position in `Last-Event-ID` on if there is one.
pub(crate) async fn stream(
    state: State,
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
    let busy = || {
        Error(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many clients".to_owned(),
        )
    };
    let place = client.place().ok_or_else(busy)?;
    let subscribe = Subscribe {
        client: client.id,
        channel: channel.clone(),
        framing: Framing::EventStream,
        outbox: client.outbox.clone(),
        since: last_position(kind, headers),
    };
    let hub = state.hub.clone();
    let slow = |_| {
        Error(
            StatusCode::SERVICE_UNAVAILABLE,
            "no answer within 4 s; retry".to_owned(),
        )
    };
    let subscribed = timeout(ANSWER, hub.subscribe(subscribe))
        .await
        .map_err(slow)??;
    // Neither reason applies to the only subscription of a client.
    let subscribed = subscribed
        .map_err(|refused| Error(StatusCode::INTERNAL_SERVER_ERROR, refused.to_string()))?;
    let has_position = kind != Kind::Stats && subscribed.offset > 0;
    let last_id = event_id(&subscribed.epoch, subscribed.offset);
    let mut ready = VecDeque::new();
    let mut pages = None;
    match subscribed.first {
        First::Snapshot(snapshot) => {
            pages = Some(Pages::new(&channel, snapshot, subscribed.partial));
        }
        First::Missed(missed) => ready.extend(missed.into_iter().map(|(offset, data)| {
            let (channel, epoch) = (&channel.name, &subscribed.epoch);
            Framing::EventStream.publication(channel, epoch, Some(offset), &data)
        })),
    }
    let events = Events {
        ready,
        pages,
        last_id: has_position.then_some(last_id),
        is_over: false,
        leave: Leave::Client,
        metrics: state.metrics.event_streams.clone(),
        hub: state.hub,
        client,
        _place: place,
    };
    let body = stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((Ok::<_, Infallible>(event), events))
    });
    let content_type = HeaderValue::from_static("text/event-stream");
    // Some proxies gather an answer otherwise.
    let unbuffered = ("x-accel-buffering", HeaderValue::from_static("no"));
    Ok((
        [(header::CONTENT_TYPE, content_type)],
        [unbuffered],
        Body::from_stream(body),
    )
        .into_response())
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
    /// Frames that are next.
    ready: VecDeque<Bytes>,
    /// The rest of a snapshot.
    pages: Option<Pages>,
    /// The position of the snapshot.
    last_id: Option<String>,
    is_over: bool,
    /// Why it ends, when the stream is dropped.
    leave: Leave,
    metrics: SessionMetrics,
    hub: Hub,
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
        if let Some((data, is_last)) = self.pages.as_mut().and_then(Iterator::next) {
            // Until the last page the client must have no position, also none of before: it would
            // continue from there without the pages that it lacks.
            let id = if is_last {
                self.last_id.as_deref()
            } else {
                Some("")
            };
            return Some(event(Some("snapshot"), id, &data));
        }
        self.pages = None;
        if self.ready.is_empty() {
            match timeout(KEEP_ALIVE, self.client.frames.take()).await {
                Ok(Ok(frames)) => self.ready.extend(frames),
                Ok(Err(close)) => return Some(self.end(close)),
                Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
            }
        }
        let event = self.ready.pop_front()?;
        if is_end_event(&event) {
            (self.is_over, self.leave) = (true, Leave::Resync);
        }
        Some(event)
    }

    /// The last event: the client comes back, which is what event streams do by themselves.
    fn end(&mut self, close: Close) -> Bytes {
        let (code, reason, leave) = match close {
            Close::Slow => (codes::SLOW, "too slow", Leave::Slow),
            Close::Shutdown => (codes::SHUTDOWN, "shutdown", Leave::Shutdown),
        };
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
            let (hub, id) = (self.hub.clone(), self.client.id);
            runtime.spawn(async move { hub.leave(id).await });
        }
    }
}
