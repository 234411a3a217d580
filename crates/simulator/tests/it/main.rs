//! The simulator through its only entrance, against real protocols.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod cli;
mod faults;
mod file;
mod kafka;
mod mqtt;
mod stack;
mod support;
