//! A scripted MQTT broker over a real socket: the test decides what it answers and
//! sees what it receives, in order.
//!
//! [`Broker`] accepts connections, [`Peer`] is the broker's end of one. Both protocol
//! versions are spoken; to the test all packets look like those of MQTT 5.

mod v4;

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Login, Packet, PingResp,
    PubAck, PubRel, Publish, PublishProperties, SubAck, Subscribe, SubscribeReasonCode, UnsubAck,
    UnsubAckReason, Unsubscribe,
};
use rumqttc::v5::mqttbytes::{self, QoS};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::in_time;

const PINGRESP: [u8; 2] = [0xD0, 0x00];

/// A listener that accepts one connection after the other, as the test asks.
pub struct Broker {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Broker {
    /// On a free port.
    pub async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    /// At this address.
    pub async fn start_at(address: SocketAddr) -> Self {
        Self {
            listener: TcpListener::bind(address).await.unwrap(),
            tls: None,
        }
    }

    /// With TLS in front of MQTT.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsAcceptor) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Accepts the next connection and reads its CONNECT, without an answer.
    pub async fn accept_connect(&self) -> Peer {
        // With TLS, an attempt may have begun before a certificate was replaced.
        let stream = loop {
            match self.stream().await {
                Ok(stream) => break stream,
                Err(error) => assert!(self.tls.is_some(), "{error}"),
            }
        };
        let mut peer = Peer::of(stream);
        peer.version = peer.protocol_level().await;
        match peer.next().await {
            Packet::Connect(connect, None, login) => {
                (peer.connect, peer.login) = (Some(connect), login);
            }
            other => panic!("expected CONNECT, got {other:?}"),
        }
        peer
    }

    /// Accepts the next connection and answers its CONNECT with success.
    pub async fn accept(&self, session_present: bool) -> Peer {
        let mut peer = self.accept_connect().await;
        peer.send_connack(ConnAck {
            session_present,
            code: ConnectReturnCode::Success,
            properties: None,
        })
        .await;
        peer
    }

    /// [`Self::accept`], then grants the subscription.
    pub async fn accept_subscribed(&self, session_present: bool) -> Peer {
        let mut peer = self.accept(session_present).await;
        peer.grant_all().await;
        peer
    }

    /// Accepts a connection of which the client ends the TLS handshake.
    pub async fn expect_failed_handshake(&self) {
        let stream = self.stream().await;
        assert!(stream.is_err(), "the client trusts the broker");
    }

    /// Accepts a connection that the client closes without sending anything.
    pub async fn expect_probe(&self) {
        let accepted = in_time("a connection", self.listener.accept()).await;
        let (mut stream, _) = accepted.unwrap();
        let mut input = BytesMut::new();
        let read = in_time("its end", stream.read_buf(&mut input)).await;
        assert_eq!(read.unwrap(), 0, "{input:?}");
    }

    async fn stream(&self) -> std::io::Result<Box<dyn Stream>> {
        let accepted = in_time("a connection", self.listener.accept()).await;
        let (stream, _) = accepted.unwrap();
        stream.set_nodelay(true).unwrap();
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.accept(stream).await?),
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The broker's end of one connection. Pings are answered while it reads.
pub struct Peer {
    stream: Box<dyn Stream>,
    input: BytesMut,
    /// What the client sent first.
    pub connect: Option<Connect>,
    /// The user name and password in [`Self::connect`].
    pub login: Option<Login>,
    /// The protocol level in the CONNECT: 4 is MQTT 3.1.1, 5 is MQTT 5.
    pub version: u8,
    /// Pings answered so far.
    pings: usize,
}

impl Peer {
    /// The broker's end of a stream on which CONNECT was answered, with MQTT 5.
    #[must_use]
    pub fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self::of(Box::new(stream))
    }

    fn of(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            connect: None,
            login: None,
            version: 5,
            pings: 0,
        }
    }

    /// Answers the CONNECT.
    pub async fn send_connack(&mut self, ack: ConnAck) {
        self.send(Packet::ConnAck(ack)).await;
    }

    /// Reads a SUBSCRIBE and grants all of it; returns its filters.
    pub async fn grant_all(&mut self) -> Vec<String> {
        let Subscribe { pkid, filters, .. } = self.subscription().await;
        let granted = filters
            .iter()
            .map(|filter| SubscribeReasonCode::Success(filter.qos));
        self.grant(pkid, granted.collect()).await;
        filters.into_iter().map(|filter| filter.path).collect()
    }

    /// Reads an UNSUBSCRIBE and confirms it; returns its filters.
    pub async fn unsubscribe_all(&mut self) -> Vec<String> {
        let Unsubscribe { pkid, filters, .. } = self.unsubscription().await;
        let reasons = vec![UnsubAckReason::Success; filters.len()];
        self.unsubscribed(pkid, reasons).await;
        filters
    }

    /// Reads an UNSUBSCRIBE, without an answer.
    pub async fn unsubscription(&mut self) -> Unsubscribe {
        match self.next().await {
            Packet::Unsubscribe(unsubscribe) => unsubscribe,
            other => panic!("expected UNSUBSCRIBE, got {other:?}"),
        }
    }

    /// Answers an UNSUBSCRIBE.
    pub async fn unsubscribed(&mut self, pkid: u16, reasons: Vec<UnsubAckReason>) {
        self.send(Packet::UnsubAck(UnsubAck {
            pkid,
            reasons,
            properties: None,
        }))
        .await;
    }

    /// Waits until the client has closed the connection; until then it may only send pings.
    pub async fn closed(mut self) {
        let end = async {
            loop {
                match self.read() {
                    // It may have closed the connection since.
                    Some(Packet::PingReq(_)) => drop(self.stream.write_all(&PINGRESP).await),
                    Some(packet) => panic!("expected the end of the connection, got {packet:?}"),
                    None if self.stream.read_buf(&mut self.input).await.unwrap() == 0 => return,
                    None => {}
                }
            }
        };
        in_time("the end of the connection", end).await;
        assert!(self.input.is_empty(), "{:?}", self.input);
    }

    /// Reads a SUBSCRIBE, without an answer.
    pub async fn subscription(&mut self) -> Subscribe {
        match self.next().await {
            Packet::Subscribe(subscribe) => subscribe,
            other => panic!("expected SUBSCRIBE, got {other:?}"),
        }
    }

    /// Answers a SUBSCRIBE.
    pub async fn grant(&mut self, pkid: u16, return_codes: Vec<SubscribeReasonCode>) {
        self.send(Packet::SubAck(SubAck {
            pkid,
            return_codes,
            properties: None,
        }))
        .await;
    }

    /// Sends a message at quality of service 1.
    pub async fn publish(&mut self, pkid: u16, topic: &str, payload: &[u8]) {
        self.publish_at(QoS::AtLeastOnce, pkid, topic, payload)
            .await;
    }

    /// Sends a message at another quality of service.
    pub async fn publish_at(&mut self, qos: QoS, pkid: u16, topic: &str, payload: &[u8]) {
        let mut publish = Publish::new(topic, qos, payload.to_vec(), None);
        publish.pkid = pkid;
        self.send(Packet::Publish(publish)).await;
    }

    /// Sends a message at quality of service 1 again, with the DUP flag.
    pub async fn publish_again(&mut self, pkid: u16, topic: &str, payload: &[u8]) {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload.to_vec(), None);
        publish.pkid = pkid;
        publish.dup = true;
        self.send(Packet::Publish(publish)).await;
    }

    /// Sends a message at quality of service 1 with user properties.
    pub async fn publish_with(
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

    /// Sends a PUBACK.
    pub async fn acknowledge(&mut self, pkid: u16) {
        self.send(Packet::PubAck(PubAck::new(pkid, None))).await;
    }

    /// Sends a PUBREL.
    pub async fn release(&mut self, pkid: u16) {
        self.send(Packet::PubRel(PubRel::new(pkid, None))).await;
    }

    /// Reads `count` PUBACKs and nothing else; returns their packet identifiers.
    pub async fn acknowledgements(&mut self, count: usize) -> Vec<u16> {
        let mut ids = Vec::new();
        while ids.len() < count {
            match self.next().await {
                Packet::PubAck(ack) => ids.push(ack.pkid),
                other => panic!("expected PUBACK, got {other:?}"),
            }
        }
        ids
    }

    /// Answers `count` pings, and expects nothing else meanwhile.
    pub async fn only_pings(&mut self, count: usize) {
        let wanted = self.pings + count;
        let quiet = async {
            while self.pings < wanted {
                let packet = self.any().await;
                assert!(packet.is_none(), "expected only pings, got {packet:?}");
            }
        };
        in_time("pings", quiet).await;
    }

    /// Reads the next packet that is not a ping.
    pub async fn next(&mut self) -> Packet {
        let packet = async {
            loop {
                if let Some(packet) = self.any().await {
                    return packet;
                }
            }
        };
        in_time("a packet", packet).await
    }

    /// Reads one packet; `None` is a ping, which is answered.
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
        assert_ne!(read, 0, "the client closed the connection");
    }

    fn read(&mut self) -> Option<Packet> {
        // The codec does not accept a DISCONNECT without a reason.
        if self.input.starts_with(&[0xE0, 0x00]) {
            self.input.advance(2);
            let reason = DisconnectReasonCode::NormalDisconnection;
            return Some(Packet::Disconnect(Disconnect::new(reason)));
        }
        let packet = match self.version {
            4 => v4::read(&mut self.input),
            _ => Packet::read(&mut self.input, None),
        };
        match packet {
            Ok(packet) => Some(packet),
            Err(mqttbytes::Error::InsufficientBytes(_)) => None,
            Err(error) => panic!("the client sent an invalid packet: {error}"),
        }
    }

    /// The byte of the CONNECT that follows the protocol's name (MQTT-3.1.2.2).
    async fn protocol_level(&mut self) -> u8 {
        loop {
            let level = self.input.windows(5).find(|part| part.starts_with(b"MQTT"));
            if let Some(level) = level {
                return level[4];
            }
            self.more().await;
        }
    }

    /// Sends bytes as they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Sends a packet.
    pub async fn send(&mut self, packet: Packet) {
        let mut output = BytesMut::new();
        match self.version {
            4 => v4::write(packet, &mut output),
            _ => drop(packet.write(&mut output, None).unwrap()),
        }
        self.send_bytes(&output).await;
    }
}
