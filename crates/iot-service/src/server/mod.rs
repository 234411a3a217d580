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

mod activity;
mod limits;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{IntCounter, Opts, Registry};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::Repeats;
use crate::config::HttpTlsConfig;
use crate::tls::{FileError, ServerTls};

use activity::{Answer, Connection, Connections, Observed, Request};
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
