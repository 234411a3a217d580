//! The MQTT side: a [`Link`] to the brokers, which is one [`connection`] after
//! another.

mod connection;
mod link;
mod subscriptions;

pub(crate) use link::{Link, LinkEvent};
pub(crate) use subscriptions::Refused;
