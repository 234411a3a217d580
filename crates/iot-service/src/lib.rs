//! What every service does alike: layered configuration with hot reload, logs,
//! the ops endpoints, health, backoff, and an ordered shutdown.
//!
//! A service is one function, `run(config, listeners, shutdown)`. Its binary
//! hands that function to [`cli::run`]; tests and the demo call it directly
//! with their own listeners. Nothing here is global but the log subscriber, so
//! several services live side by side in one process.

mod backoff;
pub mod cli;
pub mod config;
pub mod health;
pub mod logs;
mod memory;
pub mod metrics;
pub mod moment;
pub mod ops;
mod probe;
pub mod shutdown;
pub mod tls;

pub use backoff::Backoff;

use tokio::net::TcpListener;

/// Sockets a service listens on, bound before it starts, so that an address in
/// use is an error at once and tests can ask for port 0.
#[derive(Debug)]
pub struct Listeners {
    /// Serves `/metrics`, `/livez` and `/readyz`.
    pub ops: TcpListener,
    /// Serves the service's own API, for services that have one.
    pub http: Option<TcpListener>,
}
