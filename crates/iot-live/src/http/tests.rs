//! The API over real sockets, with a scripted hub.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use iot_fold::{AlertStatus, Level};
use iot_service::metrics::Registrar;
use prometheus::Registry;
use serde_json::{Value, json};
use testkit::{in_time, wait_for};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::*;
use crate::hub::{
    AlertPage, DevicePage, First, Message, Outbox, Refused, Snapshot, Stats, Subscribe, Subscribed,
};
use crate::protocol::Framing;
use crate::testing::{alert, device};

struct Fixture {
    address: SocketAddr,
    hub: mpsc::Receiver<Message>,
    most: Arc<AtomicUsize>,
    registry: Registry,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Fixture {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, hub) = mpsc::channel(64);
        let registry = Registry::new();
        let metrics = HttpMetrics::new(&Registrar(&registry)).unwrap();
        let most = Arc::new(AtomicUsize::new(10));
        let clients = most.clone();
        let settings = Settings {
            clients: Arc::new(move || clients.load(Ordering::Relaxed)),
            queue: Arc::new(|| 64 << 10),
            window_sizes: vec![HumanDuration::from_secs(60), HumanDuration::from_secs(300)],
            epoch: "k3".into(),
        };
        let stop = CancellationToken::new();
        let server = serve(listener, Hub(sender), metrics, settings, stop.clone());
        Self {
            address,
            hub,
            most,
            registry,
            stop,
            server,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let response = reqwest::get(self.url(path)).await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn web_socket(&self, protocol: Option<&str>) -> Result<Client, Error> {
        let mut request = format!("ws://{}/ws", self.address)
            .into_client_request()
            .unwrap();
        if let Some(protocol) = protocol {
            let protocol = protocol.parse().unwrap();
            request
                .headers_mut()
                .insert("sec-websocket-protocol", protocol);
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        client_async(request, stream)
            .await
            .map(|(socket, _)| Client(socket))
    }

    /// A client that is connected.
    async fn client(&self) -> Client {
        let mut client = self.web_socket(None).await.unwrap();
        client.say(r#"{"id":1,"connect":{}}"#).await;
        assert_eq!(client.line().await["id"], 1);
        client
    }

    async fn message(&mut self) -> Message {
        in_time("a message to the hub", self.hub.recv())
            .await
            .unwrap()
    }

    /// Answers a subscription; returns what was asked for.
    async fn subscribed(&mut self, offset: u64, first: First) -> Subscribe {
        let Message::Subscribe(subscribe, answer) = self.message().await else {
            panic!("no subscription")
        };
        let subscribed = Subscribed {
            epoch: "k3".into(),
            offset,
            first,
            partial: Vec::new(),
        };
        answer.send(Ok(subscribed)).unwrap();
        *subscribe
    }

    fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .unwrap();
        let has = |metric: &prometheus::proto::Metric, (name, value): &(&str, &str)| {
            let mut found = metric.get_label().iter();
            found.any(|label| label.name() == *name && label.value() == *value)
        };
        let mut metrics = family.get_metric().iter();
        let metric = metrics.find(|metric| labels.iter().all(|label| has(metric, label)));
        metric.unwrap().get_counter().get_value() as u64
    }

    async fn end(self) {
        self.stop.cancel();
        in_time("the end of the server", self.server).await.unwrap();
    }
}

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn say(&mut self, lines: &str) {
        self.0.send(Frame::text(lines)).await.unwrap();
    }

    async fn frame(&mut self) -> Frame {
        in_time("a frame", self.0.next()).await.unwrap().unwrap()
    }

    /// The lines of the next frame.
    async fn lines(&mut self) -> Vec<Value> {
        let frame = self.frame().await.into_text().unwrap();
        frame
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    async fn line(&mut self) -> Value {
        let mut lines = self.lines().await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Frame::Close(close) = self.frame().await {
                let close = close.unwrap();
                return (close.code.into(), close.reason.to_string());
            }
        }
    }
}

fn no_devices() -> First {
    First::Snapshot(Snapshot::Devices(Arc::new([])))
}

fn publish(outbox: &Outbox, framing: Framing, offset: u64) -> bool {
    outbox.push(framing.publication("devices", "k3", Some(offset), b"{\"devices\":[]}"))
}

#[tokio::test]
async fn commands_of_one_frame_are_answered_in_order() {
    let mut fixture = Fixture::start().await;
    let mut client = fixture.web_socket(None).await.unwrap();
    client
        .say(
            "{\"id\":1,\"connect\":{\"name\":\"js\"}}\n\
             {\"id\":2,\"subscribe\":{\"channel\":\"devices?room=a+b\"}}\n\
             {\"id\":3,\"subscribe\":{\"channel\":\"windows\"}}",
        )
        .await;
    let asked = fixture.subscribed(41, no_devices()).await;
    assert_eq!(&*asked.channel.name, "devices?room=a+b");
    assert_eq!(asked.framing, Framing::Json);
    let lines = client.lines().await;
    assert_eq!(lines[0]["connect"]["ping"], 25);
    assert_eq!(lines[1]["subscribe"]["offset"], 41);
    assert_eq!(lines[2]["error"]["code"], 102);
    assert_eq!(
        fixture.count("iot_push_commands_refused_total", &[("code", "102")]),
        1
    );
    // Frames that wait are gathered.
    assert!(publish(&asked.outbox, Framing::Json, 57) && publish(&asked.outbox, Framing::Json, 60));
    let mut offsets = Vec::new();
    while offsets.len() < 2 {
        let lines = client.lines().await;
        offsets.extend(
            lines
                .iter()
                .map(|line| line["push"]["pub"]["offset"].clone()),
        );
    }
    assert_eq!(offsets, [57, 60]);
    fixture.end().await;
    assert_eq!(client.closed().await.0, 3001);
}

#[tokio::test]
async fn protobuf_is_selected_by_subprotocol() {
    let mut fixture = Fixture::start().await;
    let mut client = fixture
        .web_socket(Some("centrifuge-protobuf"))
        .await
        .unwrap();
    // A connect request and a subscription to `alerts`.
    let frame: &[u8] = b"\x04\x08\x01\x22\x00\x0c\x08\x02\x2a\x08\x0a\x06alerts";
    client
        .0
        .send(Frame::binary(Bytes::copy_from_slice(frame)))
        .await
        .unwrap();
    let alerts = Arc::new([alert("a1", "d1", Level::Warning, AlertStatus::Raised)]);
    let asked = fixture
        .subscribed(41, First::Snapshot(Snapshot::Alerts(alerts)))
        .await;
    assert_eq!(asked.framing, Framing::Protobuf);
    let Frame::Binary(bytes) = client.frame().await else {
        panic!("no binary frame")
    };
    let mut rest = &bytes[..];
    let connected = prost_reply(&mut rest);
    assert!(connected.connect.is_some_and(|connect| connect.pong));
    let subscribed = prost_reply(&mut rest).subscribe.unwrap();
    let data: Value = serde_json::from_slice(&subscribed.data).unwrap();
    assert_eq!(
        (subscribed.offset, &data["alerts"][0]["id"]),
        (41, &"a1".into())
    );
    assert!(rest.is_empty());
    fixture.end().await;
}

fn prost_reply(bytes: &mut &[u8]) -> crate::protocol::messages::Reply {
    prost::Message::decode_length_delimited(bytes).unwrap()
}

#[tokio::test]
async fn what_is_published_during_a_snapshot_follows_its_last_page() {
    let mut fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"devices"}}"#)
        .await;
    let devices: Arc<[_]> = (0..3_000)
        .map(|n| Arc::new(device(&n.to_string())))
        .collect();
    let Message::Subscribe(asked, answer) = fixture.message().await else {
        panic!("no subscription")
    };
    // Changes come before the client has read anything.
    assert!(publish(&asked.outbox, Framing::Json, 57));
    let first = First::Snapshot(Snapshot::Devices(devices));
    let subscribed = Subscribed {
        epoch: "k3".into(),
        offset: 41,
        first,
        partial: Vec::new(),
    };
    answer.send(Ok(subscribed)).unwrap();
    let (mut seen, mut offsets) = (0, Vec::new());
    while offsets.last() != Some(&57) {
        for line in client.lines().await {
            let part = line.get("subscribe").unwrap_or(&line["push"]["pub"]);
            seen += part["data"]["devices"].as_array().unwrap().len();
            offsets.extend(part.get("offset").and_then(Value::as_u64));
        }
    }
    assert_eq!((seen, offsets), (3_000, vec![41, 57]));
    fixture.end().await;
}

#[tokio::test]
async fn what_was_published_before_the_end_of_a_subscription_precedes_the_reply() {
    let mut fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"devices"}}"#)
        .await;
    let asked = fixture.subscribed(41, no_devices()).await;
    assert_eq!(client.line().await["id"], 2);
    client
        .say(r#"{"id":3,"unsubscribe":{"channel":"devices"}}"#)
        .await;
    assert!(matches!(fixture.message().await, Message::Unsubscribe(id, _) if id == asked.client));
    let Message::Stats(answer) = fixture.message().await else {
        panic!("no question")
    };
    assert!(publish(&asked.outbox, Framing::Json, 57));
    answer.send(Stats::default()).unwrap();
    let lines = client.lines().await;
    assert_eq!(lines[0]["push"]["pub"]["offset"], 57);
    assert_eq!(lines[1], json!({"id": 3, "unsubscribe": {}}));
    fixture.end().await;
}

#[tokio::test]
async fn refusals_of_the_hub_are_errors() {
    let mut fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    for (refused, code) in [(Refused::Already, 105), (Refused::TooMany, 106)] {
        client
            .say(r#"{"id":2,"subscribe":{"channel":"devices"}}"#)
            .await;
        let Message::Subscribe(_, answer) = fixture.message().await else {
            panic!("no subscription")
        };
        answer.send(Err(refused)).unwrap();
        assert_eq!(client.line().await["error"]["code"], code);
    }
    fixture.end().await;
}

#[tokio::test]
async fn clients_that_break_the_protocol_are_closed_with_a_reason() {
    let mut fixture = Fixture::start().await;
    let long = " ".repeat(70_000);
    for (frame, code, reason) in [
        (r#"{"id":1,"subscribe":{}}"#, 3502, "the first command"),
        ("GET / HTTP/1.1", 3501, "command 1 of the frame"),
        (&long, 3501, "a frame has 70000 bytes"),
    ] {
        let mut client = fixture.web_socket(None).await.unwrap();
        client.say(frame).await;
        let (found, text) = client.closed().await;
        assert!(found == code && text.starts_with(reason), "{found} {text}");
        assert!(matches!(fixture.message().await, Message::Leave(_)));
    }
    let closed = |reason| {
        let labels = [("reason", reason), ("connection", "websocket")];
        fixture.count("iot_websocket_closed_total", &labels)
    };
    assert_eq!((closed("malformed"), closed("no_connect")), (2, 1));
    fixture.end().await;
}

#[tokio::test]
async fn a_client_without_a_place_is_refused_and_the_rest_ignored() {
    let mut fixture = Fixture::start().await;
    fixture.most.store(1, Ordering::Relaxed);
    let first = fixture.client().await;
    let mut second = fixture.web_socket(None).await.unwrap();
    let both = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"devices\"}}";
    second.say(both).await;
    let refused = second.line().await;
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["temporary"]),
        (&100.into(), &true.into())
    );
    drop(first);
    assert!(matches!(fixture.message().await, Message::Leave(_)));
    wait_for("a place", async || {
        second.say(r#"{"id":3,"connect":{}}"#).await;
        second.line().await.get("connect").is_some()
    })
    .await;
    fixture.end().await;
}

#[tokio::test]
async fn a_slow_client_is_told_to_come_back() {
    let mut fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"devices"}}"#)
        .await;
    let asked = fixture.subscribed(41, no_devices()).await;
    assert_eq!(client.line().await["id"], 2);
    asked.outbox.close(crate::hub::Close::Slow);
    assert_eq!(client.closed().await.0, 3008);
    fixture.end().await;
}

#[tokio::test]
async fn event_streams_resume_and_end_with_a_reason() {
    let mut fixture = Fixture::start().await;
    let url = fixture.url("/api/v1/alerts?min_level=critical");
    let request = reqwest::Client::new()
        .get(&url)
        .header("accept", "text/event-stream");
    let answer = tokio::spawn(request.try_clone().unwrap().send());
    let alerts = Arc::new([alert("a1", "d1", Level::Critical, AlertStatus::Raised)]);
    let asked = fixture
        .subscribed(41, First::Snapshot(Snapshot::Alerts(alerts)))
        .await;
    assert_eq!(
        (&*asked.channel.name, asked.since),
        ("alerts?min_level=critical", None)
    );
    let mut response = in_time("an answer", answer).await.unwrap().unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let event = in_time("a snapshot", response.chunk())
        .await
        .unwrap()
        .unwrap();
    let event = String::from_utf8(event.into()).unwrap();
    assert!(event.starts_with("event: snapshot\nid: k3:41\ndata: {\"alerts\":[{\"id\":\"a1\""));
    assert!(
        asked
            .outbox
            .push(Framing::EventStream.unsubscribe("alerts", 2500, "resync"))
    );
    let event = in_time("the end", response.chunk()).await.unwrap().unwrap();
    assert!(event.starts_with(b"event: unsubscribe\n"));
    assert_eq!(in_time("the end", response.chunk()).await.unwrap(), None);
    assert!(matches!(fixture.message().await, Message::Leave(id) if id == asked.client));

    let answer = tokio::spawn(request.header("last-event-id", "k3:57").send());
    let asked = fixture
        .subscribed(57, First::Missed(vec![(60, "{}".into())]))
        .await;
    assert_eq!(
        asked.since.map(|since| (since.epoch, since.offset)),
        Some(("k3".to_owned(), 57))
    );
    let mut response = in_time("an answer", answer).await.unwrap().unwrap();
    let event = in_time("what was missed", response.chunk())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event, "id: k3:60\ndata: {}\n\n");
    fixture.stop.cancel();
    let event = in_time("the end", response.chunk()).await.unwrap().unwrap();
    assert!(event.starts_with(b"event: disconnect\ndata: {\"code\":3001,"));
    fixture.end().await;
}

#[tokio::test]
async fn lists_have_filters_and_a_position() {
    let mut fixture = Fixture::start().await;
    let url = fixture.url("/api/v1/readings?sensor=temperature&room=K%C3%BCche&limit=1&offset=2");
    let answer = tokio::spawn(reqwest::get(url));
    let Message::Devices(page, devices) = fixture.message().await else {
        panic!("no list")
    };
    assert_eq!(
        (page.limit, page.offset, page.filter.room.as_deref()),
        (1, 2, Some("Küche"))
    );
    let found = vec![Arc::new(device("d1"))];
    devices
        .send(DevicePage {
            devices: found,
            total: 9,
            position: 41,
        })
        .unwrap();
    let list: Value = answer.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(
        (&list["total"], &list["position"]),
        (&9.into(), &json!({"epoch": "k3", "offset": 41}))
    );
    let readings = list["devices"][0]["readings"].as_object().unwrap();
    assert_eq!(readings.keys().collect::<Vec<_>>(), ["temperature"]);

    let answer = tokio::spawn(reqwest::get(fixture.url("/api/v1/alerts?state=raised")));
    let Message::Alerts(page, alerts) = fixture.message().await else {
        panic!("no list")
    };
    assert_eq!(
        (page.limit, page.filter.state),
        (100, Some(AlertStatus::Raised))
    );
    alerts
        .send(AlertPage {
            total: 3,
            position: 7,
            ..AlertPage::default()
        })
        .unwrap();
    let list: Value = answer.await.unwrap().unwrap().json().await.unwrap();
    let expected = json!({"alerts": [], "total": 3, "raised": {"critical": 0, "warning": 0},
        "position": {"epoch": "k3", "offset": 7}});
    assert_eq!(list, expected);

    for (path, reason) in [
        ("devices?colour=red", "unknown parameter \"colour\""),
        (
            "devices?limit=10001",
            "limit must be a whole number of at most 10000, not \"10001\"",
        ),
        ("devices?sensor=co2", "unknown parameter \"sensor\""),
        (
            "alerts?state=on",
            "state must be raised or cleared, not \"on\"",
        ),
        ("stats?tenant=a", "unknown parameter \"tenant\""),
        ("device?tenant=a", "parameter \"project\" is missing"),
        ("devices/a/b/c?size=7m", "size must be one of 1m, 5m"),
    ] {
        let (status, body) = fixture.get(&format!("/api/v1/{path}")).await;
        assert_eq!((status, &body["error"]), (400, &reason.into()), "{path}");
    }
    assert_eq!(fixture.get("/api/v2").await.0, 404);
    fixture.end().await;
}

#[tokio::test]
async fn a_device_comes_with_its_windows() {
    let mut fixture = Fixture::start().await;
    let url = fixture.url("/api/v1/device?tenant=acme&project=office&device=..%2Fd&size=5m");
    let answer = tokio::spawn(reqwest::get(url));
    let Message::Device(key, known) = fixture.message().await else {
        panic!("no question")
    };
    assert_eq!(&*key.device, "../d");
    let (questions, mut asked) = mpsc::channel(1);
    assert!(
        known
            .send(Some((Arc::new(device("../d")), questions)))
            .is_ok()
    );
    let question = in_time("a question", asked.recv()).await.unwrap();
    assert_eq!(question.size, 300_000);
    question
        .answer
        .send(Ok(Some(iot_fold::Windows::new())))
        .unwrap();
    let detail: Value = answer.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(
        (&detail["device"], &detail["windows"]),
        (&"../d".into(), &json!({}))
    );

    let answer = tokio::spawn(reqwest::get(fixture.url("/api/v1/devices/a/b/c")));
    let Message::Device(_, known) = fixture.message().await else {
        panic!("no question")
    };
    assert!(known.send(None).is_ok());
    assert_eq!(answer.await.unwrap().unwrap().status(), 404);
    fixture.end().await;
}

#[tokio::test]
async fn pages_of_other_sites_may_not_connect() {
    let fixture = Fixture::start().await;
    let mut request = format!("ws://{}/ws", fixture.address)
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert("origin", "http://evil.example".parse().unwrap());
    let stream = TcpStream::connect(fixture.address).await.unwrap();
    let refused = client_async(request, stream).await.err().unwrap();
    assert!(matches!(refused, Error::Http(response) if response.status() == 403));
    fixture.end().await;
}
