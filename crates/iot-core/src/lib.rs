//! Definitions that all services share: the device message and its wire
//! formats, the mapping from MQTT topics to Kafka topics, the partition of a
//! device, the record headers and the standard sensors.
//!
//! Everything here is pure: no I/O, no clock, no runtime. The same input gives
//! the same output in every service, so a message that one service accepts is
//! not refused by the next.

pub mod dead_letter;
pub mod headers;
pub mod message;
pub mod partition;
pub mod route;
pub mod sensor;
pub mod unit;
