//! A scripted MQTT broker over a real socket: the tests decide what it says
//! and see what it gets, in order.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rumqttc::mqttbytes::{self as bytes4, v4};
use rumqttc::v5::mqttbytes::v5::{
    self, ConnAck, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter, Login,
    Packet, PingResp, PubRel, Publish, PublishProperties, SubAck, Subscribe, SubscribeReasonCode,
    UnsubAck, UnsubAckReason, Unsubscribe,
};
use rumqttc::v5::mqttbytes::{self, QoS};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Generous: only a broken bridge reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Broker {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        Self {
            listener: TcpListener::bind(address).await.unwrap(),
            tls: None,
        }
    }

    pub(crate) fn with_tls(mut self, tls: TlsAcceptor) -> Self {
        self.tls = Some(tls);
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Takes the bridge's next connection up to its CONNECT.
    pub(crate) async fn greeted(&self) -> Peer {
        // An attempt may have begun before a certificate was replaced.
        let stream = loop {
            match self.stream().await {
                Ok(stream) => break stream,
                Err(error) => assert!(self.tls.is_some(), "{error}"),
            }
        };
        let mut peer = Peer {
            stream,
            input: BytesMut::new(),
            connect: None,
            login: None,
            version: 5,
            pings: 0,
        };
        peer.version = peer.protocol_level().await;
        match peer.next().await {
            Packet::Connect(connect, None, login) => {
                (peer.connect, peer.login) = (Some(connect), login);
            }
            other => panic!("expected CONNECT, got {other:?}"),
        }
        peer
    }

    async fn stream(&self) -> std::io::Result<Box<dyn Stream>> {
        let accepted = timeout(DEADLINE, self.listener.accept());
        let (stream, _) = accepted.await.expect("the bridge connects").unwrap();
        stream.set_nodelay(true).unwrap();
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.accept(stream).await?),
        })
    }

    /// Takes a connection of which the bridge ends the TLS handshake.
    pub(crate) async fn refused(&self) {
        assert!(self.stream().await.is_err(), "the bridge trusts the broker");
    }

    /// Takes a connection that ends without a word.
    pub(crate) async fn looked_at(&self) {
        let accepted = timeout(DEADLINE, self.listener.accept());
        let (mut stream, _) = accepted.await.expect("the bridge looks").unwrap();
        let read = timeout(DEADLINE, stream.read_buf(&mut BytesMut::new())).await;
        assert_eq!(read.expect("an end").unwrap(), 0);
    }

    /// The same as [`Self::greeted`], and consents.
    pub(crate) async fn accept(&self, session_present: bool) -> Peer {
        let mut peer = self.greeted().await;
        let code = ConnectReturnCode::Success;
        peer.consent(ConnAck {
            session_present,
            code,
            properties: None,
        })
        .await;
        peer
    }

    /// The same, and grants the subscription.
    pub(crate) async fn accept_subscribed(&self, session_present: bool) -> Peer {
        let mut peer = self.accept(session_present).await;
        peer.grant_all().await;
        peer
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(crate) struct Peer {
    stream: Box<dyn Stream>,
    input: BytesMut,
    pub(crate) connect: Option<Connect>,
    pub(crate) login: Option<Login>,
    /// 4 is MQTT 3.1.1; packets look like those of 5 here.
    pub(crate) version: u8,
    /// Pings answered so far.
    pub(crate) pings: usize,
}

impl Peer {
    pub(crate) async fn consent(&mut self, ack: ConnAck) {
        self.send(Packet::ConnAck(ack)).await;
    }

    /// Grants the next subscription, and tells its filters.
    pub(crate) async fn grant_all(&mut self) -> Vec<String> {
        let Subscribe { pkid, filters, .. } = self.subscription().await;
        let granted = filters
            .iter()
            .map(|filter| SubscribeReasonCode::Success(filter.qos));
        self.grant(pkid, granted.collect()).await;
        filters.into_iter().map(|filter| filter.path).collect()
    }

    /// Takes the next UNSUBSCRIBE, answers it, and tells its filters.
    pub(crate) async fn release_all(&mut self) -> Vec<String> {
        let Packet::Unsubscribe(Unsubscribe { pkid, filters, .. }) = self.next().await else {
            panic!("expected UNSUBSCRIBE");
        };
        self.send(Packet::UnsubAck(UnsubAck {
            pkid,
            reasons: vec![UnsubAckReason::Success; filters.len()],
            properties: None,
        }))
        .await;
        filters
    }

    /// Waits until the bridge has closed the connection.
    pub(crate) async fn closed(mut self) {
        let mut rest = Vec::new();
        let end = timeout(DEADLINE, self.stream.read_to_end(&mut rest));
        end.await.expect("the bridge closes").unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }

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

    /// The same message, delivered again.
    pub(crate) async fn publish_again(&mut self, pkid: u16, topic: &str, payload: &[u8]) {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload.to_vec(), None);
        publish.pkid = pkid;
        publish.dup = true;
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
            match self.read() {
                Some(Packet::PingReq(_)) => {
                    self.pings += 1;
                    self.send(Packet::PingResp(PingResp)).await;
                    return None;
                }
                Some(packet) => return Some(packet),
                None => self.more().await,
            }
        }
    }

    async fn more(&mut self) {
        let read = self.stream.read_buf(&mut self.input).await.unwrap();
        assert_ne!(read, 0, "the bridge closed the connection");
    }

    fn read(&mut self) -> Option<Packet> {
        // A DISCONNECT without a reason is more than the codec takes.
        if self.input.starts_with(&[0xE0, 0x00]) {
            self.input.advance(2);
            let reason = DisconnectReasonCode::NormalDisconnection;
            return Some(Packet::Disconnect(Disconnect::new(reason)));
        }
        if self.version == 4 {
            return match v4::Packet::read(&mut self.input, 1 << 20) {
                Ok(packet) => Some(from_v4(packet)),
                Err(bytes4::Error::InsufficientBytes(_)) => None,
                Err(error) => panic!("the bridge sent something wrong: {error}"),
            };
        }
        match Packet::read(&mut self.input, None) {
            Ok(packet) => Some(packet),
            Err(mqttbytes::Error::InsufficientBytes(_)) => None,
            Err(error) => panic!("the bridge sent something wrong: {error}"),
        }
    }

    /// Of the CONNECT that comes first: it follows the name of the protocol.
    async fn protocol_level(&mut self) -> u8 {
        loop {
            let level = self.input.windows(5).find(|part| part.starts_with(b"MQTT"));
            if let Some(level) = level {
                return level[4];
            }
            self.more().await;
        }
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn send(&mut self, packet: Packet) {
        let mut output = BytesMut::new();
        match self.version {
            4 => drop(to_v4(packet).write(&mut output, usize::MAX).unwrap()),
            _ => drop(packet.write(&mut output, None).unwrap()),
        }
        self.send_bytes(&output).await;
    }
}

fn from_v4(packet: v4::Packet) -> Packet {
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
        other => panic!("the bridge does not send {other:?}"),
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
        other => panic!("a test does not send {other:?}"),
    }
}
