//! Subscriptions over a stream in memory, in paused time: seconds pass when both ends wait.

use rumqttc::v5::mqttbytes::v5::{SubscribeReasonCode, UnsubAckReason};
use testkit::mqtt_broker::Peer;
use tokio::io::DuplexStream;
use tokio::time::{sleep, timeout};

use super::tests::connection;
use super::*;

const GRANTED: SubscribeReasonCode = SubscribeReasonCode::Success(QoS::AtLeastOnce);
const REFUSED: SubscribeReasonCode = SubscribeReasonCode::NotAuthorized;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_string()).collect()
}

/// `count` filters.
fn filters(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("{number}/#")).collect()
}

/// A connection that asked for subscriptions, and its peer.
fn subscribing(wanted: &[String]) -> (BrokerConnection<DuplexStream>, Peer) {
    let (mut connection, stream) = connection(Protocol::V5);
    connection.subscribe(wanted, &[]);
    (connection, Peer::over(stream))
}

async fn next(
    connection: &mut BrokerConnection<DuplexStream>,
) -> Result<BrokerEvent, BrokerConnectionError> {
    std::future::poll_fn(|cx| connection.poll(cx, true)).await
}

/// The next event, while the broker does its part.
async fn while_broker(
    connection: &mut BrokerConnection<DuplexStream>,
    part: impl Future<Output = ()>,
) -> Result<BrokerEvent, BrokerConnectionError> {
    let (event, ()) = tokio::join!(next(connection), part);
    event
}

/// The error that ends the connection while the broker does its part, which has no end.
async fn failure(
    connection: &mut BrokerConnection<DuplexStream>,
    part: impl Future<Output = ()>,
) -> String {
    let failed = async {
        loop {
            if let Err(error) = next(connection).await {
                return error.to_string();
            }
        }
    };
    tokio::select! {
        error = failed => error,
        () = part => panic!("the connection did not end"),
    }
}

fn refused(connection: &BrokerConnection<DuplexStream>) -> Vec<String> {
    connection
        .refused()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_refused_filter_is_retried_alone_until_it_is_granted() {
    let (mut connection, mut peer) = subscribing(&texts(&["a/#", "b/#"]));
    let answering = async {
        let id = peer.subscription().await.pkid;
        peer.grant(id, vec![GRANTED, REFUSED]).await;
    };
    let event = while_broker(&mut connection, answering).await;
    assert!(matches!(event, Ok(BrokerEvent::Subscribed)), "{event:?}");
    for code in [REFUSED, REFUSED, GRANTED] {
        let expected = "the broker refused the subscription to b/#: NotAuthorized";
        assert_eq!(refused(&connection), [expected]);
        assert!(connection.is_subscribed());
        let answering = async {
            let asked = peer.subscription().await;
            let paths: Vec<_> = asked.filters.iter().map(|filter| &filter.path).collect();
            assert_eq!(paths, ["b/#"]);
            peer.grant(asked.pkid, vec![code]).await;
        };
        let event = while_broker(&mut connection, answering).await;
        assert!(matches!(event, Ok(BrokerEvent::Subscribed)), "{event:?}");
    }
    assert!(refused(&connection).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_filter_that_is_removed_is_not_retried() {
    let (mut connection, mut peer) = subscribing(&texts(&["a/#", "b/#"]));
    let answering = async {
        let id = peer.subscription().await.pkid;
        peer.grant(id, vec![REFUSED, REFUSED]).await;
    };
    while_broker(&mut connection, answering).await.unwrap();
    assert!(!connection.is_subscribed());
    connection.subscribe(&texts(&["c/#"]), &texts(&["a/#", "b/#"]));
    let answering = async {
        assert_eq!(peer.unsubscribe_all().await, texts(&["a/#", "b/#"]));
        assert_eq!(peer.grant_all().await, texts(&["c/#"]));
    };
    let event = while_broker(&mut connection, answering).await;
    assert!(matches!(event, Ok(BrokerEvent::Subscribed)), "{event:?}");
    assert!(connection.is_subscribed() && refused(&connection).is_empty());
    // Longer than the first retry would take.
    tokio::select! {
        event = next(&mut connection) => panic!("{event:?}"),
        () = peer.only_pings(5) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn requests_have_at_most_eight_filters_and_all_are_awaited() {
    let wanted = filters(17);
    let (mut connection, mut peer) = subscribing(&wanted);
    let answering = async {
        let mut asked = Vec::new();
        for size in [8, 8, 1] {
            let request = peer.subscription().await;
            assert_eq!(request.filters.len(), size);
            asked.push(request);
        }
        let all = asked.iter().flat_map(|request| &request.filters);
        assert!(all.map(|filter| &filter.path).eq(&wanted));
        // Two are answered before the message, the last behind it.
        for request in [&asked[1], &asked[0]] {
            peer.grant(request.pkid, vec![GRANTED; 8]).await;
        }
        peer.publish(1, "1/x", b"").await;
        peer.grant(asked[2].pkid, vec![GRANTED]).await;
    };
    let event = while_broker(&mut connection, answering).await;
    assert!(matches!(event, Ok(BrokerEvent::Publish(_))), "{event:?}");
    let event = next(&mut connection).await;
    assert!(matches!(event, Ok(BrokerEvent::Subscribed)), "{event:?}");

    connection.unsubscribe(&wanted);
    let answering = async {
        let mut gone = Vec::new();
        for size in [8, 8, 1] {
            let filters = peer.unsubscribe_all().await;
            assert_eq!(filters.len(), size);
            gone.extend(filters);
        }
        assert_eq!(gone, wanted);
    };
    let event = while_broker(&mut connection, answering).await;
    assert!(matches!(event, Ok(BrokerEvent::Unsubscribed)), "{event:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_request_ends_the_connection() {
    let (mut connection, mut peer) = subscribing(&texts(&["a/#"]));
    let silent = async {
        peer.subscription().await;
        peer.only_pings(10).await;
    };
    let error = failure(&mut connection, silent).await;
    assert_eq!(error, "no answer to SUBSCRIBE within 10 s");

    let (mut connection, mut peer) = subscribing(&[]);
    connection.unsubscribe(&texts(&["a/#"]));
    let silent = async {
        peer.unsubscription().await;
        peer.only_pings(10).await;
    };
    let error = failure(&mut connection, silent).await;
    assert_eq!(error, "no answer to UNSUBSCRIBE within 10 s");
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_be_late_behind_messages_but_not_forever() {
    let (mut connection, mut peer) = subscribing(&texts(&["a/#"]));
    let busy = async {
        peer.subscription().await;
        loop {
            peer.publish(1, "a/b", b"queued").await;
            sleep(Duration::from_secs(1)).await;
        }
    };
    let error = failure(&mut connection, busy).await;
    assert_eq!(error, "no answer to SUBSCRIBE within 60 s");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_not_awaited_while_nothing_may_be_read() {
    let (mut connection, mut peer) = subscribing(&texts(&["a/#"]));
    let paused = std::future::poll_fn(|cx| connection.poll(cx, false));
    let paused = timeout(Duration::from_secs(100), paused).await;
    assert!(paused.is_err(), "{paused:?}");
    let answering = async {
        peer.grant_all().await;
    };
    let event = while_broker(&mut connection, answering).await;
    assert!(matches!(event, Ok(BrokerEvent::Subscribed)), "{event:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_another_number_of_reason_codes_is_an_error() {
    let two = texts(&["a/#", "b/#"]);
    for codes in [1, 3] {
        let (mut connection, mut peer) = subscribing(&two);
        let answering = async {
            let id = peer.subscription().await.pkid;
            peer.grant(id, vec![GRANTED; codes]).await;
        };
        let error = while_broker(&mut connection, answering).await.unwrap_err();
        let expected =
            format!("the broker sent a malformed SUBACK ({codes} reason codes for 2 filters)");
        assert_eq!(error.to_string(), expected);
    }
    let (mut connection, mut peer) = subscribing(&[]);
    connection.unsubscribe(&two);
    let answering = async {
        let id = peer.unsubscription().await.pkid;
        peer.unsubscribed(id, vec![UnsubAckReason::Success]).await;
    };
    let error = while_broker(&mut connection, answering).await.unwrap_err();
    let expected = "the broker sent a malformed UNSUBACK (1 reason codes for 2 filters)";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_does_not_end_is_retried_before_the_end_is_reported() {
    let (mut connection, mut peer) = subscribing(&[]);
    connection.unsubscribe(&texts(&["a/#", "b/#"]));
    let answering = async {
        let id = peer.unsubscription().await.pkid;
        let reasons = vec![
            UnsubAckReason::NotAuthorized,
            UnsubAckReason::NoSubscriptionExisted,
        ];
        peer.unsubscribed(id, reasons).await;
    };
    let event = while_broker(&mut connection, answering).await;
    assert!(matches!(event, Ok(BrokerEvent::Subscribed)), "{event:?}");
    let expected = "the broker refused to end the subscription to a/#: NotAuthorized";
    assert_eq!(refused(&connection), [expected]);
    assert!(!connection.is_subscribed());
    let answering = async {
        assert_eq!(peer.unsubscribe_all().await, ["a/#"]);
    };
    let event = while_broker(&mut connection, answering).await;
    assert!(matches!(event, Ok(BrokerEvent::Unsubscribed)), "{event:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unsuback_of_3_1_1_has_no_reason_codes() {
    let (mut connection, mut stream) = connection(Protocol::V311);
    connection.unsubscribe(&texts(&["a/#"]));
    let answering = async {
        stream.write_all(&[0xB0, 2, 0, 1]).await.unwrap();
    };
    let event = while_broker(&mut connection, answering).await;
    assert!(matches!(event, Ok(BrokerEvent::Unsubscribed)), "{event:?}");
}
