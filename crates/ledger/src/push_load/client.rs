//! One client of the load: a WebSocket with one subscription.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::tally::{Line, Seen, Tally};
use super::web_socket::{self, CLOSE, PING, PONG, TEXT, frame, handshake};

/// For connecting and for the answer to the subscription.
const ANSWER: Duration = Duration::from_secs(60);
/// Before the next attempt to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Received at once.
const READ: usize = 256 << 10;
/// The receive buffer of a client that does not read: as small as it can be.
const DEAF_BUFFER: u32 = 4 << 10;

/// What the clients of a thread share.
pub(super) struct Shared {
    pub(super) server: SocketAddr,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) reconnects: bool,
    /// Clients that may be connecting at the same time.
    pub(super) opening: Semaphore,
    pub(super) tally: RefCell<Tally>,
    /// Clients that are subscribed.
    pub(super) subscribed: std::cell::Cell<u64>,
    buffer: RefCell<Vec<u8>>,
}

impl Shared {
    pub(super) fn new(
        server: SocketAddr,
        (host, path): (String, String),
        reconnects: bool,
        opening: usize,
    ) -> Self {
        Self {
            server,
            host,
            path,
            reconnects,
            opening: Semaphore::new(opening),
            tally: RefCell::default(),
            subscribed: std::cell::Cell::new(0),
            buffer: RefCell::new(vec![0; READ]),
        }
    }
}

pub(super) struct Client {
    pub(super) shared: Rc<Shared>,
    pub(super) channel: String,
    /// Whether it reads nothing once it is subscribed.
    pub(super) is_deaf: bool,
}

/// A connection and what of it has not been taken in yet.
struct Connection {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Client {
    /// Runs until the connection ends, or for ever if it is to reconnect.
    pub(super) async fn run(self) {
        let mut seen = Seen::default();
        loop {
            let mut is_subscribed = false;
            let Err(error) = self.session(&mut seen, &mut is_subscribed).await;
            let shared = &self.shared;
            if is_subscribed {
                shared.subscribed.set(shared.subscribed.get() - 1);
            }
            shared.tally.borrow_mut().ended(format!("{error:#}"));
            if !shared.reconnects {
                return;
            }
        }
    }

    async fn session(
        &self,
        seen: &mut Seen,
        is_subscribed: &mut bool,
    ) -> anyhow::Result<Infallible> {
        let shared = &self.shared;
        let turn = shared.opening.acquire().await?;
        let opening = async {
            let mut connection = match self.open().await {
                Ok(connection) => connection,
                Err(error) => {
                    // The others wait with it: thousands of refused attempts cost the server
                    // that starts its CPU.
                    sleep(PAUSE).await;
                    return Err(error);
                }
            };
            connection
                .send(TEXT, self.requests(seen).as_bytes())
                .await?;
            while !*is_subscribed {
                *is_subscribed = connection.receive(shared, seen).await?;
            }
            Ok(connection)
        };
        let opened = timeout(ANSWER, opening).await;
        let mut connection = opened.context("no answer to the subscription")??;
        drop(turn);
        shared.subscribed.set(shared.subscribed.get() + 1);
        if self.is_deaf {
            // It holds the connection, and reads nothing.
            return std::future::pending().await;
        }
        loop {
            connection.receive(shared, seen).await?;
        }
    }

    async fn open(&self) -> anyhow::Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        if self.is_deaf {
            socket.set_recv_buffer_size(DEAF_BUFFER)?;
        }
        let stream = socket.connect(self.shared.server).await;
        let stream = stream.context("connecting")?;
        stream.set_nodelay(true)?;
        let mut connection = Connection {
            stream,
            rest: Vec::new(),
        };
        let request = handshake(&self.shared.host, &self.shared.path);
        connection.stream.write_all(request.as_bytes()).await?;
        loop {
            if let Some(end) = web_socket::answer(&connection.rest)? {
                connection.rest.drain(..end);
                return Ok(connection);
            }
            connection.read(&self.shared).await?;
        }
    }

    /// Connects and subscribes in one frame, from where it has come.
    fn requests(&self, seen: &Seen) -> String {
        let connect = json!({"id": 1, "connect": {"name": "iot-ledger"}});
        let mut subscribe = json!({"channel": self.channel});
        if seen.offset > 0 {
            subscribe["recover"] = json!(true);
            subscribe["epoch"] = json!(seen.epoch);
            subscribe["offset"] = json!(seen.offset);
        }
        format!("{connect}\n{}", json!({"id": 2, "subscribe": subscribe}))
    }
}

impl Connection {
    async fn send(&mut self, opcode: u8, payload: &[u8]) -> anyhow::Result<()> {
        let sent = self.stream.write_all(&frame(opcode, payload)).await;
        sent.context("sending")
    }

    /// Appends what arrives to `rest`.
    async fn read(&mut self, shared: &Shared) -> anyhow::Result<()> {
        loop {
            self.stream.readable().await.context("receiving")?;
            let mut buffer = shared.buffer.borrow_mut();
            match self.stream.try_read(&mut buffer) {
                Ok(0) => bail!("the connection has ended"),
                Ok(count) => {
                    self.rest.extend_from_slice(&buffer[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("receiving"),
            }
        }
    }

    /// Takes in what arrives next. Returns whether the subscription has begun with it.
    async fn receive(&mut self, shared: &Shared, seen: &mut Seen) -> anyhow::Result<bool> {
        // What came with the answer to the handshake is in `rest` already.
        if web_socket::next(&self.rest)?.is_none() {
            self.read(shared).await?;
        }
        let now = Timestamp::now().as_microsecond();
        let mut has_begun = false;
        let mut answers = Vec::new();
        let mut at = 0;
        while let Some((received, took)) = web_socket::next(&self.rest[at..])? {
            at += took;
            let mut tally = shared.tally.borrow_mut();
            tally.counts.frames += 1;
            tally.counts.bytes += took as u64;
            match received.opcode {
                TEXT => {
                    let text = std::str::from_utf8(received.payload).context("a text frame")?;
                    for line in text.lines() {
                        match seen.take(line, now, &mut tally) {
                            Line::Ping => answers.push((TEXT, b"{}".to_vec())),
                            Line::Subscribed => has_begun = true,
                            Line::Ended(why) => bail!("{why}"),
                            Line::Other => {}
                        }
                    }
                }
                PING => answers.push((PONG, received.payload.to_vec())),
                CLOSE => match received.payload {
                    [high, low, reason @ ..] => {
                        let code = u16::from_be_bytes([*high, *low]);
                        bail!("closed: {code} {}", String::from_utf8_lossy(reason));
                    }
                    _ => bail!("closed without a code"),
                },
                _ => {}
            }
        }
        if at == self.rest.len() {
            // Idle clients keep no buffer.
            self.rest = Vec::new();
        } else {
            self.rest.drain(..at);
        }
        for (opcode, payload) in answers {
            self.send(opcode, &payload).await?;
        }
        Ok(has_begun)
    }
}
