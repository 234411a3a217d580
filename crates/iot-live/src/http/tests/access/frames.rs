//! The push protocol, and event streams.

use std::collections::BTreeMap;
use std::fmt::Write;

use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::*;
use crate::channel::Kind;

/// Longer than channels gather changes. Time is paused in these tests.
const QUIET: Duration = Duration::from_millis(500);

/// A client that keeps all that it hears.
pub(super) struct Spy {
    bearer: &'static str,
    socket: WebSocketStream<TcpStream>,
    lines: Vec<Value>,
    id: u64,
}

impl Spy {
    /// A connection without a connect request.
    pub(super) async fn open(world: &World, bearer: &'static str) -> Self {
        let stream = TcpStream::connect(world.address).await.unwrap();
        let url = format!("ws://{}/ws", world.address);
        let (socket, _) = client_async(url, stream).await.unwrap();
        Self::of(bearer, socket)
    }

    pub(super) fn of(bearer: &'static str, socket: WebSocketStream<TcpStream>) -> Self {
        Self {
            bearer,
            socket,
            lines: Vec::new(),
            id: 0,
        }
    }

    /// The same connection, after its identity has changed.
    pub(super) fn now(self, bearer: &'static str) -> Self {
        Self { bearer, ..self }
    }

    /// Sends lines in one frame.
    pub(super) async fn say(&mut self, lines: &[Value]) {
        let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
        self.socket
            .send(Frame::text(lines.join("\n")))
            .await
            .unwrap();
    }

    /// The next frame, however long it takes.
    pub(super) async fn next(&mut self) -> Frame {
        self.socket.next().await.unwrap().unwrap()
    }

    pub(super) async fn connected(world: &World, bearer: &'static str) -> Self {
        let mut spy = Self::open(world, bearer).await;
        let connect = json!({ "connect": { "token": world.tokens[bearer] } });
        let reply = spy.ask(connect).await;
        assert!(reply.get("connect").is_some(), "{bearer}: {reply}");
        spy
    }

    /// The next line, unless there is none for some time.
    pub(super) async fn frame(&mut self) -> Option<Frame> {
        let frame = timeout(QUIET, self.socket.next()).await.ok()??.ok()?;
        if let Ok(text) = frame.to_text() {
            check(self.bearer, "a frame", text);
            let lines = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            self.lines.extend(lines);
        }
        Some(frame)
    }

    /// The reply to a request.
    pub(super) async fn ask(&mut self, mut request: Value) -> Value {
        self.id += 1;
        request["id"] = self.id.into();
        let id = self.id;
        self.say(std::slice::from_ref(&request)).await;
        loop {
            let is_reply = |line: &&Value| line["id"] == id;
            if let Some(reply) = self.lines.iter().find(is_reply) {
                return reply.clone();
            }
            let frame = self.frame().await;
            assert!(frame.is_some(), "no reply to {request}");
        }
    }

    pub(super) async fn subscribe(&mut self, channel: &str, since: Option<&Position>) -> Value {
        let mut subscribe = json!({ "channel": channel });
        if let Some((epoch, offset)) = since {
            subscribe["recover"] = true.into();
            subscribe["epoch"] = epoch.as_str().into();
            subscribe["offset"] = (*offset).into();
        }
        self.ask(json!({ "subscribe": subscribe })).await
    }

    /// Takes everything that comes, and forgets what came before.
    pub(super) async fn news(&mut self) -> Vec<Value> {
        // Statistics come every second.
        for _ in 0..200 {
            if self.frame().await.is_none() {
                break;
            }
        }
        std::mem::take(&mut self.lines)
    }
}

type Position = (String, u64);

fn position(reply: &Value) -> Option<Position> {
    let subscribed = &reply["subscribe"];
    let offset = subscribed["offset"].as_u64()?;
    Some((subscribed["epoch"].as_str()?.to_owned(), offset))
}

/// A channel with the names that decide whether it is denied.
struct Asked {
    name: String,
    tenant: Option<&'static str>,
    project: Option<&'static str>,
    building: Option<&'static str>,
}

/// Channels of each kind with every filter.
fn channels() -> Vec<Asked> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let path = kind.path();
        let mut add = |query: &str, tenant, project, building| {
            let name = format!("{path}{query}");
            all.push(Asked {
                name,
                tenant,
                project,
                building,
            });
        };
        add("", None, None, None);
        let more: &[&str] = match kind {
            Kind::Stats => continue,
            Kind::Readings => &["?mode=all", "?max_rate=100", "?sensor=temperature"],
            Kind::Devices => &["?max_rate=100", "?floor=1"],
            Kind::Alerts => &[
                "?min_level=critical",
                "?state=raised",
                "?sensor=temperature",
            ],
        };
        more.iter().for_each(|query| add(query, None, None, None));
        for name in names(0) {
            add(&format!("?tenant={name}"), Some(name), None, None);
        }
        for name in names(1) {
            add(&format!("?project={name}"), None, Some(name), None);
        }
        for name in names(3) {
            add(&format!("?building={name}"), None, None, Some(name));
        }
        // What cannot be denied by itself is not named: publications repeat the name.
        add(&format!("?device={NOTHING}"), None, None, None);
    }
    all
}

impl Asked {
    fn is_denied(&self, bearer: &str) -> bool {
        let of = BEARERS.iter().find(|(name, _)| *name == bearer);
        let [tenants, projects, places] = of.unwrap().1;
        let may = |names: &[&str], name: Option<&str>| {
            name.is_none_or(|name| names == ["*"] || names.contains(&name))
        };
        !may(tenants, self.tenant) || !may(projects, self.project) || !may(places, self.building)
    }
}

/// Whether a device is in what a client received.
fn has(lines: &[Value], word: &str) -> bool {
    let text = lines.iter().fold(String::new(), |mut text, line| {
        let _ = write!(text, "{line}");
        text
    });
    text.contains(word)
}

#[tokio::test(start_paused = true)]
async fn every_channel_has_what_the_identity_may_see() {
    let mut world = World::start().await;
    let bearers = RESTRICTED.into_iter().chain(["all"]);
    let mut spies = Vec::new();
    for bearer in bearers {
        let mut spy = Spy::connected(&world, bearer).await;
        let mut positions = BTreeMap::new();
        for asked in channels() {
            let reply = spy.subscribe(&asked.name, None).await;
            if asked.is_denied(bearer) {
                let message = "permission denied: this is outside of what the identity may see";
                let error = json!({ "code": 103, "message": message });
                assert_eq!(reply["error"], error, "{bearer}: {}", asked.name);
            } else {
                assert!(reply["subscribe"].is_object(), "{bearer}: {reply}");
                positions.insert(asked.name, position(&reply));
            }
        }
        spy.news().await;
        spies.push((spy, positions));
    }
    // Everything changes, alerts are cleared and raised, and a device moves out of and into places.
    for (temperature, building) in [(20.0, "mango"), (180.0, "north"), (20.0, "mango")] {
        world.change(temperature, building).await;
        for (spy, _) in &mut spies {
            let news = spy.news().await;
            for [tenant, _, device, ..] in DEVICES {
                let shows = hidden(spy.bearer)
                    .iter()
                    .all(|word| !device.contains(word) && !tenant.contains(word));
                assert_eq!(has(&news, device), shows, "{} and {device}", spy.bearer);
            }
        }
    }
    // While nobody listens.
    let mut before = Vec::new();
    for (spy, positions) in spies {
        before.push((spy.bearer, positions));
    }
    world.change(180.0, "north").await;
    world.change(20.0, "mango").await;
    for (bearer, positions) in &before {
        let mut spy = Spy::connected(&world, bearer).await;
        for (channel, position) in positions {
            let reply = spy.subscribe(channel, position.as_ref()).await;
            let is_recovered = reply["subscribe"]["recovered"] == true;
            assert_eq!(
                is_recovered,
                channel != "stats",
                "{bearer}: {channel} {reply}"
            );
        }
        spy.news().await;
    }
    // With the positions of others.
    for (bearer, _) in &before {
        for (other, positions) in &before {
            if bearer == other {
                continue;
            }
            let mut spy = Spy::connected(&world, bearer).await;
            let position = positions["readings"].as_ref();
            for channel in ["readings", "readings?mode=all", "devices", "alerts"] {
                let reply = spy.subscribe(channel, position).await;
                assert!(reply["subscribe"].is_object(), "{reply}");
                assert_eq!(
                    reply["subscribe"].get("recovered"),
                    None,
                    "{bearer} as {other}"
                );
            }
            spy.news().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_leaves_a_place_is_removed_and_one_that_enters_it_appears() {
    let mut world = World::start().await;
    let mut north = Spy::connected(&world, "north").await;
    for channel in ["readings", "readings?mode=all", "devices", "alerts"] {
        north.subscribe(channel, None).await;
    }
    north.news().await;
    world.change(180.0, "mango").await;
    let news = north.news().await;
    for channel in ["readings", "readings?mode=all", "devices"] {
        let of_channel = |line: &&Value| line["push"]["channel"] == channel;
        let all: Vec<_> = news.iter().filter(of_channel).collect();
        let removed = all
            .iter()
            .any(|line| line["push"]["pub"]["data"]["removed"][0]["device"] == ROAMER);
        assert!(removed, "{channel}: {all:?}");
    }
    let of_alerts = |line: &&Value| line["push"]["channel"] == "alerts";
    let gone = news.iter().filter(of_alerts);
    let mut gone = gone.filter(|line| line["push"]["pub"]["data"]["gone"].is_array());
    assert!(gone.next().is_some(), "{news:?}");
    world.change(180.0, "north").await;
    let news = north.news().await;
    for channel in ["readings", "readings?mode=all", "devices", "alerts"] {
        let of_channel = |line: &&Value| line["push"]["channel"] == channel;
        let all: Vec<_> = news.iter().filter(of_channel).cloned().collect();
        assert!(has(&all, ROAMER), "{channel}: {all:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn event_streams_have_what_the_identity_may_see() {
    let mut world = World::start().await;
    for bearer in RESTRICTED {
        for asked in channels() {
            let request = reqwest::Client::new().get(world.url(&format!("/api/v1/{}", asked.name)));
            let request = request.header("accept", "text/event-stream");
            let request = request.header("authorization", world.bearer(bearer));
            let mut response = request.send().await.unwrap();
            if asked.is_denied(bearer) {
                assert_eq!(response.status(), 403, "{bearer}: {}", asked.name);
                check(bearer, &asked.name, &response.text().await.unwrap());
                continue;
            }
            assert_eq!(response.status(), 200, "{bearer}: {}", asked.name);
            let mut text = String::new();
            for temperature in [180.0, 20.0] {
                world.change(temperature, "mango").await;
                while let Ok(Ok(Some(chunk))) = timeout(QUIET, response.chunk()).await {
                    text.push_str(std::str::from_utf8(&chunk).unwrap());
                }
            }
            assert!(text.contains("event: snapshot\n"), "{text}");
            check(bearer, &asked.name, &text);
        }
    }
}
