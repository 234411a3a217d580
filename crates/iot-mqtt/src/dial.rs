//! From a name to a TCP connection, through the first of its addresses that answers:
//! Happy Eyeballs (RFC 8305), after one look-up for both families.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::ConnectError;

/// From one attempt to the next (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// One limit for several steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    /// The whole time, for messages.
    pub(crate) within: Duration,
    pub(crate) at: Instant,
}

impl Deadline {
    pub(crate) fn after(within: Duration) -> Self {
        Self {
            within,
            at: Instant::now() + within,
        }
    }
}

/// No address of a broker accepted a connection.
#[derive(Debug)]
pub struct Unreachable {
    /// Every address that was tried, with its error; `None` if the attempt was pending at the
    /// deadline.
    tried: Vec<(SocketAddr, Option<io::Error>)>,
    /// The deadline, if it ended the attempts.
    within: Option<Duration>,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(within) = self.within {
            write!(f, "no answer within {} s: ", within.as_secs_f64())?;
        }
        if self.tried.is_empty() {
            return f.write_str(match self.within {
                Some(_) => "no address was tried before the deadline",
                None => "the name has no address",
            });
        }
        for (index, (address, error)) in self.tried.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            match error {
                Some(error) => write!(f, "{separator}{address}: {error}")?,
                None => write!(f, "{separator}{address}: no answer")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Unreachable {}

/// Connects to `host`, a name or an IP address.
pub(crate) async fn dial(
    host: &str,
    port: u16,
    deadline: Deadline,
) -> Result<TcpStream, ConnectError> {
    let found = timeout_at(deadline.at, lookup_host((host, port))).await;
    let addresses = found.map_err(|_| ConnectError::Resolve {
        host: host.to_owned(),
        within: deadline.within,
    })??;
    Ok(first(addresses, deadline, TcpStream::connect).await?)
}

/// The first connection that succeeds. An address that does not answer delays the next one
/// by 250 ms; one that refuses does not delay it. The other attempts are dropped.
async fn first<T, F>(
    addresses: impl IntoIterator<Item = SocketAddr>,
    deadline: Deadline,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, Unreachable>
where
    F: Future<Output = io::Result<T>>,
{
    let mut untried = interleave(addresses).into_iter();
    let mut attempts = Vec::new();
    let mut tried = Vec::new();
    let mut next_at = Instant::now();
    while untried.len() > 0 || !attempts.is_empty() {
        tokio::select! {
            biased;
            (address, result) = any(&mut attempts) => match result {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    tried.push((address, Some(error)));
                    next_at = Instant::now();
                }
            },
            () = sleep_until(deadline.at) => {
                tried.extend(attempts.iter().map(|(address, _)| (*address, None)));
                let within = Some(deadline.within);
                return Err(Unreachable { tried, within });
            }
            () = sleep_until(next_at), if untried.len() > 0 => {
                attempts.extend(untried.next().map(|address| (address, Box::pin(connect(address)))));
                next_at = Instant::now() + ATTEMPT_DELAY;
            }
        }
    }
    let within = None;
    Err(Unreachable { tried, within })
}

/// Waits for one of the attempts, and removes it. Cancel safe.
async fn any<F: Future>(attempts: &mut Vec<(SocketAddr, Pin<Box<F>>)>) -> (SocketAddr, F::Output) {
    std::future::poll_fn(|cx| {
        for (index, (address, attempt)) in attempts.iter_mut().enumerate() {
            if let Poll::Ready(output) = attempt.as_mut().poll(cx) {
                let address = *address;
                drop(attempts.remove(index));
                return Poll::Ready((address, output));
            }
        }
        Poll::Pending
    })
    .await
}

/// The addresses in the resolver's order, but the families in turn (RFC 8305, section 4).
fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses = addresses.into_iter().peekable();
    let first_is_v6 = addresses.peek().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) =
        addresses.partition(|address| address.is_ipv6() == first_is_v6);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut order = Vec::with_capacity(preferred.len() + other.len());
    while preferred.len() + other.len() > 0 {
        order.extend(preferred.next());
        order.extend(other.next());
    }
    order
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const V6: &str = "[2001:db8::1]:1883";
    const V4: &str = "192.0.2.1:1883";
    const OTHER_V4: &str = "192.0.2.2:1883";

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// What an address does with a SYN.
    #[derive(Debug, Clone, Copy)]
    enum Host {
        Accepts,
        Refuses,
        /// It does not answer, like a firewall that drops packets.
        IsSilent,
    }

    /// Reports the end of an attempt, dropped ones included.
    struct Attempt<'a>(SocketAddr, &'a RefCell<Vec<SocketAddr>>);

    impl Drop for Attempt<'_> {
        fn drop(&mut self) {
            self.1.borrow_mut().push(self.0);
        }
    }

    /// Connects within 10 s of paused time; also returns the attempts in the order in
    /// which they began.
    async fn connect(hosts: &[(&str, Host)]) -> (Result<SocketAddr, String>, Vec<SocketAddr>) {
        let (begun, ended) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let host = |address: SocketAddr| {
            let found = hosts.iter().find(|(text, _)| text.parse() == Ok(address));
            found.unwrap().1
        };
        let deadline = Deadline::after(Duration::from_secs(10));
        let all = hosts.iter().map(|(text, _)| text.parse().unwrap());
        let connected = first(all, deadline, |address| {
            let (begun, ended) = (&begun, &ended);
            async move {
                begun.borrow_mut().push(address);
                let _attempt = Attempt(address, ended);
                match host(address) {
                    Host::Accepts => Ok(address),
                    Host::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                    Host::IsSilent => std::future::pending().await,
                }
            }
        })
        .await;
        let (begun, mut ended) = (begun.into_inner(), ended.into_inner());
        ended.sort();
        let mut sorted = begun.clone();
        sorted.sort();
        assert_eq!(ended, sorted, "an attempt was not dropped");
        (connected.map_err(|error| error.to_string()), begun)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_does_not_hide_the_next_one() {
        let hosts = [(V6, Host::IsSilent), (V4, Host::Accepts)];
        let (connected, begun) = connect(&hosts).await;
        assert_eq!(connected, Ok(V4.parse().unwrap()));
        assert_eq!(begun, addresses(&[V6, V4]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_address_that_accepts_is_the_only_one_tried() {
        let hosts = [(V4, Host::Accepts), (V6, Host::Accepts)];
        let (connected, begun) = connect(&hosts).await;
        assert_eq!(connected, Ok(V4.parse().unwrap()));
        assert_eq!(begun, addresses(&[V4]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_does_not_delay_the_next_one() {
        let hosts = [(V6, Host::Refuses), (V4, Host::Accepts)];
        let begun_at = Instant::now();
        let (connected, _) = connect(&hosts).await;
        assert_eq!(connected, Ok(V4.parse().unwrap()));
        // Of paused time, which only a timer advances.
        assert!(begun_at.elapsed() < ATTEMPT_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_names_every_address_that_was_tried() {
        let hosts = [
            (V4, Host::IsSilent),
            (OTHER_V4, Host::IsSilent),
            (V6, Host::Refuses),
        ];
        let (connected, begun) = connect(&hosts).await;
        assert_eq!(begun, addresses(&[V4, V6, OTHER_V4]));
        assert_eq!(
            connected.unwrap_err(),
            "no answer within 10 s: [2001:db8::1]:1883: connection refused, \
             192.0.2.1:1883: no answer, 192.0.2.2:1883: no answer"
        );

        let (connected, _) = connect(&[(V4, Host::Refuses), (V6, Host::Refuses)]).await;
        assert_eq!(
            connected.unwrap_err(),
            "192.0.2.1:1883: connection refused, [2001:db8::1]:1883: connection refused"
        );
        assert_eq!(connect(&[]).await.0.unwrap_err(), "the name has no address");
    }

    #[test]
    fn families_take_turns_in_the_resolvers_order() {
        let given = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1", "1.0.0.2:1"]);
        let expected = addresses(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"]);
        assert_eq!(interleave(given), expected);
        let given = addresses(&["1.0.0.1:1", "1.0.0.2:1", "[::1]:1"]);
        let expected = addresses(&["1.0.0.1:1", "[::1]:1", "1.0.0.2:1"]);
        assert_eq!(interleave(given), expected);
    }
}
