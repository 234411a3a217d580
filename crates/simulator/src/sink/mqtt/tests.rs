//! The session with a scripted broker.

use std::time::Duration;

use bytes::BytesMut;
use iot_service::config::HumanDuration;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, Packet, PubAck, PubComp, PubRec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::tests::batch;
use super::*;

/// One accepted connection, from the broker's side.
struct Peer {
    stream: TcpStream,
    inbox: BytesMut,
}

impl Peer {
    async fn accept(listener: &TcpListener) -> Self {
        let mut peer = Self {
            stream: listener.accept().await.unwrap().0,
            inbox: BytesMut::new(),
        };
        assert!(matches!(peer.read().await, Packet::Connect(..)));
        let ack = ConnAck {
            session_present: false,
            code: ConnectReturnCode::Success,
            properties: None,
        };
        peer.write(Packet::ConnAck(ack)).await;
        peer
    }

    async fn read(&mut self) -> Packet {
        loop {
            if let Ok(packet) = Packet::read(&mut self.inbox, None) {
                return packet;
            }
            assert_ne!(self.stream.read_buf(&mut self.inbox).await.unwrap(), 0);
        }
    }

    /// Payload and packet id of the next message.
    async fn message(&mut self) -> (String, u16) {
        match self.read().await {
            Packet::Publish(publish) => {
                let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                (payload, publish.pkid)
            }
            other => panic!("{other:?} is not a message"),
        }
    }

    async fn write(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        packet.write(&mut out, None).unwrap();
        self.stream.write_all(&out).await.unwrap();
    }

    /// A DISCONNECT with a reason and without properties, as Mosquitto sends it.
    async fn disconnect(&mut self) {
        const SERVER_SHUTTING_DOWN: u8 = 0x8B;
        let packet = [0xE0, 1, SERVER_SHUTTING_DOWN];
        self.stream.write_all(&packet).await.unwrap();
    }

    async fn acknowledge(&mut self, id: u16, reason: PubAckReason) {
        let mut ack = PubAck::new(id, None);
        ack.reason = reason;
        self.write(Packet::PubAck(ack)).await;
    }
}

async fn broker(change: impl FnOnce(&mut MqttConfig)) -> (TcpListener, MqttConfig) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = MqttConfig {
        brokers: vec![format!("tcp://{}", listener.local_addr().unwrap())],
        connections: 1,
        ..MqttConfig::default()
    };
    change(&mut config);
    (listener, config)
}

fn metrics() -> Metrics {
    let registry = prometheus::Registry::new();
    Metrics::new(&registry, crate::config::SinkKind::Mqtt).unwrap()
}

async fn session(config: &MqttConfig) -> Session {
    let health = iot_service::health::Health::default().component("mqtt");
    let config = SimulatorConfig {
        mqtt: config.clone(),
        ..SimulatorConfig::default()
    };
    open(&config, &metrics(), &health).await.remove(0)
}

#[tokio::test]
async fn only_unacknowledged_messages_are_sent_again() {
    let (listener, config) = broker(|_| {}).await;
    let peer = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        let mut first = Vec::new();
        for _ in 0..4 {
            first.push(peer.message().await);
        }
        // Acknowledged out of order, and then the line is cut.
        for id in [3, 1] {
            peer.acknowledge(id, PubAckReason::Success).await;
        }
        drop(peer);
        let mut peer = Peer::accept(&listener).await;
        let mut second = Vec::new();
        for _ in 0..2 {
            let (payload, id) = peer.message().await;
            peer.acknowledge(id, PubAckReason::Success).await;
            second.push((payload, id));
        }
        (first, second)
    });
    let mut session = session(&config).await;
    let batch = batch(&["a", "b", "c", "d"]);
    session.begin(&batch);
    let broken = session.attempt(&batch).await.expect_err("the line is cut");
    let unanswered = matches!(broken, SendError::Unanswered { messages: 2, .. });
    assert!(unanswered, "{broken:?}");
    assert_eq!(session.give_up(&batch), (2, Sent { refused: 0 }));
    assert_eq!(session.attempt(&batch).await.unwrap(), Sent { refused: 0 });
    let (first, second) = peer.await.unwrap();
    let named = |names: &[(&str, u16)]| -> Vec<(String, u16)> {
        names
            .iter()
            .map(|(name, id)| ((*name).into(), *id))
            .collect()
    };
    assert_eq!(first, named(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]));
    assert_eq!(second, named(&[("b", 2), ("d", 4)]));
}

#[tokio::test]
async fn no_more_than_the_window_is_in_flight() {
    let (listener, config) = broker(|config| config.in_flight = 2).await;
    let peer = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        for _ in 0..2 {
            let (_, one) = peer.message().await;
            let (_, other) = peer.message().await;
            // A third message would be here before the acknowledgements.
            assert!(Packet::read(&mut peer.inbox, None).is_err());
            peer.acknowledge(one, PubAckReason::Success).await;
            peer.acknowledge(other, PubAckReason::Success).await;
        }
    });
    let mut session = session(&config).await;
    let batch = batch(&["a", "b", "c", "d"]);
    session.begin(&batch);
    session.attempt(&batch).await.unwrap();
    peer.await.unwrap();
}

#[tokio::test]
async fn a_rejected_message_is_counted_and_does_not_stop_the_others() {
    let (listener, config) = broker(|_| {}).await;
    let peer = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        for reason in [
            PubAckReason::NoMatchingSubscribers,
            PubAckReason::NotAuthorized,
        ] {
            let (_, id) = peer.message().await;
            peer.acknowledge(id, reason).await;
        }
    });
    let mut session = session(&config).await;
    let batch = batch(&["a", "b"]);
    session.begin(&batch);
    assert_eq!(session.attempt(&batch).await.unwrap(), Sent { refused: 1 });
    peer.await.unwrap();
}

#[tokio::test]
async fn a_message_carries_topic_content_type_and_label() {
    let (listener, config) = broker(|_| {}).await;
    let peer = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        let Packet::Publish(publish) = peer.read().await else {
            panic!("not a message");
        };
        peer.acknowledge(publish.pkid, PubAckReason::Success).await;
        publish
    });
    let mut session = session(&config).await;
    let batch = batch(&["spike"]);
    session.begin(&batch);
    session.attempt(&batch).await.unwrap();
    let publish = peer.await.unwrap();
    assert_eq!(publish.topic, "mtic/msg/client/realtime/acme/plant");
    assert_eq!(publish.qos, QoS::AtLeastOnce);
    let properties = publish.properties.unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    let labels = vec![("iot-label".to_owned(), "temperature=spike".to_owned())];
    assert_eq!(properties.user_properties, labels);
}

#[tokio::test]
async fn an_acknowledgement_of_an_unsent_message_ends_the_connection() {
    let (listener, config) = broker(|_| {}).await;
    let peer = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        peer.message().await;
        peer.acknowledge(7, PubAckReason::Success).await;
        Peer::accept(&listener).await;
    });
    let mut session = session(&config).await;
    let batch = batch(&["a"]);
    session.begin(&batch);
    assert!(session.attempt(&batch).await.is_err());
    session.attend().await.unwrap();
    assert!(session.connection.is_some(), "connected again");
    peer.await.unwrap();
}

#[tokio::test]
async fn an_idle_session_pings_and_reports_a_broker_that_does_not_answer() {
    let (listener, config) = broker(|config| {
        config.keep_alive = HumanDuration::from_secs(1);
        config.request_timeout = HumanDuration::from_millis(300);
    })
    .await;
    let peer = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        peer.read().await
    });
    let mut session = session(&config).await;
    let error = loop {
        session.idle().await;
        if let Err(error) = session.attend().await {
            break error.to_string();
        }
    };
    assert!(
        error.contains("ping") || error.contains("closed"),
        "{error}"
    );
    let answer = tokio::time::timeout(Duration::from_secs(30), peer).await;
    assert!(matches!(answer.unwrap().unwrap(), Packet::PingReq(_)));
}

#[tokio::test]
async fn a_message_of_qos_2_is_done_once_it_is_complete() {
    let (listener, config) = broker(|config| config.qos = 2).await;
    let peer = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        for expected in ["a", "b", "c"] {
            assert_eq!(peer.message().await.0, expected);
        }
        let mut refused = PubRec::new(2, None);
        refused.reason = PubRecReason::QuotaExceeded;
        peer.write(Packet::PubRec(refused)).await;
        for id in [1, 3] {
            peer.write(Packet::PubRec(PubRec::new(id, None))).await;
            match peer.read().await {
                Packet::PubRel(release) => assert_eq!(release.pkid, id),
                other => panic!("{other:?} does not release {id}"),
            }
            peer.write(Packet::PubComp(PubComp::new(id, None))).await;
        }
    });
    let mut session = session(&config).await;
    let batch = batch(&["a", "b", "c"]);
    session.begin(&batch);
    let sent = session.attempt(&batch).await.unwrap();
    assert_eq!(sent, Sent { refused: 1 });
    peer.await.unwrap();
}

#[tokio::test]
async fn messages_of_qos_0_have_no_answers() {
    let (listener, config) = broker(|config| {
        (config.qos, config.in_flight) = (0, 2);
    })
    .await;
    let peer = tokio::spawn(async move {
        // One that hangs up before anything is written.
        drop(Peer::accept(&listener).await);
        let mut peer = Peer::accept(&listener).await;
        for expected in ["a", "b", "c", "d", "e"] {
            assert_eq!(peer.message().await.0, expected);
        }
    });
    let mut session = session(&config).await;
    let batch = batch(&["a", "b", "c", "d", "e"]);
    session.connection.as_mut().unwrap().wait().await;
    session.begin(&batch);
    let broken = session.attempt(&batch).await.expect_err("it is gone");
    assert!(matches!(broken, SendError::Retry(_)), "{broken:?}");
    assert_eq!(session.attempt(&batch).await.unwrap(), Sent::default());
    peer.await.unwrap();
}

/// The broker keeps the connection open: only its DISCONNECT ends it.
#[tokio::test]
async fn a_disconnect_ends_the_connection_and_the_session_reconnects() {
    let (listener, config) = broker(|_| {}).await;
    let peer = tokio::spawn(async move {
        let mut first = Peer::accept(&listener).await;
        first.message().await;
        first.disconnect().await;
        let mut second = Peer::accept(&listener).await;
        let (payload, id) = second.message().await;
        second.acknowledge(id, PubAckReason::Success).await;
        drop(first);
        payload
    });
    let mut session = session(&config).await;
    let batch = batch(&["a"]);
    session.begin(&batch);
    let ended = session.attempt(&batch).await.expect_err("it is ended");
    assert!(ended.to_string().contains("ServerShuttingDown"), "{ended}");
    assert_eq!(session.attempt(&batch).await.unwrap(), Sent { refused: 0 });
    assert_eq!(peer.await.unwrap(), "a");
}

#[tokio::test]
async fn a_disconnect_of_an_idle_session_is_reported() {
    let (listener, config) = broker(|_| {}).await;
    let peer = tokio::spawn(async move {
        let mut first = Peer::accept(&listener).await;
        first.disconnect().await;
        let second = Peer::accept(&listener).await;
        (first, second)
    });
    let mut session = session(&config).await;
    session.idle().await;
    let ended = session.attend().await.expect_err("it is ended");
    assert!(ended.to_string().contains("ServerShuttingDown"), "{ended}");
    session.idle().await;
    session.attend().await.unwrap();
    assert!(session.connection.is_some(), "reconnected");
    peer.await.unwrap();
}

#[tokio::test]
async fn failed_attempts_to_connect_are_errors() {
    let (listener, config) = broker(|_| {}).await;
    let config = SimulatorConfig {
        mqtt: config,
        ..SimulatorConfig::default()
    };
    let peer = tokio::spawn(async move {
        for _ in 0..2 {
            drop(listener.accept().await.unwrap());
        }
        Peer::accept(&listener).await
    });
    let health = iot_service::health::Health::default().component("mqtt");
    let metrics = metrics();
    open(&config, &metrics, &health).await;
    peer.await.unwrap();
    assert_eq!(metrics.send_errors.get(), 2);
}

#[tokio::test]
async fn the_password_file_is_read_at_every_connection() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (listener, config) = broker(|config| {
        config.username = "me".into();
        config.password_file = file.path().to_str().unwrap().into();
    })
    .await;
    let peer = tokio::spawn(async move {
        let mut passwords = Vec::new();
        for _ in 0..2 {
            let mut peer = Peer {
                stream: listener.accept().await.unwrap().0,
                inbox: BytesMut::new(),
            };
            let Packet::Connect(_, _, Some(login)) = peer.read().await else {
                panic!("no login");
            };
            passwords.push(login.password);
            let ack = ConnAck {
                session_present: false,
                code: ConnectReturnCode::Success,
                properties: None,
            };
            peer.write(Packet::ConnAck(ack)).await;
        }
        passwords
    });
    for password in ["one\n", "two"] {
        std::fs::write(file.path(), password).unwrap();
        connect(&config, "me").await.unwrap();
    }
    assert_eq!(peer.await.unwrap(), ["one", "two"]);
    std::fs::remove_file(file.path()).unwrap();
    let error = format!("{:#}", connect(&config, "me").await.unwrap_err());
    assert!(error.contains("reading mqtt.password_file"), "{error}");
}
