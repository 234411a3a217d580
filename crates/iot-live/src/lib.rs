//! The live view: what people and programs see of all partitions, and how it reaches them.
//!
//! Partitions feed the [`Hub`] with the changes of their folds. Clients subscribe to channels
//! over WebSocket or Server-Sent Events, and get a snapshot and then what is newer. Nothing that
//! a client does reaches a partition.

mod access;
pub mod channel;
pub mod http;
pub mod hub;
mod parameters;
pub mod protocol;
mod session;
mod sse;
#[cfg(test)]
mod testing;
mod websocket;

pub use channel::{Channel, Filter, Kind, Mode};
pub use hub::{Feed, Hub, Marks};
