//! Tokens of connections: connecting, expiry and refreshing.

use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};

use super::frames::Spy;
use super::*;

#[tokio::test(start_paused = true)]
async fn clients_without_a_valid_token_are_not_let_in() {
    let world = World::start().await;
    for (token, code, message) in [
        ("", 101, "unauthorized"),
        ("quagga", 101, "unauthorized"),
        (&*world.tokens["expired"], 109, "token expired"),
    ] {
        let mut spy = Spy::open(&world, "nobody").await;
        let reply = spy.ask(json!({ "connect": { "token": token } })).await;
        assert_eq!(reply["error"], json!({ "code": code, "message": message }));
        // Another attempt is answered.
        let connect = json!({ "connect": { "token": world.tokens["all"] } });
        assert!(spy.ask(connect).await["connect"].is_object());
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_refused_connect_request_is_ignored() {
    let world = World::start().await;
    let mut spy = Spy::open(&world, "nobody").await;
    spy.say(&[
        json!({ "id": 1, "connect": { "token": "quagga" } }),
        json!({ "id": 2, "subscribe": { "channel": "devices" } }),
    ])
    .await;
    let news = spy.news().await;
    assert_eq!((news.len(), &news[0]["error"]["code"]), (1, &101.into()));
}

#[tokio::test(start_paused = true)]
async fn the_header_of_the_handshake_lets_in() {
    let world = World::start().await;
    let handshake = async |token: &str| {
        let url = format!("ws://{}/ws", world.address);
        let mut request = url.into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("authorization", token.parse().unwrap());
        let stream = TcpStream::connect(world.address).await.unwrap();
        client_async(request, stream).await
    };
    let (socket, _) = handshake(&world.bearer("apple")).await.unwrap();
    let mut spy = Spy::of("apple", socket);
    let reply = spy.ask(json!({ "connect": {} })).await;
    let identity = json!({ "name": "apple", "role": "viewer" });
    assert_eq!(reply["connect"]["data"]["identity"], identity);
    spy.subscribe("readings", None).await;
    spy.news().await;
    for token in ["expired", "none"] {
        let token = world.tokens.get(token).map_or("quagga", String::as_str);
        let refused = handshake(&format!("Bearer {token}")).await.err().unwrap();
        assert!(matches!(refused, Error::Http(response) if response.status() == 401));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_after_its_token() {
    let world = World::start().await;
    let mut spy = Spy::open(&world, "short").await;
    let connect = json!({ "connect": { "token": world.tokens["short"] } });
    let reply = spy.ask(connect).await;
    assert_eq!(reply["connect"]["expires"], true);
    let ttl = reply["connect"]["ttl"].as_u64().unwrap();
    assert!((1..=60).contains(&ttl), "{ttl}");
    spy.subscribe("readings", None).await;
    let started = Instant::now();
    let mut close = None;
    for _ in 0..10 {
        if let Frame::Close(frame) = spy.next().await {
            close = frame;
            break;
        }
        // It was a ping of the server.
        spy.say(&[json!({})]).await;
    }
    let close = close.expect("an end");
    assert_eq!(
        (u16::from(close.code), &*close.reason),
        (3005, "token expired")
    );
    // With the grace of 25 s.
    let after = started.elapsed().as_secs();
    assert!((ttl + 24..ttl + 27).contains(&after), "{after}");
}

#[tokio::test(start_paused = true)]
async fn a_newer_token_keeps_subscriptions_if_it_sees_the_same() {
    let mut world = World::start().await;
    let mut spy = Spy::connected(&world, "ann").await.now("apple");
    spy.subscribe("readings", None).await;
    spy.news().await;
    world.reissue("short").await;
    let refresh = json!({ "refresh": { "token": world.tokens["ann"] } });
    let reply = spy.ask(refresh).await;
    assert_eq!(reply["refresh"]["expires"], true);
    let is_end = |line: &Value| line["push"]["unsubscribe"].is_object();
    assert!(!spy.news().await.iter().any(is_end));
}

#[tokio::test(start_paused = true)]
async fn a_newer_token_that_sees_something_else_begins_subscriptions_again() {
    let mut world = World::start().await;
    for (from, to) in [("apple", "north"), ("north", "apple"), ("apple", "zebra")] {
        world.reissue(from).await;
        let mut spy = Spy::connected(&world, "ann").await.now(from);
        let reply = spy.subscribe("readings", None).await;
        let epoch = reply["subscribe"]["epoch"].as_str().unwrap().to_owned();
        let offset = reply["subscribe"]["offset"].as_u64().unwrap();
        spy.subscribe("stats", None).await;
        spy.news().await;
        world.reissue(to).await;
        spy.news().await;
        let refresh = json!({ "refresh": { "token": world.tokens["ann"] } });
        let reply = spy.ask(refresh).await;
        assert!(reply["refresh"].is_object(), "{reply}");
        let news = spy.news().await;
        let mut ended: Vec<_> = news
            .iter()
            .filter(|line| line["push"]["unsubscribe"]["code"] == 2500)
            .map(|line| line["push"]["channel"].as_str().unwrap())
            .collect();
        ended.sort_unstable();
        assert_eq!(ended, ["readings", "stats"]);
        // From now on nothing of the earlier one.
        let mut spy = spy.now(to);
        world.change(30.0, "mango").await;
        assert_eq!(spy.news().await, Vec::<Value>::new());
        let reply = spy.subscribe("readings", Some(&(epoch, offset))).await;
        assert!(reply["subscribe"]["data"].is_object(), "{reply}");
        assert_eq!(reply["subscribe"].get("recovered"), None, "a new snapshot");
        world.change(31.0, "mango").await;
        assert!(!spy.news().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_token_of_another_name_is_refused() {
    let mut world = World::start().await;
    let mut spy = Spy::connected(&world, "apple").await;
    spy.subscribe("readings", None).await;
    for (token, code) in [("zebra", 101), ("ann", 101), ("expired", 109)] {
        let refresh = json!({ "refresh": { "token": world.tokens[token] } });
        assert_eq!(spy.ask(refresh).await["error"]["code"], code, "{token}");
    }
    let reply = spy.ask(json!({ "refresh": { "token": "" } })).await;
    assert_eq!(reply["error"]["code"], 101);
    // The earlier one still counts.
    spy.news().await;
    world.change(30.0, "mango").await;
    assert!(!spy.news().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_ends_with_its_token() {
    let world = World::start().await;
    let request = reqwest::Client::new().get(world.url("/api/v1/devices"));
    let request = request.header("accept", "text/event-stream");
    let request = request.header("authorization", world.bearer("short"));
    let mut stream = request.send().await.unwrap();
    let mut text = Vec::new();
    // Comments come every 15 s.
    for _ in 0..20 {
        let Some(chunk) = stream.chunk().await.unwrap() else {
            break;
        };
        text.extend(chunk);
    }
    let end = "event: disconnect\ndata: {\"code\":3005,\"reason\":\"token expired\"}\n\n";
    assert!(String::from_utf8(text).unwrap().ends_with(end));
}
