use std::sync::Arc;

use iot_auth::Scope;
use iot_fold::Device;
use serde_json::{Value, json};

use super::*;
use crate::hub::{First, Snapshot};
use crate::testing::{device, identity};

fn session() -> Session {
    Session::new(Framing::Json, "s-1".to_owned())
}

fn open() -> Session {
    let mut session = session();
    let identity = identity("ann", Scope::ALL);
    session.admit(1, &identity, None, Timestamp::UNIX_EPOCH);
    session
}

/// What one command leads to.
fn step(session: &mut Session, command: Value) -> Step {
    let commands = session.read(command.to_string().as_bytes()).unwrap();
    let [command] = &commands[..] else {
        panic!("one command: {commands:?}")
    };
    session.take(command.clone())
}

/// The code and text of the error that answers a command.
fn error_of(command: Value) -> (u32, String) {
    match step(&mut open(), command) {
        Step::Reply(Reply {
            id: 7,
            error: Some(error),
            ..
        }) if !error.temporary => (error.code, error.message),
        other => panic!("no error: {other:?}"),
    }
}

fn subscribe(channel: &str) -> Value {
    json!({ "id": 7, "subscribe": { "channel": channel } })
}

fn wanted_of(command: Value) -> Wanted {
    match step(&mut open(), command) {
        Step::Subscribe(wanted) => *wanted,
        other => panic!("no subscription: {other:?}"),
    }
}

fn code_of(step: Step) -> u16 {
    match step {
        Step::Close(farewell) => farewell.code,
        other => panic!("not the end: {other:?}"),
    }
}

/// The parts that a subscription begins with, as JSON.
fn parts(command: Value, offset: u64, first: First) -> Vec<Value> {
    let wanted = wanted_of(command);
    let partial = vec!["acme.office:3: loading".to_owned()];
    let subscribed = Subscribed {
        epoch: "k3".into(),
        offset,
        first,
        partial,
    };
    let parts = open().start(&wanted, subscribed);
    parts
        .map(|part| serde_json::from_slice(&part).unwrap())
        .collect()
}

fn devices(count: usize) -> First {
    let devices: Arc<[Arc<Device>]> = (0..count)
        .map(|n| Arc::new(device(&format!("d{n}"))))
        .collect();
    First::Snapshot(Snapshot::Devices(devices))
}

#[test]
fn the_first_command_must_be_connect() {
    for command in [
        subscribe("devices"),
        json!({"id": 1, "ping": {}}),
        json!({"send": {}}),
    ] {
        assert_eq!(code_of(step(&mut session(), command)), codes::NO_CONNECT);
    }
    let mut session = session();
    let connect = json!({"id": 1, "connect": {"token": "any", "name": "js"}});
    let asked = Step::Connect(1, "any".to_owned());
    assert_eq!(step(&mut session, connect.clone()), asked);
    let now = Timestamp::from_millisecond(1_500).unwrap();
    let term = Some(Term(Some(Duration::from_millis(870_900))));
    let reply = session.admit(1, &identity("ann", Scope::ALL), term, now);
    let reply: Value = serde_json::from_slice(&Framing::Json.reply(&reply)).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        reply,
        json!({"id": 1, "connect": {
            "client": "s-1", "version": version, "ping": 25, "pong": true,
            "expires": true, "ttl": 870,
            "data": {"server_time": 1_500, "version": version,
                "identity": {"name": "ann", "role": "viewer"}},
        }})
    );
    assert_eq!(code_of(step(&mut session, connect)), codes::BAD_FRAME);
}

#[test]
fn a_client_without_a_connect_request_in_time_is_closed() {
    assert_eq!(session().tick().unwrap_err().code, codes::NO_CONNECT);
}

#[test]
fn a_client_that_was_not_let_in_may_retry() {
    let mut session = session();
    for id in 1..3 {
        let connect = json!({"id": id, "connect": {}});
        assert_eq!(
            step(&mut session, connect),
            Step::Connect(id, String::new())
        );
    }
}

#[test]
fn tokens_end_after_whole_seconds() {
    let seconds = |millis| Term(Some(Duration::from_millis(millis))).seconds();
    // SDKs take 0 for a token without an end.
    assert_eq!(
        [0, 999, 2_999].map(seconds),
        [(true, 1), (true, 1), (true, 2)]
    );
    assert_eq!(Term(Some(Duration::MAX)).seconds(), (true, u32::MAX));
    assert_eq!(Term(None).seconds(), (false, 0));
}

#[test]
fn a_client_that_does_not_answer_a_ping_is_closed() {
    let mut session = open();
    assert_eq!(session.tick(), Ok(Reply::default()));
    session.read(b"{}").unwrap();
    assert_eq!(session.tick(), Ok(Reply::default()));
    assert_eq!(session.tick().unwrap_err().code, codes::NO_PONG);
}

#[test]
fn refused_requests_say_why() {
    for (command, code, message) in [
        (
            subscribe("windows"),
            102,
            "unknown channel: it must begin with",
        ),
        (
            subscribe("devices?colour=red"),
            107,
            "unknown parameter \"colour\"",
        ),
        (
            subscribe("devices?room=1&room=2"),
            107,
            "parameter \"room\" is given twice",
        ),
        (
            subscribe(&"devices?".repeat(40)),
            107,
            "the name of the channel has 320 bytes",
        ),
        (
            json!({"id": 7, "subscribe": {"channel": "devices", "tf": {}}}),
            107,
            "tf is not",
        ),
        (
            json!({"id": 7, "unsubscribe": {"channel": "x"}}),
            102,
            "unknown channel",
        ),
        (
            json!({"id": 7, "rpc": {"method": "fly"}}),
            104,
            "unknown method \"fly\"",
        ),
        (
            json!({"id": 7, "publish": {"channel": "devices", "data": {}}}),
            104,
            "known requests",
        ),
        (json!({"id": 7, "history": {}}), 104, "known requests"),
        (json!({"id": 7, "presence": {}}), 104, "known requests"),
        (json!({"id": 7, "sub_refresh": {}}), 104, "known requests"),
        (json!({"id": 7, "new": {}}), 104, "known requests"),
    ] {
        let (found, text) = error_of(command.clone());
        assert!(
            found == code && text.starts_with(message),
            "{command}: {found} {text}"
        );
    }
    for (reason, code) in [
        (Unanswered::Refused(Refused::Already), 105),
        (Unanswered::Refused(Refused::TooMany), 106),
        (Unanswered::Denied(crate::access::Denied), 103),
    ] {
        assert_eq!(refused(7, &reason).error.unwrap().code, code);
    }
    let error = unavailable(7).error.unwrap();
    assert_eq!((error.code, error.temporary), (100, true));
}

#[test]
fn requests_without_a_number_end_the_connection() {
    let command = json!({"subscribe": {"channel": "devices"}});
    assert_eq!(code_of(step(&mut open(), command)), codes::BAD_FRAME);
    assert_eq!(
        step(&mut open(), json!({"send": {"data": 1}})),
        Step::Nothing
    );
}

#[test]
fn other_requests_are_answered_by_name() {
    let reply = |command| match step(&mut open(), command) {
        Step::Reply(reply) | Step::Unsubscribe(_, reply) => {
            serde_json::from_slice::<Value>(&Framing::Json.reply(&reply)).unwrap()
        }
        other => panic!("no reply: {other:?}"),
    };
    assert_eq!(
        reply(json!({"id": 7, "ping": {}})),
        json!({"id": 7, "ping": {}})
    );
    let unsubscribe = json!({"id": 7, "unsubscribe": {"channel": "devices?room=1"}});
    assert_eq!(reply(unsubscribe), json!({"id": 7, "unsubscribe": {}}));
    let refresh = step(&mut open(), json!({"id": 7, "refresh": {"token": "t"}}));
    assert_eq!(refresh, Step::Refresh(7, "t".to_owned()));
    let refreshed = |term| {
        let reply = open().refreshed(7, term);
        serde_json::from_slice::<Value>(&Framing::Json.reply(&reply)).unwrap()["refresh"].take()
    };
    assert_eq!(refreshed(Term(None))["client"], "s-1");
    assert_eq!(refreshed(Term(None)).get("expires"), None);
    let minute = refreshed(Term(Some(Duration::from_secs(60))));
    assert_eq!(
        (&minute["expires"], &minute["ttl"]),
        (&true.into(), &60.into())
    );
}

#[test]
fn reasons_fit_into_a_close_frame() {
    let frame = format!("{{\"id\":\"{}\"}}", "ä".repeat(200));
    let farewell = open().read(frame.as_bytes()).unwrap_err();
    assert_eq!(farewell.code, codes::BAD_FRAME);
    assert!(farewell.reason.len() <= MAX_REASON && farewell.reason.len() > MAX_REASON - 2);
    for farewell in [farewell, Close::Slow.into(), Close::Shutdown.into()] {
        let reason = serde_json::from_str::<Value>(&farewell.reason);
        assert!(reason.is_err(), "a client would take it for an instruction");
    }
    let too_long = vec![b' '; 70_000];
    assert_eq!(open().read(&too_long).unwrap_err().code, codes::BAD_FRAME);
}

#[test]
fn a_position_is_taken_over() {
    let recover = |channel: &str, offset: u64| {
        let subscribe =
            json!({"channel": channel, "recover": true, "epoch": "k3", "offset": offset});
        wanted_of(json!({"id": 7, "subscribe": subscribe}))
    };
    let wanted = recover("devices", 57);
    let position = Position {
        epoch: "k3".to_owned(),
        offset: 57,
    };
    assert_eq!((wanted.is_recovering, wanted.since), (true, Some(position)));
    assert_eq!(wanted_of(subscribe("devices")).since, None);
    assert_eq!(
        recover("devices", 0).since,
        None,
        "the snapshot was incomplete"
    );
    assert_eq!(recover("stats", 57).since, None);
}

#[test]
fn a_small_snapshot_is_one_reply() {
    let name = "readings?sensor=temperature&tenant=acme";
    let parts = parts(subscribe(name), 41, devices(1));
    let mut shown = serde_json::to_value(device("d0")).unwrap();
    shown["readings"]
        .as_object_mut()
        .unwrap()
        .remove("humidity");
    assert_eq!(
        parts,
        [json!({"id": 7, "subscribe": {
            "recoverable": true, "positioned": true, "epoch": "k3", "offset": 41,
            "data": {"devices": [shown], "partial": ["acme.office:3: loading"]},
        }})]
    );
}

#[test]
fn a_large_snapshot_comes_in_pages() {
    let parts = parts(subscribe("devices"), 41, devices(2_000));
    let mut seen = 0;
    for (at, part) in parts.iter().enumerate() {
        assert!(part.to_string().len() < PAGE_AND_MORE);
        let is_last = at == parts.len() - 1;
        let (place, offset) = match at {
            0 => (&part["subscribe"], None),
            _ => (&part["push"]["pub"], is_last.then_some(41)),
        };
        assert_eq!(
            place.get("offset").and_then(Value::as_u64),
            offset,
            "page {at}"
        );
        let data = &place["data"];
        assert_eq!(data.get("more").is_some(), !is_last);
        assert_eq!(data.get("partial").is_some(), at == 0);
        for device in data["devices"].as_array().unwrap() {
            assert_eq!(device["device"], format!("d{seen}"));
            seen += 1;
        }
        if at > 0 {
            assert_eq!(part["push"]["channel"], "devices");
        }
    }
    assert_eq!(seen, 2_000);
    assert!(parts.len() > 2);
}

/// A page with what is around it.
const PAGE_AND_MORE: usize = super::start::PAGE + 512;

#[test]
fn a_recovered_subscription_gets_publications_and_no_snapshot() {
    let command = json!({"id": 7, "subscribe":
        {"channel": "alerts", "recover": true, "epoch": "k3", "offset": 57}});
    let missed = First::Missed(vec![(60, "{}".into())]);
    assert_eq!(
        parts(command.clone(), 57, missed),
        [json!({"id": 7, "subscribe": {
            "recoverable": true, "positioned": true, "epoch": "k3", "offset": 57,
            "was_recovering": true, "recovered": true,
            "publications": [{"offset": 60, "data": {}}],
        }})]
    );
    let fresh = &parts(command.clone(), 70, devices(0))[0]["subscribe"];
    assert_eq!(
        (&fresh["was_recovering"], fresh.get("recovered")),
        (&true.into(), None)
    );
    assert_eq!(fresh["data"]["devices"], json!([]));
    // More than a client can take at once follows as publications.
    let long = "x".repeat(super::start::PAGE / 5 * 2);
    let long: bytes::Bytes = json!(long).to_string().into();
    let missed = (58..64).map(|offset| (offset, long.clone())).collect();
    let parts = parts(command, 57, First::Missed(missed));
    assert_eq!(
        parts[0]["subscribe"]["publications"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let rest = parts[1..].iter();
    let offsets: Vec<_> = rest
        .map(|part| part["push"]["pub"]["offset"].as_u64())
        .collect();
    assert_eq!(offsets, [None, None, None, Some(63)]);
    let first = &parts[0]["subscribe"]["publications"][0];
    assert_eq!(first.get("offset"), None);
}

#[test]
fn statistics_have_no_position() {
    let stats = First::Snapshot(Snapshot::Stats(Box::default()));
    let reply = &parts(subscribe("stats"), 41, stats)[0]["subscribe"];
    for field in ["recoverable", "positioned", "offset"] {
        assert_eq!(reply.get(field), None);
    }
    assert_eq!(reply["data"]["stats"]["devices"], 0);
}
