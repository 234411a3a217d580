//! The consumer at a glance, as the API and the WebSocket have it.

use serde::Serialize;

/// The consumer at a glance.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Stats {
    pub(crate) messages_total: u64,
    pub(crate) messages_per_second: f64,
    pub(crate) readings_total: u64,
    pub(crate) dead_letters_total: u64,
    pub(crate) alerts_active: usize,
    pub(crate) devices: usize,
    pub(crate) partitions: i64,
    pub(crate) lag: i64,
    pub(crate) clients: usize,
    pub(crate) server_time: i64,
}
