//! Page, REST API, WebSocket and Server-Sent Events.

pub(crate) mod api;
pub(crate) mod clients;
pub(crate) mod metrics;
mod page;
mod routes;
mod socket;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::http::{HeaderValue, header};
use axum::response::Response;
use iot_auth::Authenticator;
use iot_service::config::HumanDuration;
use iot_service::server::{self, Limits, Listener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::Door;
use crate::hub::Hub;
use clients::Clients;
pub use metrics::HttpMetrics;

/// Nothing from anywhere else, no inline code, and no other page around ours.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// A setting that can change while the service runs.
pub type Current<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// What the API needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Clients that may be connected at the same time.
    pub clients: Current<usize>,
    /// Bytes that may wait for one client.
    pub queue: Current<usize>,
    /// Sizes of the windows of devices.
    pub window_sizes: Vec<HumanDuration>,
    /// What positions belong to: the same on all replicas.
    pub epoch: Arc<str>,
    /// Finds out who clients are.
    pub auth: Authenticator,
}

/// What handlers use. There is no hub in it: see [`Door`].
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) door: Door,
    pub(crate) metrics: HttpMetrics,
    pub(crate) clients: Clients,
    settings: Arc<Settings>,
    /// Held by every WebSocket, so that the shutdown can wait for them.
    open: mpsc::Sender<()>,
}

/// Serves until `stop`, then closes the connections of clients, and waits for them and for
/// answers under way.
pub fn serve(
    listener: impl Into<Listener>,
    hub: Hub,
    metrics: HttpMetrics,
    settings: Settings,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let listener = listener.into();
    let clients = Clients::new(settings.clone(), metrics.clients.clone());
    let refused = metrics.refused.clone();
    let (open, mut all_closed) = mpsc::channel(1);
    let settings = Arc::new(settings);
    let routes = routes::router(State {
        door: Door::new(settings.auth.clone(), hub, settings.epoch.clone()),
        metrics,
        clients: clients.clone(),
        settings,
        open,
    });
    tokio::spawn(async move {
        let limit = Limits::of_this_process().http;
        let serving = server::serve(listener, routes, limit, refused, stop.clone());
        let closing = async {
            stop.cancelled().await;
            clients.close();
        };
        tokio::join!(serving, closing);
        // Nothing is ever sent: this ends with the last sender.
        let _ = all_closed.recv().await;
    })
}

async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}
