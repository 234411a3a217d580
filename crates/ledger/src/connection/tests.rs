//! The publisher with a scripted broker over a real socket.

use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Packet, PubAck, Publish,
};
use testkit::mqtt_broker::{Broker, Peer};
use tokio::time::timeout;

use super::*;
use crate::payload::Found;

const RUN: &str = "r1";

fn job(broker: &Broker, messages: u64, window: u16) -> Job {
    Job {
        url: format!("mqtt://{}", broker.address()).parse().unwrap(),
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

/// Accepts the publisher's connection.
async fn accept(broker: &Broker, receive_max: Option<u16>) -> Peer {
    let mut peer = broker.accept_connect().await;
    let connect = peer.connect.as_ref().expect("CONNECT was read");
    assert_eq!(connect.client_id, "ledger-r1-7");
    let properties = ConnAckProperties {
        receive_max,
        ..no_properties()
    };
    peer.send_connack(ConnAck {
        session_present: false,
        code: ConnectReturnCode::Success,
        properties: Some(properties),
    })
    .await;
    peer
}

fn no_properties() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
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
    }
}

/// The number of a message of the run.
fn number(publish: &Publish) -> u64 {
    let found = payload::decode(&publish.payload, RUN, &mut String::new());
    let Found::Ours(mark) = found else {
        panic!("not a payload of the run");
    };
    mark.seq
}

/// The next message: its packet identifier and number.
async fn message(peer: &mut Peer) -> (u16, u64) {
    match peer.next().await {
        Packet::Publish(publish) => {
            let address = (&publish.topic[..], publish.qos);
            assert_eq!(address, (&b"a/b"[..], QoS::AtLeastOnce));
            (publish.pkid, number(&publish))
        }
        other => panic!("expected PUBLISH, got {other:?}"),
    }
}

async fn acknowledge(peer: &mut Peer, pkid: u16, reason: PubAckReason) {
    let ack = PubAck {
        pkid,
        reason,
        properties: None,
    };
    peer.send(Packet::PubAck(ack)).await;
}

/// Acknowledges every message until the client disconnects; returns their numbers.
async fn acknowledge_all(mut peer: Peer) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        match peer.next().await {
            Packet::Publish(publish) => {
                seen.push(number(&publish));
                peer.acknowledge(publish.pkid).await;
            }
            Packet::Disconnect(_) => return seen,
            other => panic!("expected PUBLISH or DISCONNECT, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn sends_everything_once_and_in_order() {
    let broker = Broker::start().await;
    let publishing = tokio::spawn(publish(job(&broker, 70_000, 500)));
    let seen = acknowledge_all(accept(&broker, None).await).await;
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
    let broker = Broker::start().await;
    let job = job(&broker, 1000, 2);
    let limit = job.limit.clone();
    let publishing = tokio::spawn(publish(job));
    let mut peer = accept(&broker, None).await;
    let (first, second) = (message(&mut peer).await, message(&mut peer).await);
    limit.store(3, Ordering::Relaxed);
    acknowledge(&mut peer, first.0, PubAckReason::Success).await;
    acknowledge(&mut peer, second.0, PubAckReason::Success).await;
    assert_eq!(acknowledge_all(peer).await, [2]);
    let outcome = publishing.await.unwrap();
    assert_eq!((outcome.published, outcome.acked), (3, 3));
}

#[tokio::test]
async fn keeps_to_the_window_that_the_broker_asks_for() {
    let broker = Broker::start().await;
    let publishing = tokio::spawn(publish(job(&broker, 5, 500)));
    let mut peer = accept(&broker, Some(2)).await;
    let (first, _) = message(&mut peer).await;
    message(&mut peer).await;
    // Only an acknowledgement makes room: the next packet is not a third message.
    let third = timeout(Duration::from_millis(100), message(&mut peer)).await;
    assert!(third.is_err(), "{third:?}");
    acknowledge(&mut peer, first, PubAckReason::Success).await;
    let (pkid, seq) = message(&mut peer).await;
    assert_eq!(seq, 2);
    acknowledge(&mut peer, 2, PubAckReason::Success).await;
    acknowledge(&mut peer, pkid, PubAckReason::Success).await;
    assert_eq!(acknowledge_all(peer).await, [3, 4]);
    assert_eq!(publishing.await.unwrap().acked, 5);
}

#[tokio::test]
async fn a_lost_connection_repeats_exactly_what_was_not_acknowledged() {
    let broker = Broker::start().await;
    let publishing = tokio::spawn(publish(job(&broker, 6, 4)));
    let mut peer = accept(&broker, None).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(message(&mut peer).await.0);
    }
    acknowledge(&mut peer, ids[0], PubAckReason::Success).await;
    acknowledge(&mut peer, ids[2], PubAckReason::Success).await;
    // Its arrival shows that the acknowledgements were read.
    assert_eq!(message(&mut peer).await.1, 4);
    drop(peer);
    assert_eq!(
        acknowledge_all(accept(&broker, None).await).await,
        [1, 3, 4, 5]
    );
    let outcome = publishing.await.unwrap();
    assert_eq!(
        (outcome.published, outcome.acked, outcome.resent),
        (6, 6, 3)
    );
    assert_eq!((outcome.connects, outcome.error), (2, None));
}

#[tokio::test]
async fn a_connection_lost_after_the_last_acknowledgement_is_no_error() {
    let broker = Broker::start().await;
    let publishing = tokio::spawn(publish(job(&broker, 2, 1)));
    let mut peer = accept(&broker, None).await;
    for _ in 0..2 {
        let (pkid, _) = message(&mut peer).await;
        acknowledge(&mut peer, pkid, PubAckReason::Success).await;
    }
    drop((peer, broker));
    let outcome = publishing.await.unwrap();
    assert_eq!((outcome.acked, outcome.error), (2, None));
}

#[tokio::test]
async fn refusals_are_not_acknowledgements() {
    let broker = Broker::start().await;
    let publishing = tokio::spawn(publish(job(&broker, 3, 3)));
    let mut peer = accept(&broker, None).await;
    for reason in [
        PubAckReason::NotAuthorized,
        PubAckReason::NoMatchingSubscribers,
        PubAckReason::Success,
    ] {
        let (pkid, _) = message(&mut peer).await;
        acknowledge(&mut peer, pkid, reason).await;
    }
    let outcome = publishing.await.unwrap();
    assert_eq!(
        (outcome.refused, outcome.unmatched, outcome.acked),
        (1, 1, 2)
    );
}

#[tokio::test]
async fn gives_up_when_nothing_is_acknowledged() {
    let broker = Broker::start().await;
    let mut job = job(&broker, 3, 3);
    job.patience = Duration::from_millis(50);
    let publishing = tokio::spawn(publish(job));
    let mut peer = accept(&broker, None).await;
    message(&mut peer).await;
    let outcome = publishing.await.unwrap();
    assert_eq!((outcome.published, outcome.acked), (3, 0));
    assert_eq!(
        outcome.error.as_deref(),
        Some("3 messages are not acknowledged")
    );
}

#[tokio::test]
async fn an_acknowledgement_of_an_unsent_message_ends_the_connection_and_is_not_counted() {
    let broker = Broker::start().await;
    let publishing = tokio::spawn(publish(job(&broker, 1, 3)));
    let mut peer = accept(&broker, None).await;
    message(&mut peer).await;
    acknowledge(&mut peer, 99, PubAckReason::Success).await;
    assert_eq!(acknowledge_all(accept(&broker, None).await).await, [0]);
    let outcome = publishing.await.unwrap();
    assert_eq!((outcome.acked, outcome.connects), (1, 2));
}

/// The broker keeps the connection open: only its DISCONNECT, with a reason and without
/// properties as Mosquitto sends it, ends the connection.
#[tokio::test]
async fn a_disconnect_ends_the_connection_and_the_publisher_reconnects() {
    const SERVER_SHUTTING_DOWN: u8 = 0x8B;
    let broker = Broker::start().await;
    let publishing = tokio::spawn(publish(job(&broker, 1, 3)));
    let mut first = accept(&broker, None).await;
    message(&mut first).await;
    first.send_bytes(&[0xE0, 1, SERVER_SHUTTING_DOWN]).await;
    first.closed().await;
    let second = accept(&broker, None).await;
    assert_eq!(acknowledge_all(second).await, [0]);
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
