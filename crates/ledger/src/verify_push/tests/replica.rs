//! A replica that says what the test tells it to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

/// What a replica says. Positions of publications are 1, 2, 3, ...
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    /// What the first client is shown.
    pub(super) first: Value,
    /// The data of what is pushed to it.
    pub(super) pushed: Vec<Value>,
    /// What others are shown.
    pub(super) last: Value,
    pub(super) alerts: Value,
    /// The connection of the first client ends after this many publications, before it has
    /// alerts.
    pub(super) cut: Option<usize>,
    /// Clients that come back get a snapshot.
    pub(super) forgets: bool,
    /// All publications have this position.
    pub(super) stands_still: bool,
    /// Snapshots have one device a page.
    pub(super) pages: bool,
}

/// Serves until the test ends.
pub(super) async fn serve(script: Script) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let replica: &'static Replica = Box::leak(Box::new(Replica {
            script,
            snapshots: AtomicUsize::new(0),
        }));
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(replica.session(stream));
        }
    });
    address
}

struct Replica {
    script: Script,
    /// Snapshots of readings that were sent.
    snapshots: AtomicUsize,
}

impl Replica {
    async fn session(&self, stream: TcpStream) {
        let mut socket = accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else {
                continue;
            };
            for line in text.lines() {
                let request: Value = serde_json::from_str(line).unwrap();
                if self.answer(&mut socket, &request).await.is_none() {
                    return;
                }
            }
        }
    }

    /// `None` if the connection ends.
    async fn answer(&self, socket: &mut WebSocketStream<TcpStream>, request: &Value) -> Option<()> {
        let (id, script) = (&request["id"], &self.script);
        if request.get("connect").is_some() {
            let connect = json!({"client": "c", "version": "1", "ping": 25, "pong": true});
            // A ping too, which is answered.
            say(socket, &[json!({"id": id, "connect": connect}), json!({})]).await?;
            return Some(());
        }
        let Some(subscribe) = request.get("subscribe") else {
            assert_eq!(*request, json!({}), "the answer to the ping");
            return Some(());
        };
        let position = |offset: usize| if script.stands_still { 1 } else { offset };
        let answer = |answer: Value| json!({"id": id, "subscribe": answer});
        let recovers = subscribe["recover"] == true && !script.forgets;
        let channel = &subscribe["channel"];
        if channel.as_str()?.starts_with("alerts") {
            let mut alerts = json!({"epoch": "e", "offset": 1, "recovered": recovers});
            if !recovers {
                alerts["data"] = json!({"alerts": script.alerts});
            }
            return say(socket, &[answer(alerts)]).await;
        }
        let publications = |from: usize| {
            let all = script.pushed.iter().enumerate().skip(from);
            all.map(move |(at, data)| json!({"offset": position(at + 2), "data": data}))
        };
        if recovers {
            let from = subscribe["offset"].as_u64()?;
            // One that the client has seen too.
            let from = usize::try_from(from).unwrap().saturating_sub(2);
            let again: Vec<_> = publications(from).collect();
            let recovered = json!({"epoch": "e", "offset": subscribe["offset"], "recovered": true,
                "was_recovering": true, "publications": again});
            return say(socket, &[answer(recovered)]).await;
        }
        let is_first = self.snapshots.fetch_add(1, Ordering::Relaxed) == 0;
        let data = if is_first {
            &script.first
        } else {
            &script.last
        };
        let now = if is_first { 1 } else { script.pushed.len() + 1 };
        self.snapshot(socket, (id, channel), data, now).await?;
        if is_first {
            let count = script.cut.unwrap_or(usize::MAX);
            for publication in publications(0).take(count) {
                say(socket, &[push(channel, &publication)]).await?;
            }
            if script.cut.is_some() {
                return None;
            }
        }
        Some(())
    }

    async fn snapshot(
        &self,
        socket: &mut WebSocketStream<TcpStream>,
        (id, channel): (&Value, &Value),
        data: &Value,
        now: usize,
    ) -> Option<()> {
        let answer = |offset: usize, data: Value| json!({"id": id, "subscribe": {"epoch": "e", "offset": offset, "data": data}});
        if !self.script.pages {
            return say(socket, &[answer(now, data.clone())]).await;
        }
        let devices = data["devices"].as_array().unwrap();
        let mut frames = Vec::new();
        for (at, device) in devices.iter().enumerate() {
            let is_last = at + 1 == devices.len();
            let mut page = json!({"devices": [device]});
            if !is_last {
                page["more"] = json!(true);
            }
            frames.push(match (at, is_last) {
                (0, false) => answer(0, page),
                (0, true) => answer(now, page),
                (_, false) => push(channel, &json!({"data": page})),
                (_, true) => push(channel, &json!({"offset": now, "data": page})),
            });
        }
        say(socket, &frames).await
    }
}

fn push(channel: &Value, publication: &Value) -> Value {
    json!({"push": {"channel": channel, "pub": publication}})
}

/// Sends objects in one frame.
async fn say(socket: &mut WebSocketStream<TcpStream>, lines: &[Value]) -> Option<()> {
    let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
    socket.send(Message::text(lines.join("\n"))).await.ok()
}
