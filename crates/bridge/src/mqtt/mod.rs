//! The MQTT side: a [`Link`] to the brokers, which is one [`session`] after another.

mod link;
mod session;
mod subscriptions;

pub(crate) use link::{Link, LinkEvent};
