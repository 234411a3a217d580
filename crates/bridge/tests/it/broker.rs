//! A scripted MQTT broker over a real socket: the tests decide what it says
//! and see what it gets, in order.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectReturnCode, Packet, PingResp, PubRel, Publish, PublishProperties,
    SubAck, Subscribe, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{self, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Generous: only a broken bridge reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Broker(TcpListener);

impl Broker {
    pub(crate) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        Self(TcpListener::bind(address).await.unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Takes the bridge's next connection up to its subscription.
    pub(crate) async fn accept(&self, session_present: bool) -> Peer {
        let accepted = timeout(DEADLINE, self.0.accept());
        let (stream, _) = accepted.await.expect("the bridge connects").unwrap();
        stream.set_nodelay(true).unwrap();
        let mut peer = Peer {
            stream,
            input: BytesMut::new(),
            connect: None,
            pings: 0,
        };
        match peer.next().await {
            Packet::Connect(connect, None, _) => peer.connect = Some(connect),
            other => panic!("expected CONNECT, got {other:?}"),
        }
        peer.send(Packet::ConnAck(ConnAck {
            session_present,
            code: ConnectReturnCode::Success,
            properties: None,
        }))
        .await;
        peer
    }

    /// The same, and grants the subscription.
    pub(crate) async fn accept_subscribed(&self, session_present: bool) -> Peer {
        let mut peer = self.accept(session_present).await;
        let Subscribe { pkid, filters, .. } = peer.subscription().await;
        let granted = filters
            .iter()
            .map(|filter| SubscribeReasonCode::Success(filter.qos));
        peer.grant(pkid, granted.collect()).await;
        peer
    }
}

pub(crate) struct Peer {
    stream: TcpStream,
    input: BytesMut,
    pub(crate) connect: Option<Connect>,
    /// Pings answered so far.
    pub(crate) pings: usize,
}

impl Peer {
    pub(crate) async fn subscription(&mut self) -> Subscribe {
        match self.next().await {
            Packet::Subscribe(subscribe) => subscribe,
            other => panic!("expected SUBSCRIBE, got {other:?}"),
        }
    }

    pub(crate) async fn grant(&mut self, pkid: u16, return_codes: Vec<SubscribeReasonCode>) {
        self.send(Packet::SubAck(SubAck {
            pkid,
            return_codes,
            properties: None,
        }))
        .await;
    }

    pub(crate) async fn publish(&mut self, pkid: u16, topic: &str, payload: &[u8]) {
        self.publish_at(QoS::AtLeastOnce, pkid, topic, payload)
            .await;
    }

    pub(crate) async fn publish_at(&mut self, qos: QoS, pkid: u16, topic: &str, payload: &[u8]) {
        let mut publish = Publish::new(topic, qos, payload.to_vec(), None);
        publish.pkid = pkid;
        self.send(Packet::Publish(publish)).await;
    }

    pub(crate) async fn publish_with(
        &mut self,
        pkid: u16,
        topic: &str,
        payload: &[u8],
        user_properties: Vec<(String, String)>,
    ) {
        let properties = PublishProperties {
            user_properties,
            ..PublishProperties::default()
        };
        let payload = payload.to_vec();
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload, Some(properties));
        publish.pkid = pkid;
        self.send(Packet::Publish(publish)).await;
    }

    pub(crate) async fn release(&mut self, pkid: u16) {
        self.send(Packet::PubRel(PubRel::new(pkid, None))).await;
    }

    /// The identifiers of the next `count` PUBACKs.
    pub(crate) async fn acknowledgements(&mut self, count: usize) -> Vec<u16> {
        let mut ids = Vec::new();
        while ids.len() < count {
            match self.next().await {
                Packet::PubAck(ack) => ids.push(ack.pkid),
                other => panic!("expected PUBACK, got {other:?}"),
            }
        }
        ids
    }

    /// Answers pings until `count` of them came, and expects nothing else.
    pub(crate) async fn only_pings(&mut self, count: usize) {
        let wanted = self.pings + count;
        let quiet = async {
            while self.pings < wanted {
                let packet = self.any().await;
                assert!(packet.is_none(), "expected only pings, got {packet:?}");
            }
        };
        timeout(DEADLINE, quiet).await.expect("pings go on");
    }

    /// The next packet that is no ping; pings are answered.
    pub(crate) async fn next(&mut self) -> Packet {
        let packet = async {
            loop {
                if let Some(packet) = self.any().await {
                    return packet;
                }
            }
        };
        timeout(DEADLINE, packet)
            .await
            .expect("a packet from the bridge")
    }

    async fn any(&mut self) -> Option<Packet> {
        loop {
            // A DISCONNECT without a reason is more than the codec takes.
            if self.input.starts_with(&[0xE0, 0x00]) {
                return Some(Packet::Disconnect(
                    rumqttc::v5::mqttbytes::v5::Disconnect::new(
                        rumqttc::v5::mqttbytes::v5::DisconnectReasonCode::NormalDisconnection,
                    ),
                ));
            }
            match Packet::read(&mut self.input, None) {
                Ok(Packet::PingReq(_)) => {
                    self.pings += 1;
                    self.send(Packet::PingResp(PingResp)).await;
                    return None;
                }
                Ok(packet) => return Some(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {
                    let read = self.stream.read_buf(&mut self.input).await.unwrap();
                    assert_ne!(read, 0, "the bridge closed the connection");
                }
                Err(error) => panic!("the bridge sent something wrong: {error}"),
            }
        }
    }

    async fn send(&mut self, packet: Packet) {
        let mut output = BytesMut::new();
        packet.write(&mut output, None).unwrap();
        self.stream.write_all(&output).await.unwrap();
    }
}
