use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decode::MAX_COMMANDS;
use super::messages::*;
use super::*;

/// `data` of `readings`.
const DATA: &[u8] = br#"{"devices":[]}"#;

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    digits
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn command(fill: impl FnOnce(&mut Command)) -> Command {
    let mut command = Command::default();
    fill(&mut command);
    command
}

#[test]
fn frames_of_the_javascript_sdk_are_read() {
    // Recorded from centrifuge 5.8.0.
    let frame = concat!(
        r#"{"connect":{"token":"J.W.T","name":"js"},"id":1}"#,
        "\n",
        r#"{"subscribe":{"channel":"readings?tenant=acme&floor=2","data":{"a":1},"flag":1},"id":2}"#,
    );
    let first = Framing::Json.commands(frame.as_bytes()).unwrap();
    let connect = ConnectRequest {
        token: "J.W.T".to_owned(),
        name: "js".to_owned(),
        ..ConnectRequest::default()
    };
    let subscribe = SubscribeRequest {
        channel: "readings?tenant=acme&floor=2".to_owned(),
        ..SubscribeRequest::default()
    };
    assert_eq!(
        first,
        [
            command(|c| (c.id, c.connect) = (1, Some(connect))),
            command(|c| (c.id, c.subscribe) = (2, Some(subscribe))),
        ]
    );
    let rpc = Framing::Json.commands(br#"{"rpc":{"method":"ack","data":{"id": "x"}},"id":4}"#);
    assert_eq!(
        rpc.unwrap()[0].rpc.as_ref().unwrap().data,
        &br#"{"id": "x"}"#[..]
    );
    assert_eq!(Framing::Json.commands(b"{}").unwrap(), []);
    assert_eq!(Framing::Json.commands(b"").unwrap(), []);
}

#[test]
fn frames_of_the_python_sdk_are_read() {
    // Made with centrifuge-python 0.7.0: connect, subscribe with a position, and a pong.
    let frame = "130801220f0a054a2e572e542206707974686f6e2c08022a280a1c72656164696e67733f74656e616e\
                 743d61636d6526666c6f6f723d32180132026b333839700100";
    let commands = Framing::Protobuf.commands(&bytes(frame)).unwrap();
    assert_eq!(commands[0].connect.as_ref().unwrap().token, "J.W.T");
    let subscribe = SubscribeRequest {
        channel: "readings?tenant=acme&floor=2".to_owned(),
        recover: true,
        epoch: "k3".to_owned(),
        offset: 57,
        tf: None,
    };
    assert_eq!(
        (commands[1].id, commands[1].subscribe.as_ref()),
        (2, Some(&subscribe))
    );
    assert_eq!(commands[2..], []);
}

#[test]
fn replies_are_written_as_the_sdks_expect_them() {
    let subscribed = SubscribeResult {
        recoverable: true,
        positioned: true,
        epoch: "k3".to_owned(),
        offset: 41,
        data: Bytes::from_static(DATA),
        ..SubscribeResult::default()
    };
    let denied = Error {
        code: 103,
        message: "permission denied".to_owned(),
        temporary: false,
    };
    let replies = [
        (
            Reply {
                id: 2,
                subscribe: Some(subscribed),
                ..Reply::default()
            },
            r#"{"id":2,"subscribe":{"recoverable":true,"positioned":true,"epoch":"k3","offset":41,"data":{"devices":[]}}}"#,
            "1e0802321a180132026b33482950015a0e7b2264657669636573223a5b5d7d",
        ),
        (Reply::default(), "{}", "00"),
        (
            Reply {
                id: 3,
                error: Some(denied),
                ..Reply::default()
            },
            r#"{"id":3,"error":{"code":103,"message":"permission denied"}}"#,
            "1908031215086712117065726d697373696f6e2064656e696564",
        ),
        (
            Reply {
                id: 4,
                unsubscribe: Some(Empty {}),
                ..Reply::default()
            },
            r#"{"id":4,"unsubscribe":{}}"#,
            "0408043a00",
        ),
    ];
    for (reply, json, protobuf) in replies {
        assert_eq!(Framing::Json.reply(&reply), json);
        // The fields of ours are in the order of their declaration.
        let written = Framing::Protobuf.reply(&reply);
        assert_eq!(written.len(), protobuf.len() / 2);
        let theirs = Reply::decode_length_delimited(&*bytes(protobuf)).unwrap();
        assert_eq!(Reply::decode_length_delimited(written).unwrap(), theirs);
        assert_eq!(theirs, reply);
    }
}

#[test]
fn publications_are_written_in_all_framings() {
    let channel = r#"alerts?room="7""#;
    let json = Framing::Json.publication(channel, "k3", Some(57), DATA);
    assert_eq!(
        json,
        r#"{"push":{"channel":"alerts?room=\"7\"","pub":{"offset":57,"data":{"devices":[]}}}}"#
    );
    let of_struct: Reply = serde_json::from_slice(&json).unwrap();
    assert_eq!(Framing::Json.reply(&of_struct), json);
    let protobuf = Framing::Protobuf.publication(channel, "k3", Some(57), DATA);
    assert_eq!(Reply::decode_length_delimited(protobuf).unwrap(), of_struct);
    let event = Framing::EventStream.publication(channel, "k3", Some(57), DATA);
    assert_eq!(event, "id: k3:57\ndata: {\"devices\":[]}\n\n");

    let without = Framing::Json.publication("stats", "k3", None, b"{}");
    assert_eq!(without, r#"{"push":{"channel":"stats","pub":{"data":{}}}}"#);
    assert_eq!(
        Framing::EventStream.publication("stats", "k3", None, b"{}"),
        "data: {}\n\n"
    );
}

#[test]
fn the_end_of_a_subscription_is_written_in_all_framings() {
    let [json, protobuf, event] = [Framing::Json, Framing::Protobuf, Framing::EventStream]
        .map(|framing| framing.unsubscribe("alerts", 2500, "resync"));
    assert_eq!(
        json,
        r#"{"push":{"channel":"alerts","unsubscribe":{"code":2500,"reason":"resync"}}}"#
    );
    let theirs = bytes("1722151206616c657274733a0b10c4131a06726573796e63");
    assert_eq!(protobuf, theirs);
    assert_eq!(
        event,
        "event: unsubscribe\ndata: {\"code\":2500,\"reason\":\"resync\"}\n\n"
    );
    assert!(is_end_event(&event));
    assert!(!is_end_event(b"data: {}\n\n"));
}

#[test]
fn null_and_unknown_fields_are_ignored() {
    let frame = br#"{"id":1,"new":[1],"connect":{"token":null,"data":null,"name":"x","more":{}}}"#;
    let commands = Framing::Json.commands(frame).unwrap();
    let connect = commands[0].connect.as_ref().unwrap();
    assert_eq!(
        (&*connect.token, &*connect.name, connect.data.len()),
        ("", "x", 0)
    );
}

#[test]
fn a_wrong_frame_is_named() {
    let too_long = vec![b' '; MAX_FRAME + 1];
    let pings = "{\"id\":1,\"ping\":{}}\n"
        .repeat(MAX_COMMANDS + 1)
        .into_bytes();
    let (_, just_fits) = pings.split_at(pings.len() / (MAX_COMMANDS + 1));
    let allowed = Framing::Json.commands(just_fits).unwrap();
    assert_eq!(allowed.len(), MAX_COMMANDS);
    let too_many = b"\x02\x08\x01".repeat(MAX_COMMANDS + 1);
    let cases: [(Framing, &[u8], &str); 7] = [
        (Framing::Json, &pings, "a frame has more than 1024 commands"),
        (
            Framing::Protobuf,
            &too_many,
            "a frame has more than 1024 commands",
        ),
        (
            Framing::Json,
            b"{}\n{\"id\":\"x\"}",
            "command 2 of the frame: invalid type: string",
        ),
        (
            Framing::Json,
            b"\xff",
            "command 1 of the frame: expected value",
        ),
        (
            Framing::Protobuf,
            b"\x00\x05\x08",
            "command 2 of the frame: its length is wrong",
        ),
        (
            Framing::Protobuf,
            b"\x01\x08",
            "command 1 of the frame: failed to decode",
        ),
        (
            Framing::Json,
            &too_long,
            "a frame has 65537 bytes; at most 65536 are allowed",
        ),
    ];
    for (framing, frame, expected) in cases {
        let reason = framing.commands(frame).unwrap_err().to_string();
        assert!(reason.starts_with(expected), "{reason}");
    }
}

#[test]
fn empty_commands_need_no_memory() {
    let commands = Framing::Protobuf.commands(&[0; MAX_FRAME]).unwrap();
    assert_eq!(commands.capacity(), 0);
    let commands = Framing::Json.commands(&b"{}\n".repeat(20_000)).unwrap();
    assert_eq!(commands.capacity(), 0);
}

#[test]
fn parts_are_joined_into_one_message() {
    let parts = [Bytes::from_static(b"{}"), Bytes::from_static(b"{\"id\":1}")];
    assert_eq!(Framing::Json.join(&parts), "{}\n{\"id\":1}");
    assert_eq!(Framing::Protobuf.join(&parts), "{}{\"id\":1}");
    assert_eq!(Framing::Json.join(&parts[..1]), "{}");
}

fn data() -> impl Strategy<Value = Bytes> {
    let text = any::<String>().prop_map(|text| json!({ "text": text }));
    let numbers = vec(any::<i64>(), 0..4).prop_map(Value::from);
    prop_oneof![text, numbers].prop_map(|value: Value| value.to_string().into())
}

prop_compose! {
    fn commands()(
        id in any::<u32>(), text in any::<String>(), flag in any::<bool>(), offset in any::<u64>(),
        data in data(), which in 0..9,
    ) -> Command {
        command(|c| {
            c.id = id;
            match which {
                0 => c.connect = Some(ConnectRequest {
                    token: text, data, name: String::new(), version: "1".to_owned(),
                }),
                1 => c.subscribe = Some(SubscribeRequest {
                    channel: text, recover: flag, epoch: "e".to_owned(), offset,
                    tf: flag.then_some(Empty {}),
                }),
                2 => c.unsubscribe = Some(UnsubscribeRequest { channel: text }),
                3 => c.send = Some(SendRequest { data }),
                4 => c.rpc = Some(RpcRequest { data, method: text }),
                5 => c.refresh = Some(RefreshRequest { token: text }),
                6 => c.ping = Some(Empty {}),
                7 => c.history = Some(Empty {}),
                // An empty one is left out.
                _ => c.id = id.max(1),
            }
        })
    }
}

prop_compose! {
    fn replies()(
        id in any::<u32>(), text in any::<String>(), flag in any::<bool>(), offset in any::<u64>(),
        data in data(), which in 0..7,
    ) -> Reply {
        let mut reply = Reply { id, ..Reply::default() };
        match which {
            0 => reply.error = Some(Error { code: id, message: text, temporary: flag }),
            1 => reply.connect = Some(ConnectResult {
                client: text, version: "1".to_owned(), data, ping: 25, pong: flag,
                expires: flag, ttl: id,
            }),
            2 => reply.subscribe = Some(SubscribeResult {
                recoverable: flag, positioned: true, epoch: text, offset, was_recovering: true,
                recovered: flag, publications: vec![Publication { offset, data: data.clone() }; 2],
                data,
            }),
            3 => reply.refresh = Some(RefreshResult {
                client: text, version: String::new(), expires: flag, ttl: id,
            }),
            4 => reply.push = Some(Push {
                channel: text, publication: Some(Publication { offset, data }), unsubscribe: None,
            }),
            5 => reply.unsubscribe = Some(Empty {}),
            _ => {}
        }
        reply
    }
}

proptest! {
    #[test]
    fn both_framings_carry_the_same_commands(sent in vec(commands(), 0..5)) {
        let lines: Vec<_> = sent.iter().map(|c| Bytes::from(json(c))).collect();
        let lines = Framing::Json.join(&lines);
        prop_assert_eq!(Framing::Json.commands(&lines).unwrap(), &sent[..]);
        let messages: Vec<_> = sent
            .iter()
            .map(|c| Bytes::from(c.encode_length_delimited_to_vec()))
            .collect();
        let messages = Framing::Protobuf.join(&messages);
        prop_assert_eq!(Framing::Protobuf.commands(&messages).unwrap(), sent);
    }

    #[test]
    fn both_framings_carry_the_same_replies(sent in replies()) {
        let json = Framing::Json.reply(&sent);
        prop_assert!(!json.contains(&b'\n'));
        prop_assert_eq!(&serde_json::from_slice::<Reply>(&json).unwrap(), &sent);
        let protobuf = Framing::Protobuf.reply(&sent);
        prop_assert_eq!(Reply::decode_length_delimited(protobuf).unwrap(), sent);
    }

    #[test]
    fn garbage_is_refused_without_panic(frame in vec(any::<u8>(), 0..200)) {
        for framing in [Framing::Json, Framing::Protobuf, Framing::EventStream] {
            let _ = framing.commands(&frame);
        }
    }

    #[test]
    fn a_damaged_frame_does_not_panic(sent in vec(commands(), 1..4), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut frame: Vec<u8> = sent.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
        let at = at.index(frame.len());
        frame[at] = byte;
        let _ = Framing::Protobuf.commands(&frame);
    }
}
