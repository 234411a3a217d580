//! What every part of the platform agrees on: the device message and its wire
//! formats, how an MQTT topic maps to a Kafka topic, which partition a device
//! belongs to, the record headers and the standard sensors.
//!
//! Everything here is pure: no I/O, no clock, no runtime. The same input gives
//! the same output in every service, so a message that one of them accepts is
//! not refused by the next.

pub mod dead_letter;
pub mod headers;
pub mod message;
pub mod partition;
pub mod route;
pub mod sensor;
pub mod unit;
