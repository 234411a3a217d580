//! Ports where nothing listens.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A port of loopback where nothing listens.
///
/// It is below the ports that the kernel gives to outgoing connections, so that a
/// server that starts again finds its port still free.
#[must_use]
pub fn free_port() -> u16 {
    // `RandomState` is the only source of randomness in the standard library. Tests run at the
    // same time, so they must not all try the same ports.
    loop {
        let port = 10_000 + (RandomState::new().build_hasher().finish() % 10_000) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// [`free_port`] with loopback's address.
#[must_use]
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}
