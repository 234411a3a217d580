//! Whether a request names this machine.

use std::net::{IpAddr, Ipv6Addr};

use http::HeaderMap;
use http::header::HOST;

/// Whether `Host` is `localhost` or a loopback address, with any port.
pub(crate) fn is_this_machine(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    hosts.next().is_none() && host.is_some_and(is_loopback)
}

/// Whether `host`, with or without a port, is `localhost` or a loopback address.
pub(crate) fn is_loopback(host: &str) -> bool {
    let Some(name) = without_port(host) else {
        return false;
    };
    if let Some(address) = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return address
            .parse::<Ipv6Addr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback());
    }
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// `None` if what follows the name is no port.
fn without_port(host: &str) -> Option<&str> {
    let end = host.rfind(']').map_or(0, |end| end + 1);
    let Some(colon) = host[end..].find(':') else {
        return Some(host);
    };
    let (name, port) = host.split_at(end + colon);
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    is_port(&port[1..]).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().unwrap());
        }
        is_this_machine(&headers)
    }

    #[test]
    fn names_of_this_machine_are_known_with_any_port() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:9",
            "127.1.2.3:80",
            "[::1]",
            "[::1]:8080",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(of(&[host]), "{host}");
        }
    }

    #[test]
    fn other_names_are_not_this_machine() {
        for host in [
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:80:80",
            "localhost:evil",
            "localhost:",
            "[::1].evil.example",
            "[::1",
            "192.0.2.1",
            "[2001:db8::1]:80",
            "0.0.0.0:8080",
            "",
        ] {
            assert!(!of(&[host]), "{host}");
        }
        assert!(!of(&[]), "no Host");
        assert!(!of(&["localhost", "evil.example"]), "two of them");
    }
}
