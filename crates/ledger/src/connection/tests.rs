//! The publisher with a scripted broker over a real socket.

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Packet, PingResp, PubAck,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::payload::Found;

const RUN: &str = "r1";

struct Broker {
    listener: TcpListener,
}

/// The broker's end of one connection.
struct Peer {
    stream: TcpStream,
    input: BytesMut,
}

impl Broker {
    async fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    fn job(&self, messages: u64, window: u16) -> Job {
        Job {
            url: format!("mqtt://{}", self.listener.local_addr().unwrap())
                .parse()
                .unwrap(),
            login: None,
            topic: Bytes::from_static(b"a/b"),
            run: RUN.to_owned(),
            conn: 7,
            messages,
            limit: Arc::new(AtomicU64::new(u64::MAX)),
            payload_size: 300,
            window,
            pace: Pace::Max,
            patience: Duration::from_secs(30),
        }
    }

    /// Accepts a connection and answers its CONNECT.
    async fn accept(&self, receive_max: Option<u16>) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut peer = Peer {
            stream,
            input: BytesMut::new(),
        };
        let Packet::Connect(connect, _, _) = peer.packet().await.unwrap() else {
            panic!("no CONNECT")
        };
        assert_eq!(connect.client_id, "ledger-r1-7");
        let properties = receive_max.map(|receive_max| ConnAckProperties {
            receive_max: Some(receive_max),
            session_expiry_interval: None,
            max_qos: None,
            retain_available: None,
            max_packet_size: None,
            assigned_client_identifier: None,
            topic_alias_max: None,
            reason_string: None,
            user_properties: Vec::new(),
            wildcard_subscription_available: None,
            subscription_identifiers_available: None,
            shared_subscription_available: None,
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        });
        peer.send(Packet::ConnAck(ConnAck {
            session_present: false,
            code: ConnectReturnCode::Success,
            properties,
        }))
        .await;
        peer
    }
}

impl Peer {
    async fn send(&mut self, packet: Packet) {
        let mut output = BytesMut::new();
        packet.write(&mut output, None).unwrap();
        self.stream.write_all(&output).await.unwrap();
    }

    /// `None` once the client has disconnected.
    async fn packet(&mut self) -> Option<Packet> {
        loop {
            // The codec writes a DISCONNECT without a body, but cannot read it.
            if self.input[..] == [0xe0, 0] {
                return None;
            }
            if let Ok(packet) = Packet::read(&mut self.input, None) {
                return Some(packet);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// The next message: its packet identifier and number.
    async fn message(&mut self) -> (u16, u64) {
        loop {
            match self.packet().await.expect("the client has disconnected") {
                Packet::Publish(publish) => {
                    assert_eq!(
                        (&publish.topic[..], publish.qos),
                        (&b"a/b"[..], QoS::AtLeastOnce)
                    );
                    let Found::Ours(mark) =
                        payload::decode(&publish.payload, RUN, &mut String::new())
                    else {
                        panic!("not a payload of the run");
                    };
                    return (publish.pkid, mark.seq);
                }
                Packet::PingReq(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn ack(&mut self, pkid: u16, reason: PubAckReason) {
        self.send(Packet::PubAck(PubAck {
            pkid,
            reason,
            properties: None,
        }))
        .await;
    }

    /// Acknowledges every message until the client disconnects; returns their numbers.
    async fn ack_all(&mut self) -> Vec<u64> {
        let mut seen = Vec::new();
        loop {
            match self.packet().await {
                Some(Packet::Publish(publish)) => {
                    let Found::Ours(mark) =
                        payload::decode(&publish.payload, RUN, &mut String::new())
                    else {
                        panic!("not a payload of the run");
                    };
                    seen.push(mark.seq);
                    self.ack(publish.pkid, PubAckReason::Success).await;
                }
                None => return seen,
                Some(_) => {}
            }
        }
    }
}

#[tokio::test]
async fn sends_everything_once_and_in_order() {
    let broker = Broker::new().await;
    let publishing = tokio::spawn(publish(broker.job(70_000, 500)));
    let seen = broker.accept(None).await.ack_all().await;
    assert!(seen.into_iter().eq(0..70_000));
    let outcome = publishing.await.unwrap();
    assert_eq!(
        (outcome.published, outcome.acked, outcome.resent),
        (70_000, 70_000, 0)
    );
    assert_eq!(outcome.ack_latency.percentiles().unwrap().count, 70_000);
    assert_eq!(outcome.error, None);
}

#[tokio::test]
async fn a_lowered_limit_ends_the_job_once_all_is_acknowledged() {
    let broker = Broker::new().await;
    let job = broker.job(1000, 2);
    let limit = job.limit.clone();
    let publishing = tokio::spawn(publish(job));
    let mut peer = broker.accept(None).await;
    let (first, second) = (peer.message().await, peer.message().await);
    limit.store(3, Ordering::Relaxed);
    peer.ack(first.0, PubAckReason::Success).await;
    peer.ack(second.0, PubAckReason::Success).await;
    assert_eq!(peer.ack_all().await, [2]);
    let outcome = publishing.await.unwrap();
    assert_eq!((outcome.published, outcome.acked), (3, 3));
}

#[tokio::test]
async fn keeps_to_the_window_that_the_broker_asks_for() {
    let broker = Broker::new().await;
    let publishing = tokio::spawn(publish(broker.job(5, 500)));
    let mut peer = broker.accept(Some(2)).await;
    let (first, _) = peer.message().await;
    peer.message().await;
    // Only an acknowledgement makes room: the next packet is not a third message.
    let third = timeout(Duration::from_millis(100), peer.message()).await;
    assert!(third.is_err(), "{third:?}");
    peer.ack(first, PubAckReason::Success).await;
    let (pkid, seq) = peer.message().await;
    assert_eq!(seq, 2);
    peer.ack(2, PubAckReason::Success).await;
    peer.ack(pkid, PubAckReason::Success).await;
    assert_eq!(peer.ack_all().await, [3, 4]);
    assert_eq!(publishing.await.unwrap().acked, 5);
}

#[tokio::test]
async fn a_lost_connection_repeats_exactly_what_was_not_acknowledged() {
    let broker = Broker::new().await;
    let publishing = tokio::spawn(publish(broker.job(6, 4)));
    let mut peer = broker.accept(None).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(peer.message().await.0);
    }
    peer.ack(ids[0], PubAckReason::Success).await;
    peer.ack(ids[2], PubAckReason::Success).await;
    // Its arrival shows that the acknowledgements were read.
    assert_eq!(peer.message().await.1, 4);
    drop(peer);
    assert_eq!(broker.accept(None).await.ack_all().await, [1, 3, 4, 5]);
    let outcome = publishing.await.unwrap();
    assert_eq!(
        (outcome.published, outcome.acked, outcome.resent),
        (6, 6, 3)
    );
    assert_eq!((outcome.connects, outcome.error), (2, None));
}

#[tokio::test]
async fn a_connection_lost_after_the_last_acknowledgement_is_no_error() {
    let broker = Broker::new().await;
    let publishing = tokio::spawn(publish(broker.job(2, 1)));
    let mut peer = broker.accept(None).await;
    for _ in 0..2 {
        let (pkid, _) = peer.message().await;
        peer.ack(pkid, PubAckReason::Success).await;
    }
    drop((peer, broker));
    let outcome = publishing.await.unwrap();
    assert_eq!((outcome.acked, outcome.error), (2, None));
}

#[tokio::test]
async fn refusals_are_not_acknowledgements() {
    let broker = Broker::new().await;
    let publishing = tokio::spawn(publish(broker.job(3, 3)));
    let mut peer = broker.accept(None).await;
    for reason in [
        PubAckReason::NotAuthorized,
        PubAckReason::NoMatchingSubscribers,
        PubAckReason::Success,
    ] {
        let (pkid, _) = peer.message().await;
        peer.ack(pkid, reason).await;
    }
    let outcome = publishing.await.unwrap();
    assert_eq!(
        (outcome.refused, outcome.unmatched, outcome.acked),
        (1, 1, 2)
    );
}

#[tokio::test]
async fn gives_up_when_nothing_is_acknowledged() {
    let broker = Broker::new().await;
    let mut job = broker.job(3, 3);
    job.patience = Duration::from_millis(50);
    let publishing = tokio::spawn(publish(job));
    let mut peer = broker.accept(None).await;
    peer.message().await;
    let outcome = publishing.await.unwrap();
    assert_eq!((outcome.published, outcome.acked), (3, 0));
    assert_eq!(
        outcome.error.as_deref(),
        Some("3 messages are not acknowledged")
    );
}

#[tokio::test]
async fn an_acknowledgement_of_an_unsent_message_ends_the_connection_and_is_not_counted() {
    let broker = Broker::new().await;
    let publishing = tokio::spawn(publish(broker.job(1, 3)));
    let mut peer = broker.accept(None).await;
    peer.message().await;
    peer.ack(99, PubAckReason::Success).await;
    assert_eq!(broker.accept(None).await.ack_all().await, [0]);
    let outcome = publishing.await.unwrap();
    assert_eq!((outcome.acked, outcome.connects), (1, 2));
}

/// The broker keeps the connection open and answers pings: only its DISCONNECT,
/// with a reason and without properties as Mosquitto sends it, ends the connection.
#[tokio::test]
async fn a_disconnect_ends_the_connection_and_the_publisher_reconnects() {
    const SERVER_SHUTTING_DOWN: u8 = 0x8B;
    let broker = Broker::new().await;
    let publishing = tokio::spawn(publish(broker.job(1, 3)));
    let mut first = broker.accept(None).await;
    first.message().await;
    let disconnect = [0xE0, 1, SERVER_SHUTTING_DOWN];
    first.stream.write_all(&disconnect).await.unwrap();
    let answering = async {
        while let Some(packet) = first.packet().await {
            assert!(matches!(packet, Packet::PingReq(_)), "{packet:?}");
            first.send(Packet::PingResp(PingResp)).await;
        }
        std::future::pending().await
    };
    let mut second = tokio::select! {
        peer = broker.accept(None) => peer,
        () = answering => unreachable!(),
        () = sleep(Duration::from_secs(60)) => panic!("no second connection"),
    };
    assert_eq!(second.ack_all().await, [0]);
    let outcome = publishing.await.unwrap();
    assert_eq!((outcome.acked, outcome.connects), (1, 2));
}

#[test]
fn a_rate_sets_the_sending_times() {
    let start = Instant::now();
    let pace = Pace::Every {
        start,
        start_us: 1_000_000,
        first: 0.5,
        step: 0.25,
    };
    assert_eq!(pace.due(0), Some(start + Duration::from_millis(500)));
    assert_eq!(pace.due(4), Some(start + Duration::from_millis(1500)));
    assert_eq!(pace.sent_us(4), 2_500_000);
    assert_eq!(Pace::Max.due(9), None);
}
