//! One request to a service's own ops listener: what a container's health check
//! runs where there is no curl.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(3);
/// Far more than a health report has.
const MAX_ANSWER: u64 = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Whether the status is 200.
    pub(crate) ok: bool,
    pub(crate) body: String,
}

/// `listen` is the address that the service listens on; one that means every
/// interface is asked on the loopback.
pub(crate) fn get(listen: &str, path: &str) -> io::Result<Answer> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such address");
    for address in listen.to_socket_addrs()? {
        match ask(reachable(address), path) {
            Ok(answer) => return Ok(answer),
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

fn ask(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    // 1.0 keeps the answer free of chunks, and the server closes behind it.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut status = head.lines().next()?.split(' ');
    status.next()?.strip_prefix("HTTP/1.")?;
    Some(Answer {
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
    async fn the_ops_listener_is_asked_and_its_status_counts() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let listen = listener.local_addr().unwrap().to_string();
        let (health, stop) = (Health::default(), CancellationToken::new());
        let component = health.component("kafka");
        let server = ops::serve(listener, Registry::new(), health, stop.clone());
        component.not_ready("no broker answers");
        let ask = async |path: &'static str| {
            let listen = listen.clone();
            let asked = tokio::task::spawn_blocking(move || get(&listen, path));
            asked.await.unwrap().unwrap()
        };
        assert!(ask("/livez").await.ok);
        let answer = ask("/readyz").await;
        assert!(
            !answer.ok && answer.body.contains("no broker answers"),
            "{answer:?}"
        );
        component.ready();
        assert!(ask("/readyz").await.ok);
        stop.cancel();
        server.await.unwrap();
    }

    #[test]
    fn what_is_not_http_is_no_answer() {
        for text in ["", "220 mail ready\r\n\r\n", "HTTP/1.1"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
