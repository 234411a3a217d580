//! The MQTT side: a [`Link`] to the brokers, made of one [`session`] after the
//! other, each of which speaks through a [`codec`].

mod codec;
mod link;
mod oversize;
mod session;
mod subscriptions;

pub(crate) use link::{Link, LinkEvent};
pub(crate) use oversize::{KEPT, Oversize};
pub(crate) use session::Granted;
