//! What the connections of a listener are doing: which of them can make room for another one, and
//! which have stalled.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{EVICTION, Permit, REQUEST_DEADLINE};

/// The open connections of a listener, except WebSockets.
#[derive(Debug, Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Vec<Arc<Activity>>>>);

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    /// Requests whose answer is not complete: at most one with HTTP/1.1.
    requests: AtomicUsize,
    /// Whether the client takes nothing of what is to be written.
    blocked: AtomicBool,
    /// Writes that were complete: what distinguishes a stalled client from a slow one.
    written: AtomicUsize,
    /// Since when it has been idle, if it is.
    since: Mutex<Instant>,
    /// Cancelled to make room for another connection.
    pub(super) evicted: CancellationToken,
}

impl Connections {
    pub(super) fn add(&self) -> Connection {
        let activity = Arc::new(Activity {
            requests: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
            written: AtomicUsize::new(0),
            since: Mutex::new(Instant::now()),
            evicted: CancellationToken::new(),
        });
        self.lock().push(activity.clone());
        Connection {
            activity,
            all: self.clone(),
        }
    }

    /// A place for one more connection, if need be that of the one that has been idle for
    /// longest; `None` if none is idle, or if that one does not close within [`EVICTION`].
    pub(super) async fn make_room(&self, room: &Arc<Semaphore>) -> Option<Permit> {
        if let Ok(permit) = room.clone().try_acquire_owned() {
            return Some(Permit(Arc::new(permit)));
        }
        {
            let all = self.lock();
            let idle = all.iter().filter(|one| one.is_idle());
            idle.min_by_key(|one| one.idle_since())?.evicted.cancel();
        }
        let permit = timeout(EVICTION, room.clone().acquire_owned()).await;
        Some(Permit(Arc::new(permit.ok()?.ok()?)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Activity>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    pub(super) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
            && !self.blocked.load(Ordering::Relaxed)
            && !self.evicted.is_cancelled()
    }

    /// Waits until the client has taken nothing for [`REQUEST_DEADLINE`], at most twice that.
    pub(super) async fn stalled(&self) {
        let mut before = None;
        loop {
            sleep(REQUEST_DEADLINE).await;
            let blocked = self.blocked.load(Ordering::Relaxed);
            let now = blocked.then(|| self.written.load(Ordering::Relaxed));
            if now.is_some() && now == before {
                return;
            }
            before = now;
        }
    }

    fn idle_since(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request whose answer is not complete.
pub(super) struct Request(Arc<Activity>);

impl Request {
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer. The request is under way until hyper has buffered the last frame; after
/// that [`Activity::blocked`] tells whether the client still receives it.
pub(super) struct Answer {
    pub(super) body: Body,
    pub(super) _request: Request,
}

impl HttpBody for Answer {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that notes when it can't write.
pub(super) struct Observed {
    pub(super) stream: TcpStream,
    pub(super) activity: Arc<Activity>,
}

impl Observed {
    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        let blocked = written.is_pending();
        self.activity.blocked.store(blocked, Ordering::Relaxed);
        if !blocked {
            self.activity.written.fetch_add(1, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Observed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Observed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// One connection, which is in the list until it is dropped.
pub(super) struct Connection {
    pub(super) activity: Arc<Activity>,
    all: Connections,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        all.retain(|other| !Arc::ptr_eq(other, &self.activity));
    }
}
