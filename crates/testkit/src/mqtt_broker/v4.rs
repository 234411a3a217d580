//! Packets of MQTT 3.1.1, which tests see as those of MQTT 5.

use bytes::BytesMut;
use rumqttc::mqttbytes::{self as bytes4, v4};
use rumqttc::v5::mqttbytes::v5::{self, Connect, Filter, Login, Packet, Subscribe};
use rumqttc::v5::mqttbytes::v5::{SubscribeReasonCode, Unsubscribe};
use rumqttc::v5::mqttbytes::{self, QoS};

/// The longest packet that a client may send.
const LIMIT: usize = 1 << 20;

pub(super) fn read(input: &mut BytesMut) -> Result<Packet, mqttbytes::Error> {
    match v4::Packet::read(input, LIMIT) {
        Ok(packet) => Ok(to_v5(packet)),
        Err(bytes4::Error::InsufficientBytes(missing)) => {
            Err(mqttbytes::Error::InsufficientBytes(missing))
        }
        Err(error) => panic!("the client sent an invalid packet: {error}"),
    }
}

pub(super) fn write(packet: Packet, output: &mut BytesMut) {
    to_v4(packet).write(output, usize::MAX).unwrap();
}

fn to_v5(packet: v4::Packet) -> Packet {
    let qos = |qos: bytes4::QoS| mqttbytes::qos(qos as u8).unwrap();
    match packet {
        v4::Packet::Connect(connect) => Packet::Connect(
            Connect {
                keep_alive: connect.keep_alive,
                client_id: connect.client_id,
                clean_start: connect.clean_session,
                properties: None,
            },
            None,
            connect
                .login
                .map(|login| Login::new(login.username, login.password)),
        ),
        v4::Packet::Subscribe(subscribe) => {
            let filters = subscribe.filters.into_iter();
            let filters = filters.map(|filter| Filter::new(filter.path, qos(filter.qos)));
            Packet::Subscribe(Subscribe {
                pkid: subscribe.pkid,
                filters: filters.collect(),
                properties: None,
            })
        }
        v4::Packet::Unsubscribe(unsubscribe) => Packet::Unsubscribe(Unsubscribe {
            pkid: unsubscribe.pkid,
            filters: unsubscribe.topics,
            properties: None,
        }),
        v4::Packet::PubAck(ack) => Packet::PubAck(v5::PubAck::new(ack.pkid, None)),
        v4::Packet::PubRec(ack) => Packet::PubRec(v5::PubRec::new(ack.pkid, None)),
        v4::Packet::PubComp(ack) => Packet::PubComp(v5::PubComp::new(ack.pkid, None)),
        v4::Packet::PingReq => Packet::PingReq(v5::PingReq),
        other => panic!("a client does not send {other:?}"),
    }
}

fn to_v4(packet: Packet) -> v4::Packet {
    let qos = |qos: QoS| bytes4::qos(qos as u8).unwrap();
    match packet {
        Packet::ConnAck(ack) => v4::Packet::ConnAck(v4::ConnAck::new(
            v4::ConnectReturnCode::Success,
            ack.session_present,
        )),
        Packet::SubAck(ack) => {
            let codes = ack.return_codes.into_iter().map(|code| match code {
                SubscribeReasonCode::Success(granted) => {
                    v4::SubscribeReasonCode::Success(qos(granted))
                }
                _ => v4::SubscribeReasonCode::Failure,
            });
            v4::Packet::SubAck(v4::SubAck::new(ack.pkid, codes.collect()))
        }
        Packet::UnsubAck(ack) => v4::Packet::UnsubAck(v4::UnsubAck::new(ack.pkid)),
        Packet::Publish(publish) => {
            let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
            v4::Packet::Publish(v4::Publish {
                pkid: publish.pkid,
                ..v4::Publish::from_bytes(topic, qos(publish.qos), publish.payload)
            })
        }
        Packet::PubRel(release) => v4::Packet::PubRel(v4::PubRel::new(release.pkid)),
        Packet::PingResp(_) => v4::Packet::PingResp,
        other => panic!("no test sends {other:?}"),
    }
}
