//! Both versions, against rumqttc's codec on the other side.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use sha2::{Digest, Sha256};

use super::*;

/// A packet from a broker, whatever the version.
#[derive(Debug, Clone)]
enum Sent {
    Publish(Publish),
    PubRel(u16),
    SubAck(u16, Vec<bool>),
    UnsubAck(u16),
    PingResp,
}

fn message() -> impl Strategy<Value = Publish> {
    let qos = prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ];
    let properties = proptest::option::of((vec(("[a-z]{1,9}", ".{0,40}"), 0..4), any::<u32>()));
    let (topic, payload) = ("[a-zé/]{1,200}", vec(any::<u8>(), 0..600));
    (
        qos,
        1..=u16::MAX,
        any::<[bool; 2]>(),
        topic,
        payload,
        properties,
    )
        .prop_map(
            |(qos, id, [dup, retain], topic, payload, properties)| Publish {
                dup,
                retain,
                pkid: if qos == QoS::AtMostOnce { 0 } else { id },
                properties: properties.map(|(user_properties, expiry)| PublishProperties {
                    user_properties,
                    message_expiry_interval: Some(expiry),
                    ..PublishProperties::default()
                }),
                ..Publish::new(topic, qos, payload, None)
            },
        )
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        4 => message().prop_map(Sent::Publish),
        1 => any::<u16>().prop_map(Sent::PubRel),
        1 => (any::<u16>(), vec(any::<bool>(), 1..5)).prop_map(|(id, codes)| Sent::SubAck(id, codes)),
        1 => any::<u16>().prop_map(Sent::UnsubAck),
        1 => Just(Sent::PingResp),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::V5), Just(Protocol::V311)]
}

impl Sent {
    fn write(&self, protocol: Protocol, out: &mut BytesMut) {
        match protocol {
            Protocol::V5 => drop(self.packet5().write(out, None).unwrap()),
            Protocol::V311 => drop(self.packet4().write(out, usize::MAX).unwrap()),
        }
    }

    fn packet5(&self) -> v5::Packet {
        match self.clone() {
            Self::Publish(publish) => v5::Packet::Publish(publish),
            Self::PubRel(id) => v5::Packet::PubRel(v5::PubRel::new(id, None)),
            Self::SubAck(pkid, codes) => v5::Packet::SubAck(SubAck {
                pkid,
                return_codes: codes.into_iter().map(code5).collect(),
                properties: None,
            }),
            Self::UnsubAck(pkid) => v5::Packet::UnsubAck(UnsubAck {
                pkid,
                reasons: vec![v5::UnsubAckReason::Success],
                properties: None,
            }),
            Self::PingResp => v5::Packet::PingResp(v5::PingResp),
        }
    }

    fn packet4(&self) -> v4::Packet {
        match self.clone() {
            Self::Publish(publish) => {
                let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                let qos = bytes4::qos(publish.qos as u8).unwrap();
                v4::Packet::Publish(v4::Publish {
                    dup: publish.dup,
                    retain: publish.retain,
                    pkid: publish.pkid,
                    ..v4::Publish::from_bytes(topic, qos, publish.payload)
                })
            }
            Self::PubRel(id) => v4::Packet::PubRel(v4::PubRel::new(id)),
            Self::SubAck(id, codes) => {
                let codes = codes.into_iter().map(|good| match good {
                    true => v4::SubscribeReasonCode::Success(bytes4::QoS::AtLeastOnce),
                    false => v4::SubscribeReasonCode::Failure,
                });
                v4::Packet::SubAck(v4::SubAck::new(id, codes.collect()))
            }
            Self::UnsubAck(id) => v4::Packet::UnsubAck(v4::UnsubAck::new(id)),
            Self::PingResp => v4::Packet::PingResp,
        }
    }

    /// What the session is to see of it.
    fn seen(self, protocol: Protocol, limit: usize) -> Packet {
        let mut frame = BytesMut::new();
        self.write(protocol, &mut frame);
        let mut publish = match self {
            Self::Publish(publish) => publish,
            Self::PubRel(id) => return Packet::PubRel(id),
            Self::PingResp => return Packet::PingResp,
            Self::SubAck(pkid, codes) => {
                let codes = codes.into_iter().map(|good| match (good, protocol) {
                    (false, Protocol::V311) => SubscribeReasonCode::Failure,
                    (good, _) => code5(good),
                });
                return Packet::SubAck(SubAck {
                    pkid,
                    return_codes: codes.collect(),
                    properties: None,
                });
            }
            Self::UnsubAck(pkid) => {
                let reasons = match protocol {
                    Protocol::V5 => vec![v5::UnsubAckReason::Success],
                    Protocol::V311 => Vec::new(),
                };
                return Packet::UnsubAck(UnsubAck {
                    pkid,
                    reasons,
                    properties: None,
                });
            }
        };
        if protocol == Protocol::V311 || frame.len() > limit {
            publish.properties = None;
        }
        if frame.len() <= limit {
            return Packet::Publish(publish);
        }
        Packet::Oversize(Box::new(Oversize {
            size: publish.payload.len() as u64,
            sha256: Sha256::digest(&publish.payload).into(),
            publish,
        }))
    }
}

fn code5(good: bool) -> SubscribeReasonCode {
    match good {
        true => SubscribeReasonCode::Success(QoS::AtLeastOnce),
        false => SubscribeReasonCode::NotAuthorized,
    }
}

/// Reads `stream` as it comes in pieces that end at `cuts`.
fn read_pieces(
    reader: &mut Reader,
    stream: &[u8],
    cuts: &[Index],
) -> Result<Vec<Packet>, Malformed> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let (mut input, mut packets, mut begin) = (BytesMut::new(), Vec::new(), 0);
    for end in ends {
        input.extend_from_slice(&stream[begin..end]);
        begin = end;
        while let Some(packet) = reader.read(&mut input)? {
            packets.push(packet);
        }
    }
    assert!(input.is_empty(), "{} bytes are left", input.len());
    Ok(packets)
}

proptest! {
    /// However the stream is cut, the same packets come in the same order;
    /// messages beyond the limit with their size and hash.
    #[test]
    fn any_packets_in_any_pieces(
        protocol in protocol(),
        limit in prop_oneof![Just(MAX_FRAME), 10..700usize],
        sent in vec(sent(), 0..12),
        cuts in vec(any::<Index>(), 0..30),
    ) {
        // Only messages may be that long.
        let limit = limit.max(16);
        let mut stream = BytesMut::new();
        for packet in &sent {
            packet.write(protocol, &mut stream);
        }
        let mut reader = Reader::new(protocol);
        reader.limit = limit;
        let read = read_pieces(&mut reader, &stream, &cuts).unwrap();
        let expected: Vec<_> = sent.into_iter().map(|packet| packet.seen(protocol, limit)).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn no_bytes_make_it_panic(
        protocol in protocol(),
        limit in prop_oneof![Just(MAX_FRAME), 10..100usize],
        first in any::<u8>(),
        body in vec(prop_oneof![2 => 0..45u8, 1 => any::<u8>()], 0..120),
        rest in vec(any::<u8>(), 0..20),
    ) {
        let mut reader = Reader::new(protocol);
        reader.limit = limit;
        let mut input = BytesMut::new();
        input.put_u8(first);
        put_length(body.len(), &mut input);
        input.put_slice(&body);
        input.put_slice(&rest);
        while let Ok(Some(_)) = reader.read(&mut input) {}
    }

    #[test]
    fn acknowledgements_are_read_as_they_were_queued(
        queued in vec((1..=u16::MAX, prop_oneof![Just(0x40u8), Just(0x50), Just(0x70)]), 0..50),
    ) {
        let (writer, mut out) = (Writer(Protocol::V5), BytesMut::new());
        for (id, kind) in &queued {
            match kind {
                0x40 => writer.acknowledge(*id, QoS::AtLeastOnce, &mut out),
                0x50 => writer.acknowledge(*id, QoS::ExactlyOnce, &mut out),
                _ => writer.complete(*id, &mut out),
            }
            writer.acknowledge(*id, QoS::AtMostOnce, &mut out);
        }
        let mut same = out.clone();
        let read5: Vec<_> = std::iter::from_fn(|| v5::Packet::read(&mut out, None).ok()).map(|packet| match packet {
            v5::Packet::PubAck(ack) => (ack.pkid, 0x40),
            v5::Packet::PubRec(ack) => (ack.pkid, 0x50),
            v5::Packet::PubComp(ack) => (ack.pkid, 0x70),
            other => panic!("{other:?}"),
        }).collect();
        let read4: Vec<_> = std::iter::from_fn(|| v4::Packet::read(&mut same, 100).ok()).map(|packet| match packet {
            v4::Packet::PubAck(ack) => (ack.pkid, 0x40),
            v4::Packet::PubRec(ack) => (ack.pkid, 0x50),
            v4::Packet::PubComp(ack) => (ack.pkid, 0x70),
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(&read5, &queued);
        prop_assert_eq!(&read4, &queued);
    }
}

#[test]
fn requests_are_read_as_they_were_written_in_both_versions() {
    let filters = ["a/+/#".to_string(), format!("$share/g/{}", "x".repeat(300))];
    let mut out = BytesMut::new();
    let writer = Writer(Protocol::V5);
    writer.subscribe(7, &filters, QoS::ExactlyOnce, &mut out);
    writer.unsubscribe(8, &filters, &mut out);
    writer.ping(&mut out);
    writer.disconnect(true, &mut out);
    let v5::Packet::Subscribe(subscribe) = v5::Packet::read(&mut out, None).unwrap() else {
        panic!("not a SUBSCRIBE");
    };
    assert_eq!(subscribe.pkid, 7);
    for (read, filter) in subscribe.filters.iter().zip(&filters) {
        assert_eq!((&read.path, read.qos), (filter, QoS::ExactlyOnce));
        assert_eq!(
            read.retain_forward_rule,
            v5::RetainForwardRule::OnNewSubscribe
        );
    }
    let unsubscribe = v5::Unsubscribe {
        pkid: 8,
        filters: filters.to_vec(),
        properties: None,
    };
    let read = v5::Packet::read(&mut out, None).unwrap();
    assert_eq!(read, v5::Packet::Unsubscribe(unsubscribe));
    let read = v5::Packet::read(&mut out, None).unwrap();
    assert_eq!(read, v5::Packet::PingReq(v5::PingReq));
    let v5::Packet::Disconnect(disconnect) = v5::Packet::read(&mut out, None).unwrap() else {
        panic!("not a DISCONNECT");
    };
    let properties = disconnect.properties.unwrap();
    assert_eq!(properties.session_expiry_interval, Some(0));

    let writer = Writer(Protocol::V311);
    writer.subscribe(7, &filters, QoS::AtLeastOnce, &mut out);
    writer.unsubscribe(8, &filters, &mut out);
    writer.disconnect(true, &mut out);
    let read = |out: &mut BytesMut| v4::Packet::read(out, 10_000).unwrap();
    let wanted = filters.iter().cloned();
    let wanted = wanted.map(|path| v4::SubscribeFilter::new(path, bytes4::QoS::AtLeastOnce));
    let mut subscribe = v4::Subscribe::new_many(wanted);
    subscribe.pkid = 7;
    assert_eq!(read(&mut out), v4::Packet::Subscribe(subscribe));
    let unsubscribe = v4::Unsubscribe {
        pkid: 8,
        topics: filters.to_vec(),
    };
    assert_eq!(read(&mut out), v4::Packet::Unsubscribe(unsubscribe));
    assert_eq!(read(&mut out), v4::Packet::Disconnect);
}

#[test]
fn a_greeting_says_the_same_in_both_versions() {
    let hello = || Hello {
        client_id: "bridge-1".into(),
        clean: false,
        login: Some(("user".into(), "word".into())),
        keep_alive: 60,
        session_expiry: 3600,
        receive_maximum: 2000,
    };
    let mut out = BytesMut::new();
    Writer(Protocol::V5).connect(hello(), &mut out).unwrap();
    let v5::Packet::Connect(connect, None, login) = v5::Packet::read(&mut out, None).unwrap()
    else {
        panic!("not a CONNECT");
    };
    assert_eq!(connect.client_id, "bridge-1");
    assert!(!connect.clean_start);
    assert_eq!(login, Some(v5::Login::new("user", "word")));
    let properties = connect.properties.unwrap();
    assert_eq!(properties.session_expiry_interval, Some(3600));
    assert_eq!(properties.receive_maximum, Some(2000));
    assert_eq!(
        properties.max_packet_size, None,
        "brokers drop larger ones silently"
    );

    Writer(Protocol::V311).connect(hello(), &mut out).unwrap();
    let v4::Packet::Connect(connect) = v4::Packet::read(&mut out, 1000).unwrap() else {
        panic!("not a CONNECT");
    };
    assert_eq!(connect.protocol, bytes4::Protocol::V4);
    assert_eq!(
        (connect.client_id.as_str(), connect.keep_alive),
        ("bridge-1", 60)
    );
    assert!(!connect.clean_session);
    assert_eq!(connect.login, Some(v4::Login::new("user", "word")));
}

fn read_one(protocol: Protocol, bytes: &[u8]) -> Result<Option<Packet>, String> {
    let mut input = BytesMut::from(bytes);
    let read = Reader::new(protocol).read(&mut input);
    read.map_err(|error| error.to_string())
}

#[test]
fn a_disconnect_may_have_a_reason_and_no_properties() {
    let read = |bytes: &[u8]| read_one(Protocol::V5, bytes).unwrap().unwrap();
    let taken_over = Packet::Disconnect(DisconnectReasonCode::SessionTakenOver);
    assert_eq!(read(&[0xE0, 1, 0x8E]), taken_over);
    assert_eq!(read(&[0xE0, 2, 0x8E, 0]), taken_over);
    let normal = Packet::Disconnect(DisconnectReasonCode::NormalDisconnection);
    assert_eq!(read(&[0xE0, 0]), normal);
}

#[test]
fn a_refusal_of_version_5_is_understood() {
    let refused = read_one(Protocol::V5, &[0x20, 2, 0, 1]).unwrap().unwrap();
    assert!(
        matches!(refused, Packet::ConnAck(ack) if ack.code == ConnectReturnCode::RefusedProtocolVersion)
    );
}

#[test]
fn what_is_malformed_is_named() {
    for (bytes, text) in [
        (
            &[0x30, 4, 0, 9, b'a', b'/'][..],
            "a malformed PUBLISH (too short)",
        ),
        (
            &[0x36, 4, 0, 1, b'a', 0],
            "a malformed PUBLISH (quality of service 3)",
        ),
        (
            &[0x32, 6, 0, 1, b'a', 0, 0, 0],
            "a malformed PUBLISH (packet identifier 0)",
        ),
        // A user property that reaches into the payload.
        (
            &[
                0x30, 13, 0, 1, b'a', 4, 38, 0, 1, b'k', 0, 1, b'v', b'p', b'p',
            ],
            "a malformed PUBLISH (",
        ),
        (
            &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1],
            "a length of more than four bytes",
        ),
        (&[0x90, 2, 0, 1], "a malformed SUBACK"),
        (
            &[0x10, 2, 0, 1],
            "a malformed CONNECT (a broker does not send that)",
        ),
        (
            &[0xB0, 0xFF, 0xFF, 0xFF, 0x7F],
            "a malformed UNSUBACK (268435460 bytes)",
        ),
    ] {
        let error = read_one(Protocol::V5, bytes).expect_err(text);
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn of_a_message_of_any_size_little_is_kept() {
    let payload: Vec<u8> = (0..20 << 20).map(|i: u32| (i / 7) as u8).collect();
    let mut publish = Publish::new("a/b", QoS::AtLeastOnce, payload.clone(), None);
    publish.pkid = 9;
    let property = ("note".to_string(), "x".repeat(60_000));
    publish.properties = Some(PublishProperties {
        user_properties: vec![property; 5],
        ..PublishProperties::default()
    });
    let mut stream = BytesMut::new();
    v5::Packet::Publish(publish)
        .write(&mut stream, None)
        .unwrap();
    Sent::PubRel(4).write(Protocol::V5, &mut stream);

    let (mut reader, mut input) = (Reader::new(Protocol::V5), BytesMut::new());
    let mut packets = Vec::new();
    for chunk in stream.chunks(50_000) {
        input.extend_from_slice(chunk);
        while let Some(packet) = reader.read(&mut input).unwrap() {
            packets.push(packet);
        }
        assert!(input.len() < 50_000, "it waits for more than it needs");
    }
    let [Packet::Oversize(oversize), Packet::PubRel(4)] = &packets[..] else {
        panic!("{} packets", packets.len());
    };
    assert_eq!(oversize.publish.payload, payload[..64 << 10]);
    assert_eq!(oversize.publish.topic, "a/b");
    assert_eq!((oversize.publish.pkid, oversize.size), (9, 20 << 20));
    assert_eq!(oversize.sha256[..], Sha256::digest(&payload)[..]);
    assert_eq!(oversize.publish.properties, None);
}
