//! One HTTP request to the service's own ops listener, for health checks in
//! containers without curl.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(3);
/// Much larger than any health report.
const MAX_RESPONSE: u64 = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    /// Whether the status is 200.
    pub(crate) ok: bool,
    pub(crate) body: String,
}

/// Requests `path` from the service that listens on `listen`. An unspecified address
/// is replaced by loopback.
pub(crate) fn get(listen: &str, path: &str) -> io::Result<Response> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such address");
    for address in listen.to_socket_addrs()? {
        match request(reachable(address), path) {
            Ok(response) => return Ok(response),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn request(address: SocketAddr, path: &str) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    // HTTP/1.0 has no chunks, and the server closes the connection after the response.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.take(MAX_RESPONSE).read_to_string(&mut text)?;
    parse(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the response is not HTTP"))
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut status = head.lines().next()?.split(' ');
    status.next()?.strip_prefix("HTTP/1.")?;
    Some(Response {
        ok: status.next()? == "200",
        body: body.trim_end().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::health::Health;
    use crate::ops;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_status_of_the_ops_listener_is_returned() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let listen = listener.local_addr().unwrap().to_string();
        let (health, stop) = (Health::default(), CancellationToken::new());
        let component = health.component("kafka");
        let server = ops::serve(listener, Registry::new(), health, stop.clone());
        component.not_ready("no broker answers");
        let request = async |path: &'static str| {
            let listen = listen.clone();
            let response = tokio::task::spawn_blocking(move || get(&listen, path));
            response.await.unwrap().unwrap()
        };
        assert!(request("/livez").await.ok);
        let response = request("/readyz").await;
        assert!(
            !response.ok && response.body.contains("no broker answers"),
            "{response:?}"
        );
        component.ready();
        assert!(request("/readyz").await.ok);
        stop.cancel();
        server.await.unwrap();
    }

    #[test]
    fn responses_other_than_http_are_refused() {
        for text in ["", "220 mail ready\r\n\r\n", "HTTP/1.1"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
