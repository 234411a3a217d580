//! A link and scripted brokers, step by step.

use bytes::{Bytes, BytesMut};
use iot_service::config::HumanDuration;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Packet, SubscribeReasonCode,
};
use testkit::DEADLINE;
use testkit::mqtt_broker::{Broker as Scripted, Peer};

use super::*;

fn plan(filters: &[&str]) -> SessionPlan {
    SessionPlan {
        client_id: "bridge-1".into(),
        filters: texts(filters),
    }
}

fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(|text| (*text).to_string()).collect()
}

fn config(brokers: &[&Scripted]) -> MqttConfig {
    let address = |broker: &&Scripted| format!("mqtt://{}", broker.address());
    MqttConfig {
        brokers: brokers.iter().map(address).collect(),
        ..MqttConfig::default()
    }
}

/// What the link brings while the broker does its part.
async fn during<T>(link: &mut Link, part: impl Future<Output = T>) -> (T, Vec<LinkEvent>) {
    let (mut part, mut events) = (std::pin::pin!(part), Vec::new());
    loop {
        tokio::select! {
            biased;
            done = &mut part => return (done, events),
            event = link.next(true) => events.push(event),
        }
    }
}

async fn next(link: &mut Link) -> LinkEvent {
    let event = timeout(DEADLINE, link.next(true)).await;
    event.expect("an event")
}

/// A link that is up, and its peer.
async fn up(broker: &Scripted, config: &MqttConfig, filters: &[&str]) -> (Link, Peer) {
    let mut link = Link::new(config, plan(filters)).unwrap();
    let (peer, _) = during(&mut link, broker.accept_subscribed(false)).await;
    // Whether the answer was seen already is a matter of time.
    while link.subscribed.is_none() {
        next(&mut link).await;
    }
    (link, peer)
}

#[tokio::test]
async fn what_the_broker_grants_is_told() {
    let broker = Scripted::start().await;
    let mut link = Link::new(&config(&[&broker]), plan(&["a/#"])).unwrap();
    let granting = async move {
        let mut peer = broker.accept_connect().await;
        let mut properties = Bytes::from_static(&[
            19, // length
            33, 0, 100, // receive maximum
            36, 1, // maximum QoS
            39, 0, 1, 0, 0, // maximum packet size
            40, 1, 42, 0, // wildcards, but no shared subscriptions
            17, 0, 0, 14, 16, // session expiry
        ]);
        let properties = ConnAckProperties::read(&mut properties).unwrap();
        peer.send_connack(ConnAck {
            session_present: true,
            code: ConnectReturnCode::Success,
            properties,
        })
        .await;
        peer.grant_all().await;
        peer
    };
    let granted = tokio::spawn(granting);
    let LinkEvent::Connected {
        broker,
        resumed: true,
        granted: said,
    } = next(&mut link).await
    else {
        panic!("not connected");
    };
    assert!(broker.starts_with("mqtt://127.0.0.1:"), "{broker}");
    let expected = Granted {
        receive_maximum: Some(100),
        maximum_packet_size: Some(65_536),
        session_expiry: Some(Duration::from_secs(3600)),
        shared_subscriptions: Some(false),
        wildcard_subscriptions: Some(true),
        maximum_qos: Some(1),
        ..Granted::default()
    };
    assert_eq!(said, expected);
    assert!(matches!(next(&mut link).await, LinkEvent::Subscribed));
    drop(granted.await.unwrap());
}

#[tokio::test]
async fn what_has_arrived_is_ready_without_waiting() {
    let broker = Scripted::start().await;
    let (mut link, mut peer) = up(&broker, &config(&[&broker]), &["a/#"]).await;
    let mut batch = BytesMut::new();
    for id in 1..=100 {
        let mut publish = Publish::new("a/b", QoS::AtLeastOnce, vec![7; 100], None);
        publish.pkid = id;
        Packet::Publish(publish).write(&mut batch, None).unwrap();
    }
    peer.send_bytes(&batch).await;
    let mut ids = Vec::new();
    let mut waited = 0;
    while ids.len() < 100 {
        let event = match link.next_buffered() {
            Some(event) => event,
            None => {
                waited += 1;
                next(&mut link).await
            }
        };
        let LinkEvent::Publish(publish) = event else {
            panic!("{event:?}");
        };
        ids.push(publish.pkid);
        assert!(
            link.acknowledge(link.connection(), publish.pkid, publish.qos)
                .is_some()
        );
    }
    assert!(waited < 100, "one write came in {waited} reads");
    assert!(link.next_buffered().is_none());
    let (acknowledged, _) = during(&mut link, peer.acknowledgements(100)).await;
    assert_eq!(acknowledged, ids);
    assert!(
        link.acknowledge(link.connection() - 1, 1, QoS::AtLeastOnce)
            .is_none()
    );
}

#[tokio::test]
async fn the_subscription_is_told_before_the_messages_behind_it() {
    let broker = Scripted::start().await;
    let mut link = Link::new(&config(&[&broker]), plan(&["a/#"])).unwrap();
    let (_peer, mut events) = during(&mut link, async {
        let mut peer = broker.accept(false).await;
        let id = peer.subscription().await.pkid as u8;
        let suback = [0x90, 4, 0, id, 0, 1];
        let publish = [0x30, 4, 0, 1, b'a', 0];
        peer.send_bytes(&[&suback[..], &publish].concat()).await;
        peer
    })
    .await;
    while events.len() < 3 {
        events.push(next(&mut link).await);
    }
    assert!(matches!(events[1], LinkEvent::Subscribed), "{events:?}");
    assert!(matches!(events[2], LinkEvent::Publish(_)), "{events:?}");
}

#[tokio::test]
async fn nothing_is_read_while_it_may_not_and_acknowledgements_go_out() {
    let broker = Scripted::start().await;
    let (mut link, mut peer) = up(&broker, &config(&[&broker]), &["a/#"]).await;
    peer.publish(1, "a/b", b"one").await;
    assert!(matches!(next(&mut link).await, LinkEvent::Publish(_)));
    peer.publish(2, "a/b", b"two").await;
    link.acknowledge(link.connection(), 1, QoS::AtLeastOnce);
    let acknowledged = tokio::select! {
        ids = peer.acknowledgements(1) => ids,
        event = link.next(false) => panic!("{event:?}"),
    };
    assert_eq!(acknowledged, [1]);
    assert!(matches!(next(&mut link).await, LinkEvent::Publish(two) if two.pkid == 2));
}

#[tokio::test]
async fn leaving_ends_the_subscription_here_and_on_later_connections() {
    let broker = Scripted::start().await;
    let (mut link, mut peer) = up(&broker, &config(&[&broker]), &["a/#", "b/#"]).await;
    peer.publish(1, "a/b", b"queued").await;
    link.leave();
    let (left, mut events) = during(&mut link, peer.unsubscribe_all()).await;
    assert_eq!(left, ["a/#", "b/#"]);
    while events.len() < 2 {
        events.push(next(&mut link).await);
    }
    assert!(matches!(events[0], LinkEvent::Publish(_)), "{events:?}");
    assert!(matches!(events[1], LinkEvent::Unsubscribed), "{events:?}");

    drop(peer);
    assert!(matches!(next(&mut link).await, LinkEvent::Lost { .. }));
    let (left, _) = during(&mut link, async {
        broker.accept(true).await.unsubscribe_all().await
    })
    .await;
    assert_eq!(left, ["a/#", "b/#"]);
}

#[tokio::test]
async fn a_probe_is_answered_after_what_the_broker_had() {
    let broker = Scripted::start().await;
    let (mut link, mut peer) = up(&broker, &config(&[&broker]), &["a/#"]).await;
    assert!(link.probe());
    let ((), mut events) = during(&mut link, async {
        peer.publish(1, "a/b", b"queued").await;
        peer.only_pings(1).await;
    })
    .await;
    while events.len() < 2 {
        events.push(next(&mut link).await);
    }
    assert!(matches!(events[0], LinkEvent::Publish(_)), "{events:?}");
    assert!(matches!(events[1], LinkEvent::Pong), "{events:?}");
    // Pings that keep the connection alive are nobody's business.
    let ((), events) = during(&mut link, peer.only_pings(1)).await;
    assert!(events.is_empty(), "{events:?}");
    drop(peer);
    link.close(false).await;
    assert!(!link.probe(), "without a connection there is no answer");
}

#[tokio::test]
async fn filters_change_on_this_connection_and_on_later_ones() {
    let broker = Scripted::start().await;
    let (mut link, mut peer) = up(&broker, &config(&[&broker]), &["a/#", "b/#"]).await;
    link.set_filters(texts(&["b/#", "c/#"]));
    let (changed, mut events) = during(&mut link, async {
        (peer.unsubscribe_all().await, peer.grant_all().await)
    })
    .await;
    assert_eq!(changed, (texts(&["a/#"]), texts(&["c/#"])));
    if events.is_empty() {
        events.push(next(&mut link).await);
    }
    assert!(matches!(events[..], [LinkEvent::Subscribed]), "{events:?}");

    // The broker may have kept its session from before.
    drop(peer);
    let (changed, _) = during(&mut link, async {
        let mut peer = broker.accept(true).await;
        (peer.unsubscribe_all().await, peer.grant_all().await)
    })
    .await;
    assert_eq!(changed, (texts(&["a/#"]), texts(&["b/#", "c/#"])));
}

#[tokio::test]
async fn the_next_broker_takes_over_and_the_preferred_one_is_returned_to() {
    // Nobody listens at the preferred address, until later.
    let (gone, backup) = (Scripted::start().await, Scripted::start().await);
    let mut config = config(&[&gone, &backup]);
    config.fail_back = HumanDuration::from_secs(1);
    let address = gone.address();
    drop(gone);
    let mut link = Link::new(&config, plan(&["a/#"])).unwrap();
    let (mut peer, events) = during(&mut link, backup.accept_subscribed(false)).await;
    assert!(
        matches!(&events[0], LinkEvent::Lost { broker, .. } if **broker == *config.brokers[0]),
        "{events:?}"
    );
    while link.subscribed.is_none() {
        next(&mut link).await;
    }

    let preferred = Scripted::start_at(address).await;
    let scouted = tokio::spawn(async move {
        // The look, which is no MQTT.
        let looked = preferred.expect_probe().await;
        (preferred, looked)
    });
    assert!(matches!(next(&mut link).await, LinkEvent::PreferredBack));
    let (preferred, ()) = scouted.await.unwrap();

    // Until the owner has drained, all goes on.
    peer.publish(1, "a/b", b"last").await;
    assert!(matches!(next(&mut link).await, LinkEvent::Publish(_)));
    assert!(
        link.acknowledge(link.connection(), 1, QoS::AtLeastOnce)
            .is_some()
    );
    link.switch_back();
    assert!(
        link.acknowledge(link.connection(), 1, QoS::AtLeastOnce)
            .is_none()
    );
    let switching = async {
        assert_eq!(peer.acknowledgements(1).await, [1]);
        assert!(matches!(peer.next().await, Packet::Disconnect(_)));
        peer.closed().await;
        preferred.accept_subscribed(true).await
    };
    let (_peer, mut events) = during(&mut link, switching).await;
    if events.is_empty() {
        events.push(next(&mut link).await);
    }
    assert!(
        matches!(&events[0], LinkEvent::Connected { broker, .. } if **broker == *config.brokers[0]),
        "{events:?}"
    );
}

/// Answers the next SUBSCRIBE with these reason codes.
async fn answer(peer: &mut Peer, codes: Vec<SubscribeReasonCode>) {
    let id = peer.subscription().await.pkid;
    peer.grant(id, codes).await;
}

const GRANTED: SubscribeReasonCode = SubscribeReasonCode::Success(QoS::AtLeastOnce);

#[tokio::test]
async fn a_refused_filter_ends_neither_the_connection_nor_other_subscriptions() {
    let broker = Scripted::start().await;
    let mut link = Link::new(&config(&[&broker]), plan(&["a/#", "$share/g/b"])).unwrap();
    let refusing = async {
        let mut peer = broker.accept(false).await;
        answer(&mut peer, vec![GRANTED, SubscribeReasonCode::NotAuthorized]).await;
        peer.publish(1, "a/b", b"flows").await;
        peer
    };
    let (_peer, mut events) = during(&mut link, refusing).await;
    while events.len() < 3 {
        events.push(next(&mut link).await);
    }
    assert!(matches!(events[1], LinkEvent::Subscribed), "{events:?}");
    assert!(matches!(events[2], LinkEvent::Publish(_)), "{events:?}");
    let refused: Vec<String> = link.refused().iter().map(ToString::to_string).collect();
    let said = "the broker refused the subscription to $share/g/b: NotAuthorized";
    assert_eq!(refused, [said]);
    assert!(link.is_subscribed() && link.subscribed.is_some());
}

#[tokio::test]
async fn a_connection_whose_filters_are_all_refused_is_kept_and_carries_nothing() {
    let broker = Scripted::start().await;
    let mut link = Link::new(&config(&[&broker]), plan(&["a/#"])).unwrap();
    let refusing = async {
        let mut peer = broker.accept(false).await;
        answer(&mut peer, vec![SubscribeReasonCode::QuotaExceeded]).await;
        peer
    };
    let (mut peer, mut events) = during(&mut link, refusing).await;
    while events.len() < 2 {
        events.push(next(&mut link).await);
    }
    assert!(matches!(events[1], LinkEvent::Subscribed), "{events:?}");
    assert!(!link.is_subscribed() && link.subscribed.is_none());
    assert_eq!(link.refused().len(), 1);
    assert!(link.probe());
    let ((), mut events) = during(&mut link, peer.only_pings(1)).await;
    if events.is_empty() {
        events.push(next(&mut link).await);
    }
    assert!(matches!(events[..], [LinkEvent::Pong]), "{events:?}");
}

#[tokio::test]
async fn an_answer_to_fewer_filters_fails_over_to_the_next_broker() {
    let (strange, backup) = (Scripted::start().await, Scripted::start().await);
    let config = config(&[&strange, &backup]);
    let mut link = Link::new(&config, plan(&["a/#", "b/#"])).unwrap();
    let answering = async {
        let mut peer = strange.accept(false).await;
        answer(&mut peer, vec![GRANTED]).await;
        backup.accept_subscribed(false).await
    };
    let (_peer, events) = during(&mut link, answering).await;
    let LinkEvent::Lost { error, .. } = &events[1] else {
        panic!("{events:?}");
    };
    let said = "the broker sent a malformed SUBACK (1 reason codes for 2 filters)";
    assert_eq!(error.to_string(), said);
}

#[tokio::test]
async fn the_password_file_is_read_at_every_connection() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let broker = Scripted::start().await;
    let mut config = config(&[&broker]);
    config.username = "bridge".into();
    config.password_file = file.to_str().unwrap().into();
    let mut link = Link::new(&config, plan(&["a/#"])).unwrap();
    for password in ["first", "second"] {
        let (peer, _) = during(&mut link, broker.accept(false)).await;
        let login = peer.login.unwrap();
        assert_eq!((&*login.username, &*login.password), ("bridge", password));
        std::fs::write(&file, "second").unwrap();
    }
    std::fs::remove_file(&file).unwrap();
    let error = loop {
        if let LinkEvent::Lost { error, .. } = next(&mut link).await
            && let BrokerConnectionError::PasswordFile(_) = error
        {
            break error.to_string();
        }
    };
    assert!(error.contains("mqtt.password_file"), "{error}");
}

#[tokio::test]
async fn the_session_is_kept_or_ended_as_asked() {
    for (end, expiry) in [(false, None), (true, Some(0))] {
        let broker = Scripted::start().await;
        let (mut link, mut peer) = up(&broker, &config(&[&broker]), &["a/#"]).await;
        let closed = tokio::spawn(async move { link.close(end).await });
        let Packet::Disconnect(goodbye) = peer.next().await else {
            panic!("expected DISCONNECT");
        };
        let said = goodbye.properties.and_then(|p| p.session_expiry_interval);
        assert_eq!(said, expiry);
        peer.closed().await;
        closed.await.unwrap();
    }
}

#[tokio::test]
async fn with_3_1_1_a_session_is_ended_by_a_clean_one() {
    let broker = Scripted::start().await;
    let mut config = config(&[&broker]);
    config.protocol = Protocol::V311;
    let (mut link, mut peer) = up(&broker, &config, &["a/#"]).await;
    assert_eq!(peer.version, 4);
    assert!(!peer.connect.as_ref().unwrap().clean_start);
    peer.publish(3, "a/b", b"payload").await;
    let LinkEvent::Publish(publish) = next(&mut link).await else {
        panic!("expected a message");
    };
    assert_eq!(&publish.payload[..], b"payload");
    link.acknowledge(link.connection(), publish.pkid, publish.qos);
    let closed = tokio::spawn(async move { link.close(true).await });
    assert_eq!(peer.acknowledgements(1).await, [3]);
    assert!(matches!(peer.next().await, Packet::Disconnect(_)));
    peer.closed().await;
    let mut peer = broker.accept(false).await;
    assert!(peer.connect.as_ref().unwrap().clean_start);
    assert!(matches!(peer.next().await, Packet::Disconnect(_)));
    peer.closed().await;
    closed.await.unwrap();
}

#[tokio::test]
async fn a_broker_of_another_version_is_told_with_the_setting() {
    let broker = Scripted::start().await;
    let mut link = Link::new(&config(&[&broker]), plan(&["a/#"])).unwrap();
    let answers: [&[u8]; 3] = [&[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0], &[]];
    for answer in answers {
        let refusing = async { broker.accept_connect().await.send_bytes(answer).await };
        let ((), mut events) = during(&mut link, refusing).await;
        if events.is_empty() {
            events.push(next(&mut link).await);
        }
        let LinkEvent::Lost { error, .. } = &events[0] else {
            panic!("{events:?}");
        };
        assert!(error.to_string().contains("mqtt.protocol"), "{error}");
    }
}

#[tokio::test]
async fn a_session_that_was_taken_over_says_so() {
    let broker = Scripted::start().await;
    let (mut link, mut peer) = up(&broker, &config(&[&broker]), &["a/#"]).await;
    // As Mosquitto sends it: a reason without properties.
    peer.send_bytes(&[0xE0, 1, 0x8E]).await;
    let LinkEvent::Lost { error, .. } = next(&mut link).await else {
        panic!("expected the end");
    };
    assert!(matches!(error, BrokerConnectionError::TakenOver), "{error}");
}
