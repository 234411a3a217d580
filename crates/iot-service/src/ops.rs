//! The ops listener: `/metrics`, `/livez`, `/readyz`.

use axum::Json;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGauge, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::health::{Health, Report};
use crate::memory;
use crate::server::{self, Limits};

/// Serves metrics and health until `stop`. It adds the process's CPU and memory
/// metrics to `registry`.
pub fn serve(
    listener: TcpListener,
    registry: Registry,
    health: Health,
    stop: CancellationToken,
) -> JoinHandle<()> {
    if let Err(error) = register_process_metrics(&registry) {
        tracing::warn!(%error, "process metrics are not available");
    }
    let refused = server::refused("ops", &registry);
    let live = health.clone();
    let routes = Router::new()
        .route("/metrics", get(async move || metrics(&registry)))
        .route("/livez", get(async move || answer(live.live())))
        .route("/readyz", get(async move || answer(health.ready())));
    let limit = Limits::of_this_process().ops;
    tokio::spawn(server::serve(listener, routes, limit, refused, stop))
}

fn register_process_metrics(registry: &Registry) -> prometheus::Result<()> {
    registry.register(Box::new(ProcessCollector::for_self()))?;
    if let Some(bytes) = memory::limit() {
        let help = "Memory limit of this process: its container's limit, or the machine's memory.";
        let limit = IntGauge::new("iot_memory_limit_bytes", help)?;
        limit.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        registry.register(Box::new(limit))?;
    }
    Ok(())
}

fn answer(report: Report) -> Response {
    let status = if report.ok() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report)).into_response()
}

fn metrics(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_metrics_are_in_the_reference() {
        let registry = Registry::new();
        register_process_metrics(&registry).unwrap();
        let _ = server::refused("ops", &registry);
        crate::metrics::reference::check("process", &registry);
    }
}
