//! What all services share: layered configuration with hot reload, logs, the
//! ops endpoints, health, backoff, and an ordered shutdown.
//!
//! A service is one function, `run(config, listeners, shutdown)`. Its binary
//! passes that function to [`cli::run`]; tests and the demo call it directly
//! with their own listeners. Only the log subscriber is global, so several
//! services can run in one process.

mod backoff;
pub mod cli;
pub mod client;
pub mod config;
pub mod health;
pub mod logs;
mod memory;
pub mod metrics;
pub mod moment;
pub mod ops;
mod probe;
mod problem;
mod repeats;
pub mod server;
pub mod shutdown;
pub mod tls;

pub use backoff::Backoff;
pub use problem::Problem;
pub use repeats::Repeats;

use tokio::net::TcpListener;

/// The sockets that a service listens on. They are bound before it starts, so
/// that an address in use is reported at once and tests can use port 0.
#[derive(Debug)]
pub struct Listeners {
    /// Serves `/metrics`, `/livez` and `/readyz`.
    pub ops: TcpListener,
    /// Serves the service's own API, if it has one.
    pub http: Option<server::Listener>,
}
