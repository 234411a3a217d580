//! The consumer from outside: through `run`, with a Kafka of its own for every
//! test (librdkafka's mock cluster), or with a real one where a test says so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod auth;
mod followers;
mod group;
mod https;
mod input;
mod lag;
mod lifecycle;
mod outputs;
mod partial;
mod process;
mod push;
mod real;
mod recreated;
mod replay;
mod retention;
#[cfg(feature = "tls")]
mod secure;
mod service;
mod state;
mod store;
mod store_followers;
mod webhook;
