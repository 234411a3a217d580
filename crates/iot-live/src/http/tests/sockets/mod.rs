//! WebSockets.

mod snapshots;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use iot_fold::{AlertStatus, Level};
use serde_json::json;
use testkit::wait_for;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as RawFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::*;
use crate::hub::{Close, Outbox, Refused, Snapshot, Stats};
use crate::protocol::Framing;
use crate::testing::{alert, device};

impl Fixture {
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

    /// The next lines of which there are so many, in one frame or in several.
    async fn next_lines(&mut self, count: usize) -> Vec<Value> {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.extend(self.lines().await);
        }
        lines
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
    let lines = client.next_lines(3).await;
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
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"]}") {
        let Frame::Binary(frame) = client.frame().await else {
            panic!("no binary frame")
        };
        bytes.extend(frame);
    }
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
async fn replies_do_not_wait_for_the_hub() {
    let mut fixture = Fixture::start().await;
    let mut client = fixture.web_socket(None).await.unwrap();
    let both = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"devices\"}}";
    client.say(both).await;
    // The hub has not answered.
    assert_eq!(client.line().await["id"], 1);
    fixture.subscribed(41, no_devices()).await;
    assert_eq!(client.line().await["id"], 2);
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_read_is_not_silent() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let requests: Vec<_> = (2..30)
        .map(|id| json!({"id": id, "subscribe": {"channel": "devices"}}).to_string())
        .collect();
    // The hub answers none: with 4 s each this takes longer than two pings.
    client.say(&requests.join("\n")).await;
    let (mut refused, mut pings) = (0, 0);
    while refused < requests.len() {
        let text = client.0.next().await.unwrap().unwrap();
        for line in text.to_text().unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            refused += usize::from(line["error"]["temporary"] == true);
            pings += usize::from(line == json!({}));
        }
    }
    assert!(pings > 2);
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_subscription_is_not_confirmed_without_the_hub() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client
        .say(r#"{"id":3,"unsubscribe":{"channel":"devices"}}"#)
        .await;
    let frame = client.0.next().await.unwrap().unwrap();
    let reply: Value = serde_json::from_str(frame.to_text().unwrap()).unwrap();
    assert_eq!(
        (&reply["error"]["code"], &reply["error"]["temporary"]),
        (&100.into(), &true.into())
    );
    fixture.end().await;
}

#[tokio::test]
async fn publications_precede_the_reply_to_an_unsubscribe_request() {
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
    let Message::Stats(_, answer) = fixture.message().await else {
        panic!("no question")
    };
    assert!(publish(&asked.outbox, Framing::Json, 57));
    answer.send(Stats::default()).unwrap();
    let lines = client.next_lines(2).await;
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
    let fixture = Fixture::start().await;
    let (long, longer) = (" ".repeat(70_000), " ".repeat(200_000));
    for (frame, code, reason) in [
        (r#"{"id":1,"subscribe":{}}"#, 3502, "the first command"),
        ("GET / HTTP/1.1", 3501, "command 1 of the frame"),
        (&long, 3501, "a frame has 70000 bytes"),
        (&longer, 3501, "a frame is too long; at most 65536 bytes"),
        ("\u{fffd}", 3501, "a text frame is not UTF-8"),
    ] {
        let mut client = fixture.web_socket(None).await.unwrap();
        if frame == "\u{fffd}" {
            let text = OpCode::Data(Data::Text);
            let raw = RawFrame::message(&b"\xff"[..], text, true);
            client.0.send(Frame::Frame(raw)).await.unwrap();
        } else {
            client.say(frame).await;
        }
        let (found, text) = client.closed().await;
        assert!(found == code && text.starts_with(reason), "{found} {text}");
    }
    let closed = |reason| {
        let labels = [("reason", reason), ("connection", "websocket")];
        fixture.count("iot_websocket_closed_total", &labels)
    };
    assert_eq!((closed("malformed"), closed("no_connect")), (4, 1));
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
    asked.outbox.close(Close::Slow);
    assert_eq!(client.closed().await.0, 3008);
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

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_pings_is_closed() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let mut next = async || client.0.next().await.unwrap().unwrap();
    assert_eq!(next().await, Frame::text("{}"));
    assert!(matches!(next().await, Frame::Close(Some(close)) if u16::from(close.code) == 3012));
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_connect_is_closed() {
    let fixture = Fixture::start().await;
    let mut client = fixture.web_socket(None).await.unwrap();
    let frame = client.0.next().await.unwrap().unwrap();
    assert!(matches!(frame, Frame::Close(Some(close)) if u16::from(close.code) == 3502));
    fixture.end().await;
}
