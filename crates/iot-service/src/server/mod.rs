//! HTTP listeners with limits, so that clients cannot use up the descriptors that a service
//! needs for Kafka, MQTT and its store.
//!
//! - A listener has at most as many connections as [`Limits`] allows, well below the limit of
//!   open files. A new connection beyond that takes the place of the one that has been idle for
//!   longest; if none is idle, it is answered with 503.
//! - A connection without a complete request is closed after [`REQUEST_DEADLINE`], and so is one
//!   whose client takes nothing of its answer for that long.
//! - On shutdown, connections without a request are closed, and others are given time to get
//!   their answer.
//!
//! With TLS, a connection whose handshake takes longer than 10 s is closed.
//!
//! A connection that becomes a WebSocket counts until its handler drops its [`Permit`].

mod limits;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{IntCounter, Opts, Registry};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::Repeats;
use crate::config::HttpTlsConfig;
use crate::tls::{FileError, ServerTls};

pub use limits::{Limits, raise_open_files};

/// How long a client may take for a request, also between two on one connection, and the service
/// for the answer.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long the TLS handshake of a connection may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an evicted connection may take to close, and a refused one to read its answer.
const EVICTION: Duration = Duration::from_secs(1);
/// How long answers under way may take on shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// On shutdown, how long a connection without a request may take to write the rest of an answer.
const CLOSE: Duration = Duration::from_millis(250);
/// Between two attempts to accept when the system refuses to.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// How many refused connections are answered at the same time; others are only closed.
const FAREWELLS: usize = 16;

/// The answer to a connection for which there is no room.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\
                      connection: close\r\n\r\n";

/// The place of a connection among those that its listener may have. An extension of each
/// request; a handler that takes the connection over keeps it.
#[derive(Debug, Clone)]
pub struct Permit(
    #[expect(dead_code, reason = "it counts until it is dropped")] Arc<OwnedSemaphorePermit>,
);

/// The address that a request came from. An extension of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// A socket that connections come to, with TLS or without.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    tls: Option<ServerTls>,
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None }
    }
}

impl Listener {
    /// With TLS if `tls` has files.
    ///
    /// # Errors
    /// A file that cannot be read or used.
    pub fn new(socket: TcpListener, tls: &HttpTlsConfig) -> Result<Self, FileError> {
        let tls = tls.is_on().then(|| ServerTls::start(tls)).transpose()?;
        Ok(Self { socket, tls })
    }

    /// Its address.
    ///
    /// # Errors
    /// The system does not tell it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Registers the counter of the connections that a listener refuses.
#[must_use]
pub fn refused(listener: &str, registry: &Registry) -> IntCounter {
    let opts = Opts::new(
        "iot_refused_connections_total",
        "Connections refused because the listener had too many",
    );
    let refused = IntCounter::with_opts(opts.const_label("listener", listener))
        .expect("name and label are valid");
    if let Err(error) = registry.register(Box::new(refused.clone())) {
        tracing::warn!(%error, listener, "refused connections are not exported");
    }
    refused
}

/// Serves `routes` to at most `limit` connections at the same time, until `stop`. Connections
/// that are turned away count as `refused`.
pub async fn serve(
    listener: impl Into<Listener>,
    routes: Router,
    limit: usize,
    refused: IntCounter,
    stop: CancellationToken,
) {
    let Listener { socket, tls } = listener.into();
    let room = Arc::new(Semaphore::new(limit));
    let connections = Connections::default();
    let farewells = Arc::new(Semaphore::new(FAREWELLS));
    let mut tasks = JoinSet::new();
    let (too_many, failures) = (Repeats::default(), Repeats::default());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = socket.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok((stream, address)) => (stream, Peer(address.ip())),
            Err(error) => {
                // Such as too many open files in the whole system.
                if let Some(left_out) = failures.admit() {
                    tracing::error!(%error, left_out, "cannot accept a connection; retrying");
                }
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // What is written is gathered already, and must not wait for an acknowledgement. A socket
        // that refuses it is closed already, which its task notices.
        let _ = stream.set_nodelay(true);
        match connections.make_room(&room).await {
            Some(permit) => {
                let connection = connections.add();
                let tls = tls.as_ref().map(ServerTls::acceptor);
                let requests = Requests {
                    routes: routes.clone(),
                    permit,
                    peer,
                };
                tasks.spawn(connection.run((stream, tls), requests, stop.clone()));
            }
            None => {
                refused.inc();
                if let Some(left_out) = too_many.admit() {
                    tracing::warn!(
                        limit,
                        left_out,
                        "too many connections; refusing further ones"
                    );
                }
                // A client that expects TLS understands no other answer than the end.
                if tls.is_none()
                    && let Ok(place) = farewells.clone().try_acquire_owned()
                {
                    tasks.spawn(refuse(stream, place));
                }
            }
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Answers with 503. Closing with something unread would reset the connection, and the client
/// might not see the answer.
async fn refuse(mut stream: TcpStream, _place: OwnedSemaphorePermit) {
    let answer = async {
        stream.write_all(BUSY).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // An error or a timeout is ignored: the connection is closed either way.
    let _ = timeout(EVICTION, answer).await;
}

/// The open connections of a listener, except WebSockets.
#[derive(Debug, Clone, Default)]
struct Connections(Arc<Mutex<Vec<Arc<Activity>>>>);

/// What a connection is doing.
#[derive(Debug)]
struct Activity {
    /// Requests whose answer is not complete: at most one with HTTP/1.1.
    requests: AtomicUsize,
    /// Whether the client takes nothing of what is to be written.
    blocked: AtomicBool,
    /// Writes that were complete: what distinguishes a stalled client from a slow one.
    written: AtomicUsize,
    /// Since when it has been idle, if it is.
    since: Mutex<Instant>,
    /// Cancelled to make room for another connection.
    evicted: CancellationToken,
}

impl Connections {
    fn add(&self) -> Connection {
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
    async fn make_room(&self, room: &Arc<Semaphore>) -> Option<Permit> {
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
    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
            && !self.blocked.load(Ordering::Relaxed)
            && !self.evicted.is_cancelled()
    }

    /// Waits until the client has taken nothing for [`REQUEST_DEADLINE`], at most twice that.
    async fn stalled(&self) {
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
struct Request(Arc<Activity>);

impl Request {
    fn begin(activity: &Arc<Activity>) -> Self {
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
struct Answer {
    body: Body,
    _request: Request,
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
struct Observed {
    stream: TcpStream,
    activity: Arc<Activity>,
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
struct Connection {
    activity: Arc<Activity>,
    all: Connections,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        all.retain(|other| !Arc::ptr_eq(other, &self.activity));
    }
}

/// How the requests of a connection are answered.
struct Requests {
    routes: Router,
    permit: Permit,
    peer: Peer,
}

impl Connection {
    /// Serves requests until the client or the listener ends it.
    async fn run(
        self,
        (stream, tls): (TcpStream, Option<TlsAcceptor>),
        requests: Requests,
        stop: CancellationToken,
    ) {
        let stream = Observed {
            stream,
            activity: self.activity.clone(),
        };
        let Some(tls) = tls else {
            return self.serve(stream, requests, stop).await;
        };
        let handshake = timeout(HANDSHAKE, tls.accept(stream));
        let secured = tokio::select! {
            secured = handshake => secured,
            () = self.activity.evicted.cancelled() => return,
            () = stop.cancelled() => return,
        };
        match secured {
            Ok(Ok(stream)) => self.serve(stream, requests, stop).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn serve<S>(self, stream: S, requests: Requests, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Requests {
            routes,
            permit,
            peer,
        } = requests;
        let routes = TowerToHyperService::new(routes);
        let activity = self.activity.clone();
        let answer = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(permit.clone());
            request.extensions_mut().insert(peer);
            let under_way = Request::begin(&activity);
            let answer = routes.call(request);
            async move {
                // The body of the request may never be complete.
                let answer = timeout(REQUEST_DEADLINE, answer).await;
                let answer: Result<Response, Infallible> =
                    answer.unwrap_or_else(|_| Ok(StatusCode::REQUEST_TIMEOUT.into_response()));
                answer.map(|answer| {
                    answer.map(|body| Answer {
                        body,
                        _request: under_way,
                    })
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_DEADLINE)
            .serve_connection(TokioIo::new(stream), answer)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.activity.evicted.cancelled() => return,
            () = self.activity.stalled() => return,
            () = stop.cancelled() => {
                // Without a complete head there is no request to wait for, only the rest of an earlier
                // answer.
                let patience = if self.activity.is_idle() { CLOSE } else { DRAIN };
                connection.as_mut().graceful_shutdown();
                match timeout(patience, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

#[cfg(test)]
mod tests;
