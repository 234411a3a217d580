//! Page, REST API and WebSocket.

mod api;
mod metrics;
mod page;
mod ws;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use iot_service::server::{self, Limits};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::WindowsConfig;
use crate::hub::Hub;
use crate::store::Keeper;
pub(crate) use metrics::HttpMetrics;

/// Nothing from anywhere else, no inline code, and no other page around ours.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// What handlers use.
#[derive(Clone)]
struct State {
    hub: Hub,
    store: Arc<Keeper>,
    metrics: HttpMetrics,
    windows: Arc<WindowsConfig>,
    /// Held by every WebSocket, so that the shutdown can wait for them.
    open: mpsc::Sender<()>,
}

/// Serves until `stop`, then waits for answers under way and for WebSockets to
/// close, which the hub makes them do.
pub(crate) fn serve(
    listener: TcpListener,
    hub: Hub,
    store: Arc<Keeper>,
    metrics: HttpMetrics,
    windows: Arc<WindowsConfig>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let (open, mut all_closed) = mpsc::channel(1);
    let refused = metrics.refused.clone();
    let routes = Router::new()
        .route("/", get(page::index))
        .route("/static/{name}", get(page::asset))
        .route("/api/v1/devices", get(api::devices))
        .route(
            "/api/v1/devices/{tenant}/{project}/{device}",
            get(api::device),
        )
        .route("/api/v1/device", get(api::device_by_query))
        .route("/api/v1/alerts", get(api::alerts))
        .route("/api/v1/stats", get(api::stats))
        .route("/ws", get(ws::upgrade))
        .fallback(api::unknown)
        .layer(map_response(harden))
        .with_state(State {
            hub,
            store,
            metrics,
            windows,
            open,
        });
    tokio::spawn(async move {
        let limit = Limits::of_this_process().http;
        server::serve(listener, routes, limit, refused, stop).await;
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
