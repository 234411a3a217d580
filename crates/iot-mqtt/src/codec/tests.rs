//! Both versions, with rumqttc's codec as the broker's.

use bytes::{BufMut, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rumqttc::mqttbytes::{self as bytes4, v4};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{self, PubAckReason, PublishProperties, SubscribeReasonCode};
use sha2::{Digest, Sha256};

use super::writer::put_variable_byte_integer;
use super::*;
use crate::{Connect, ConnectionError, Login, Protocol};

/// A packet from a broker, whatever the version.
#[derive(Debug, Clone)]
enum Sent {
    Publish(Publish),
    PubAck(u16, PubAckReason),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
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
        1 => (any::<u16>(), puback_reason()).prop_map(|(id, reason)| Sent::PubAck(id, reason)),
        1 => any::<u16>().prop_map(Sent::PubRec),
        1 => any::<u16>().prop_map(Sent::PubRel),
        1 => any::<u16>().prop_map(Sent::PubComp),
        1 => (any::<u16>(), vec(any::<bool>(), 1..5)).prop_map(|(id, codes)| Sent::SubAck(id, codes)),
        1 => any::<u16>().prop_map(Sent::UnsubAck),
        1 => Just(Sent::PingResp),
    ]
}

fn puback_reason() -> impl Strategy<Value = PubAckReason> {
    prop_oneof![
        Just(PubAckReason::Success),
        Just(PubAckReason::NoMatchingSubscribers),
        Just(PubAckReason::QuotaExceeded)
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
            Self::PubAck(id, reason) => v5::Packet::PubAck(puback(id, reason)),
            Self::PubRec(id) => v5::Packet::PubRec(PubRec::new(id, None)),
            Self::PubRel(id) => v5::Packet::PubRel(v5::PubRel::new(id, None)),
            Self::PubComp(id) => v5::Packet::PubComp(v5::PubComp::new(id, None)),
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
            Self::PubAck(id, _) => v4::Packet::PubAck(v4::PubAck::new(id)),
            Self::PubRec(id) => v4::Packet::PubRec(v4::PubRec::new(id)),
            Self::PubRel(id) => v4::Packet::PubRel(v4::PubRel::new(id)),
            Self::PubComp(id) => v4::Packet::PubComp(v4::PubComp::new(id)),
            Self::SubAck(id, codes) => {
                let codes = codes.into_iter().map(code4);
                v4::Packet::SubAck(v4::SubAck::new(id, codes.collect()))
            }
            Self::UnsubAck(id) => v4::Packet::UnsubAck(v4::UnsubAck::new(id)),
            Self::PingResp => v4::Packet::PingResp,
        }
    }

    /// The packet that a session must see.
    fn seen(self, protocol: Protocol, limit: usize) -> Packet {
        let mut frame = BytesMut::new();
        self.write(protocol, &mut frame);
        let mut publish = match self {
            Self::Publish(publish) => publish,
            Self::PubAck(id, reason) => {
                let reason = match protocol {
                    Protocol::V5 => reason,
                    Protocol::V311 => PubAckReason::Success,
                };
                return Packet::PubAck(puback(id, reason));
            }
            Self::PubRec(id) => return Packet::PubRec(PubRec::new(id, None)),
            Self::PubRel(id) => return Packet::PubRel(id),
            Self::PubComp(id) => return Packet::PubComp(id),
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

fn puback(pkid: u16, reason: PubAckReason) -> PubAck {
    PubAck {
        pkid,
        reason,
        properties: None,
    }
}

fn code5(good: bool) -> SubscribeReasonCode {
    if good {
        SubscribeReasonCode::Success(QoS::AtLeastOnce)
    } else {
        SubscribeReasonCode::NotAuthorized
    }
}

fn code4(good: bool) -> v4::SubscribeReasonCode {
    if good {
        v4::SubscribeReasonCode::Success(bytes4::QoS::AtLeastOnce)
    } else {
        v4::SubscribeReasonCode::Failure
    }
}

/// Reads `stream`, which arrives in pieces that end at `cuts`.
fn read_pieces(
    reader: &mut Reader,
    stream: &[u8],
    cuts: &[Index],
) -> Result<Vec<Packet>, ConnectionError> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let (mut packets, mut start) = (Vec::new(), 0);
    for end in ends {
        reader.feed(&stream[start..end]);
        start = end;
        while let Some(packet) = reader.packet()? {
            packets.push(packet);
        }
    }
    let left = reader.buffer().len();
    assert_eq!(left, 0, "{left} bytes are left");
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
        let mut reader = Reader::with_limit(protocol, limit);
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
        let mut input = BytesMut::new();
        input.put_u8(first);
        put_variable_byte_integer(body.len(), &mut input);
        input.put_slice(&body);
        input.put_slice(&rest);
        let mut reader = Reader::with_limit(protocol, limit);
        reader.feed(&input);
        while let Ok(Some(_)) = reader.packet() {}
    }

    #[test]
    fn messages_are_read_as_they_were_written(
        protocol in protocol(),
        messages in vec(message(), 0..5),
    ) {
        let mut writer = Writer::new(protocol);
        for message in &messages {
            writer.publish(message).unwrap();
        }
        let mut reader = Reader::new(protocol);
        reader.feed(writer.buffer());
        for mut message in messages {
            if protocol == Protocol::V311 {
                message.properties = None;
            }
            prop_assert_eq!(reader.packet().unwrap(), Some(Packet::Publish(message)));
        }
        prop_assert!(reader.buffer().is_empty());
    }

    #[test]
    fn acknowledgements_are_read_as_they_were_queued(
        queued in vec((1..=u16::MAX, 4..8u8), 0..50),
    ) {
        let mut writer = Writer::new(Protocol::V5);
        for &(id, kind) in &queued {
            match kind {
                PUBACK => writer.acknowledge(id, QoS::AtLeastOnce),
                PUBREC => writer.acknowledge(id, QoS::ExactlyOnce),
                PUBREL => writer.release(id),
                _ => writer.complete(id),
            }
            writer.acknowledge(id, QoS::AtMostOnce);
        }
        let mut out = writer.buffer().clone();
        let mut same = out.clone();
        let read5: Vec<_> = std::iter::from_fn(|| v5::Packet::read(&mut out, None).ok()).map(|packet| match packet {
            v5::Packet::PubAck(ack) => (ack.pkid, PUBACK),
            v5::Packet::PubRec(ack) => (ack.pkid, PUBREC),
            v5::Packet::PubRel(ack) => (ack.pkid, PUBREL),
            v5::Packet::PubComp(ack) => (ack.pkid, PUBCOMP),
            other => panic!("{other:?}"),
        }).collect();
        let read4: Vec<_> = std::iter::from_fn(|| v4::Packet::read(&mut same, 100).ok()).map(|packet| match packet {
            v4::Packet::PubAck(ack) => (ack.pkid, PUBACK),
            v4::Packet::PubRec(ack) => (ack.pkid, PUBREC),
            v4::Packet::PubRel(ack) => (ack.pkid, PUBREL),
            v4::Packet::PubComp(ack) => (ack.pkid, PUBCOMP),
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(&read5, &queued);
        prop_assert_eq!(&read4, &queued);
    }
}

#[test]
fn requests_are_read_as_they_were_written_in_both_versions() {
    let filters = ["a/+/#".to_string(), format!("$share/g/{}", "x".repeat(300))];
    let mut writer = Writer::new(Protocol::V5);
    writer.subscribe(7, &filters, QoS::ExactlyOnce);
    writer.unsubscribe(8, &filters);
    writer.ping();
    writer.disconnect_and_end_session();
    let out = writer.buffer();
    let v5::Packet::Subscribe(subscribe) = v5::Packet::read(out, None).unwrap() else {
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
    let read = v5::Packet::read(out, None).unwrap();
    assert_eq!(read, v5::Packet::Unsubscribe(unsubscribe));
    let read = v5::Packet::read(out, None).unwrap();
    assert_eq!(read, v5::Packet::PingReq(v5::PingReq));
    let v5::Packet::Disconnect(disconnect) = v5::Packet::read(out, None).unwrap() else {
        panic!("not a DISCONNECT");
    };
    let properties = disconnect.properties.unwrap();
    assert_eq!(properties.session_expiry_interval, Some(0));

    let mut writer = Writer::new(Protocol::V311);
    writer.subscribe(7, &filters, QoS::AtLeastOnce);
    writer.unsubscribe(8, &filters);
    writer.disconnect_and_end_session();
    let out = writer.buffer();
    let read = |out: &mut BytesMut| v4::Packet::read(out, 10_000).unwrap();
    let wanted = filters.iter().cloned();
    let wanted = wanted.map(|path| v4::SubscribeFilter::new(path, bytes4::QoS::AtLeastOnce));
    let mut subscribe = v4::Subscribe::new_many(wanted);
    subscribe.pkid = 7;
    assert_eq!(read(out), v4::Packet::Subscribe(subscribe));
    let unsubscribe = v4::Unsubscribe {
        pkid: 8,
        topics: filters.to_vec(),
    };
    assert_eq!(read(out), v4::Packet::Unsubscribe(unsubscribe));
    assert_eq!(read(out), v4::Packet::Disconnect);
}

#[test]
fn connect_has_the_same_content_in_both_versions() {
    let hello = Connect {
        client_id: "bridge-1".into(),
        clean_start: false,
        login: Some(Login {
            username: "user".into(),
            password: "word".into(),
        }),
        keep_alive: 60,
        session_expiry: Some(3600),
        receive_maximum: Some(2000),
    };
    let mut writer = Writer::new(Protocol::V5);
    // Also behind another packet.
    writer.ping();
    writer.connect(&hello).unwrap();
    let out = writer.buffer();
    let read = v5::Packet::read(out, None).unwrap();
    assert_eq!(read, v5::Packet::PingReq(v5::PingReq));
    let v5::Packet::Connect(connect, None, login) = v5::Packet::read(out, None).unwrap() else {
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

    let mut writer = Writer::new(Protocol::V311);
    writer.connect(&hello).unwrap();
    let v4::Packet::Connect(connect) = v4::Packet::read(writer.buffer(), 1000).unwrap() else {
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

#[test]
fn rejected_packets_leave_nothing_queued() {
    for protocol in [Protocol::V5, Protocol::V311] {
        let mut writer = Writer::new(protocol);
        let long = "x".repeat(65_536);
        let publish = Publish::new(long.clone(), QoS::AtMostOnce, "", None);
        let error = writer.publish(&publish).unwrap_err();
        assert!(
            matches!(error, WriteError::StringTooLong(65_536)),
            "{error}"
        );
        let publish = Publish::new("a", QoS::AtLeastOnce, "", None);
        let error = writer.publish(&publish).unwrap_err();
        assert!(matches!(error, WriteError::MissingPacketId), "{error}");
        let connect = Connect {
            client_id: long,
            ..Connect::default()
        };
        let error = writer.connect(&connect).unwrap_err();
        assert!(
            matches!(error, WriteError::StringTooLong(65_536)),
            "{error}"
        );
        assert!(writer.is_flushed());
    }
}
